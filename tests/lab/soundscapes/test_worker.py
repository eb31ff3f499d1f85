"""A clip depends on its seed, subset and number alone, and is never there without its events."""

import numpy as np
import pytest

from lab.soundscapes import layout, worker
from lab.soundscapes.augmentation import ROOM, AugmentedSounds
from lab.soundscapes.mixing import CLIP_SAMPLES, IN_DOMAIN, TEST, TRAINING
from lab.soundscapes.soundbank import ParametricSounds
from lab.soundscapes.worker import make_clip

SOURCES = {part: ParametricSounds(1.0) for part in ("train", "validation", "test")}


def made(out, name="strong", index=0, seed=0):
    """Audio and rows of a clip, as bytes."""
    make_clip((name, index), out, seed, SOURCES, augment=False, density=1.0)
    subset = layout.SUBSETS[name]
    audio = out / subset.audio / subset.filename(index)
    return audio.read_bytes(), layout.rows_path(out, subset, index).read_bytes()


def test_the_same_clip_whatever_was_made_before(tmp_path):
    first = made(tmp_path / "a", index=3)
    np.random.seed(5)
    made(tmp_path / "b", index=2)
    made(tmp_path / "b", "weak", 3)
    assert made(tmp_path / "b", index=3) == first


def test_seed_subset_and_number_each_make_another_clip(tmp_path):
    other = [made(tmp_path, index=1), made(tmp_path, "validation"), made(tmp_path / "b", seed=1)]
    clips = [made(tmp_path), *other]
    assert len({audio for audio, _ in clips}) == len({events for _, events in clips}) == 4


@pytest.fixture
def requests(monkeypatch):
    """What clips are made of."""
    calls = []

    def record(source, rng, conditions, empty, density):
        calls.append((isinstance(source, AugmentedSounds), conditions, density))
        return np.zeros(CLIP_SAMPLES), []

    monkeypatch.setattr(worker, "soundscape", record)
    return calls


def test_half_of_the_augmented_clips_are_in_a_room(tmp_path, requests):
    for index in range(100):
        make_clip(("strong", index), tmp_path, 0, SOURCES, augment=True, density=2.0)
    rooms = [conditions.reverberation for _, conditions, _ in requests]
    assert 35 < rooms.count(ROOM) < 65
    assert rooms.count(None) == 100 - rooms.count(ROOM)
    assert {(augmented, density) for augmented, _, density in requests} == {(True, 2.0)}
    requests.clear()
    for name in ("validation", "test"):
        make_clip((name, 0), tmp_path, 0, SOURCES, augment=True, density=2.0)
    assert requests == [(False, TRAINING, 1.0), (False, TEST, 1.0)]


def test_clips_can_be_in_the_domain_of_the_test_clips(tmp_path, requests):
    for name in ("strong", "weak", "unlabelled", "validation", "test"):
        for which in ("weak", "all"):
            make_clip((name, 0), tmp_path, 0, SOURCES, False, 1.0, in_domain=which)
    conditions = [c for _, c, _ in requests]
    assert conditions[::2] == [TRAINING, IN_DOMAIN, IN_DOMAIN, TRAINING, TEST]
    assert conditions[1::2] == [IN_DOMAIN, IN_DOMAIN, IN_DOMAIN, IN_DOMAIN, TEST]
    requests.clear()
    for index in range(20):
        make_clip(("weak", index), tmp_path, 0, SOURCES, True, 1.0, in_domain="weak")
    assert requests == [(True, IN_DOMAIN, 1.0)] * 20  # no second room
