import numpy as np
import pytest
import soundfile

from dcase_coherence.data.desed import CLASSES
from dcase_coherence.soundscapes import worker
from dcase_coherence.soundscapes.augmentation import ROOM, AugmentedSounds
from dcase_coherence.soundscapes.mixing import CLIP_SAMPLES, TEST, TRAINING
from dcase_coherence.soundscapes.waves import RATE, noise
from dcase_coherence.soundscapes.worker import Bank, Banks, make_clip, open_bank


def test_no_recording_is_held_out_where_validation_has_its_own(tmp_path):
    for folder in [f"foreground/{label}" for label in CLASSES] + ["background/room"]:
        (tmp_path / folder).mkdir(parents=True)
        for i in range(10):
            wave = 0.1 * noise(RATE, np.random.default_rng(i))
            soundfile.write(tmp_path / folder / f"{i}.wav", wave, RATE)
    bank = Bank(tmp_path, "")
    for banks, train, validation in ((Banks(bank), 8, 2), (Banks(bank, bank), 10, 10)):
        assert len(open_bank("train", banks).files["Dog"]) == train
        assert len(open_bank("validation", banks).files["Dog"]) == validation
        assert len(open_bank("test", banks).files["Dog"]) == 10


@pytest.fixture
def asked(monkeypatch):
    """What clips are made of."""
    calls = []

    def record(source, rng, conditions, empty, density):
        calls.append((isinstance(source, AugmentedSounds), conditions, density))
        return np.zeros(CLIP_SAMPLES), []

    monkeypatch.setattr(worker, "soundscape", record)
    return calls


def test_half_of_the_augmented_clips_are_in_a_room(tmp_path, asked):
    for index in range(100):
        make_clip(("strong", index), tmp_path, 0, Banks(), augment=True, density=2.0)
    rooms = [conditions.reverberation for _, conditions, _ in asked]
    assert 35 < rooms.count(ROOM) < 65
    assert rooms.count(None) == 100 - rooms.count(ROOM)
    assert {(augmented, density) for augmented, _, density in asked} == {(True, 2.0)}


def test_validation_and_test_clips_are_never_augmented(tmp_path, asked):
    for name in ("validation", "test"):
        for index in range(8):
            make_clip((name, index), tmp_path, 0, Banks(), augment=True, density=2.0)
    assert asked == [(False, TRAINING, 1.0)] * 8 + [(False, TEST, 1.0)] * 8
