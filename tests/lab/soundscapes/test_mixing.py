import functools

import numpy as np
import pytest

from lab.soundscapes.augmentation import ROOM, AugmentedSounds
from lab.soundscapes.mixing import (
    CLIP_SAMPLES,
    TEST,
    TRAINING,
    Conditions,
    room_response,
    soundscape,
)
from lab.soundscapes.soundbank import ParametricSounds, Soundbank
from lab.soundscapes.waves import RATE, fade, loudness, noise


class Bursts(Soundbank):
    """Noise bursts in a still room, so that labels can be checked against the audio."""

    def events(self, label, seconds, rng):
        finite = [min(wanted, 11.0) for wanted in seconds]
        burst = [fade(noise(round(s * RATE), rng), 0.002, 0.002) for s in finite]
        silence = np.zeros(3000, dtype=np.float32)
        return [np.concatenate([silence, wave, silence]) for wave in burst]

    def background(self, seconds, rng):
        return noise(round(seconds * RATE), rng)


BANKS = [
    pytest.param(Bursts(), id="as recorded"),
    pytest.param(AugmentedSounds(Bursts()), id="augmented"),
]


@functools.lru_cache(maxsize=None)
def clips(conditions, count=15, bank=None):
    bank = bank or ParametricSounds(1.0)
    return [soundscape(bank, np.random.default_rng(i), conditions) for i in range(count)]


@pytest.mark.parametrize("conditions", [TRAINING, TEST], ids=["training", "test"])
def test_clips_hold_ten_seconds_of_audio_and_labelled_events(conditions):
    for audio, events in clips(conditions):
        assert audio.shape == (CLIP_SAMPLES,)
        assert audio.dtype == np.dtype("<i2")
        assert 100 < np.abs(audio.astype(int)).max() <= 0.95 * 32767 + 1
        assert events
        assert events == sorted(events)
        for event in events:
            assert 0 <= event.onset < event.offset <= 10
        for label in {event.event_label for event in events}:
            same = [event for event in events if event.event_label == label]
            for before, after in zip(same, same[1:]):
                assert after.onset - before.offset >= 0.149


@pytest.mark.parametrize("bank", BANKS)
def test_labels_are_tight(bank):
    """Over a still background, what is loud is labelled and what is labelled is loud."""
    for audio, events in clips(Conditions(snr=(20, 20), level=(-50, -50)), 30, bank):
        level = loudness(audio.astype(np.float32) / 32768)
        loud = level > np.percentile(level, 5) + 8
        if np.percentile(level, 5) > level.max() - 12:
            continue  # an event fills the clip, so that there is no background to compare with
        labelled = np.zeros(len(level), dtype=bool)
        for event in events:
            assert event.offset - event.onset >= 0.24 or event.offset == 10 or event.onset == 0
            labelled[round(event.onset * 100) : round(event.offset * 100)] = True
        assert np.mean(loud != labelled) < 0.015


def test_labels_hold_the_tail_of_a_room():
    conditions = Conditions(snr=(25, 25), level=(-50, -50), reverberation=ROOM)
    inside, outside = [], []
    for audio, events in clips(conditions, 30, AugmentedSounds(Bursts())):
        level = loudness(audio.astype(np.float32) / 32768)
        labelled = np.zeros(len(level), dtype=bool)
        for event in events:
            labelled[int(event.onset * 100) : int(np.ceil(event.offset * 100))] = True
        if labelled.mean() < 0.9:
            floor = np.median(level[~labelled])
            inside.append(np.mean(level[labelled] > floor + 3))
            outside.append(np.max(level[~labelled]) - floor)
    assert len(inside) > 10
    assert np.mean(inside) > 0.5  # the end of a tail lies up to 10 dB under the background
    assert max(outside) < 4


@pytest.mark.parametrize("bank", BANKS)
def test_the_level_over_the_background_is_the_one_asked_for(bank):
    for snr in (6, 20):
        conditions = Conditions(snr=(snr, snr), level=(-60, -60))
        result = []
        for audio, events in clips(conditions, 25, bank):
            if len({event.event_label for event in events}) > 1:
                continue
            inside = np.zeros(CLIP_SAMPLES, dtype=bool)
            for event in events:
                inside[int(event.onset * RATE) : int(event.offset * RATE)] = True
            if 0.02 < inside.mean() < 0.98:
                ratio = np.mean(audio[inside] ** 2.0) / np.mean(audio[~inside] ** 2.0)
                result.append(10 * np.log10(ratio - 1))
        assert np.median(result) == pytest.approx(snr, abs=0.7)


def test_a_clip_can_be_empty():
    audio, events = soundscape(
        ParametricSounds(1.0), np.random.default_rng(0), TRAINING, empty=True
    )
    assert events == []
    assert np.abs(audio).max() > 0


def test_test_clips_have_less_bass_and_treble():
    def edges(conditions):
        total = np.zeros(CLIP_SAMPLES // 2 + 1)
        for audio, _ in clips(conditions):
            power = np.abs(np.fft.rfft(audio.astype(float))) ** 2
            total += power / power.sum()
        return total[:400].sum(), total[75000:].sum()

    training, test = edges(TRAINING), edges(TEST)
    assert test[0] < 0.7 * training[0]
    assert test[1] < 0.7 * training[1]


def test_room_response_decays_by_60_db():
    response = room_response(np.random.default_rng(0), 0.5)
    assert response[0] == 1
    assert len(response) == 8000
    tail = loudness(response[160:])
    slope = np.polyfit(np.arange(len(tail)) / 100, tail, 1)[0]
    assert -60 / slope == pytest.approx(0.5, rel=0.1)
