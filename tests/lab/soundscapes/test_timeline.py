from collections import Counter

import numpy as np
import pytest

from lab.data.desed import CLASSES
from lab.soundscapes.timeline import (
    CLIP_SECONDS,
    MOST_REPEATS,
    OTHER,
    PROFILES,
    SHORTEST_EVENT,
    SHORTEST_PAUSE,
    draw_classes,
    draw_durations,
    lay_out,
)


def test_classes_are_distinct_and_all_occur():
    rng = np.random.default_rng(0)
    draws = [draw_classes(rng) for _ in range(600)]
    assert all(1 <= len(draw) <= 3 and len(set(draw)) == len(draw) for draw in draws)
    textures = [sum(PROFILES[label].texture for label in draw) for draw in draws]
    assert max(textures) == 1
    counts = Counter(label for draw in draws for label in draw)
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) > 30
    assert counts["Speech"] == max(counts.values())
    assert Counter(map(len, draws))[1] == pytest.approx(300, abs=60)


def test_density_multiplies_the_number_of_classes():
    counts = {}
    for density in (1.0, 1.5, 3.0):
        rng = np.random.default_rng(0)
        draws = [draw_classes(rng, density) for _ in range(600)]
        assert all(len(set(draw)) == len(draw) <= 5 for draw in draws)
        assert max(sum(PROFILES[label].texture for label in draw) for draw in draws) == 1
        counts[density] = np.mean([len(draw) for draw in draws])
    assert counts[1.5] == pytest.approx(1.5 * counts[1.0], rel=0.05)
    assert 2.4 * counts[1.0] < counts[3.0] <= 5


def test_durations_follow_the_profile():
    rng = np.random.default_rng(0)
    for label, profile in PROFILES.items():
        draws = [draw_durations(label, rng) for _ in range(800)]
        filling = sum(np.isinf(draw[0]) for draw in draws) / 800
        assert filling == pytest.approx(profile.filling, abs=0.07)
        assert max(map(len, draws)) <= MOST_REPEATS
        finite = [seconds for draw in draws for seconds in draw if np.isfinite(seconds)]
        assert min(finite) >= SHORTEST_EVENT
        assert max(finite) < CLIP_SECONDS
        assert np.median(finite) == pytest.approx(profile.seconds, rel=0.25)


@pytest.mark.parametrize("label", CLASSES)
def test_events_of_a_class_are_apart_and_within_the_clip(label):
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = list(rng.uniform(0.25, 6, rng.integers(1, 9)))
        onsets = lay_out(label, lengths, rng)
        assert 1 <= len(onsets) <= len(lengths)
        for onset, length, following in zip(onsets, lengths, onsets[1:]):
            assert following - (onset + length) >= SHORTEST_PAUSE - 1e-9
        visible = [min(CLIP_SECONDS, a + n) - max(0, a) for a, n in zip(onsets, lengths)]
        assert min(visible) > 0.15
        if not PROFILES[label].texture:
            assert visible == pytest.approx(lengths[: len(onsets)])


def test_a_sound_longer_than_the_clip_fills_it():
    (onset,) = lay_out("Frying", [12.5], np.random.default_rng(0))
    assert CLIP_SECONDS - 12.5 <= onset <= 0


def test_classes_of_any_names_are_drawn_alike():
    names = ["car_horn", "siren", "drill"]
    rng = np.random.default_rng(0)
    draws = [draw_classes(rng, 3.0, names) for _ in range(300)]
    # Three are all there are.
    assert all(1 <= len(draw) == len(set(draw)) <= 3 for draw in draws)
    counts = Counter(draw[0] for draw in draws)
    assert sorted(counts) == sorted(names)
    assert min(counts.values()) > 60
    assert draw_classes(rng, 3.0, ["siren"]) == ["siren"]
    # Two textures never meet: the second class is the other one, or none.
    two = [draw_classes(rng, 3.0, ["Frying", "Blender", "siren"]) for _ in range(50)]
    assert not any({"Frying", "Blender"} <= set(draw) for draw in two)


def test_classes_of_any_names_have_events_with_pauses():
    rng = np.random.default_rng(0)
    draws = [draw_durations("siren", rng) for _ in range(600)]
    assert all(np.isfinite(draw).all() for draw in draws)
    assert np.mean([len(draw) for draw in draws]) == pytest.approx(OTHER.repeats, rel=0.1)
    onsets = lay_out("siren", [1.0, 1.0, 1.0], rng)
    assert min(np.diff(onsets)) >= 1.0 + SHORTEST_PAUSE
