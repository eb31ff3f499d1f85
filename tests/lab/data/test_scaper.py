"""Scaper's clips; the `desed` package is an extra that few have installed."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import soundfile

from lab.data.annotations import read_strong_tsv
from lab.data.scaper import generate_clips
from lab.errors import InputError


@pytest.fixture
def soundbank(tmp_path):
    """Noises of three classes, one of them without its onset, and a background."""
    rng = np.random.default_rng(0)
    names = ("foreground/Dog", "foreground/Cat", "foreground/Speech_nOn", "background/room")
    for seconds, name in enumerate(names, 1):
        path = tmp_path / "soundbank" / name
        path.mkdir(parents=True)
        noise = 0.1 * rng.standard_normal(seconds * 16000 * (10 if "room" in name else 1))
        soundfile.write(path / "noise.wav", noise, 16000)
    return tmp_path / "soundbank"


@pytest.mark.skipif(importlib.util.find_spec("desed") is None, reason="desed is not installed")
def test_clips_go_on_and_come_out_the_same(soundbank, tmp_path):
    def generate(name, count):
        generate_clips(tmp_path / name, tmp_path / f"{name}.tsv", soundbank, count, processes=1)
        return [path.read_bytes() for path in sorted((tmp_path / name).glob("*.wav"))]

    clips = generate("whole", 6)
    assert len(set(clips)) == 6
    generate("stopped", 2)
    (tmp_path / "stopped" / "1.jams").unlink()
    kept = (tmp_path / "stopped" / "0.wav").stat().st_mtime_ns
    assert generate("stopped", 6) == clips
    assert (tmp_path / "stopped" / "0.wav").stat().st_mtime_ns == kept
    table = read_strong_tsv(tmp_path / "whole.tsv")
    pd.testing.assert_frame_equal(table, read_strong_tsv(tmp_path / "stopped.tsv"))
    assert set(table["filename"]) == {f"{number}.wav" for number in range(6)}
    assert set(table["event_label"]) == {"Dog", "Cat", "Speech"}
    # The classes take turns.
    for number, label in enumerate(["Cat", "Dog", "Speech"] * 2):
        assert label in set(table[table["filename"] == f"{number}.wav"]["event_label"])
    for path in (tmp_path / "whole").glob("*.wav"):
        assert soundfile.info(path).frames == 160000


@pytest.mark.skipif(importlib.util.find_spec("desed") is None, reason="desed is not installed")
def test_a_soundbank_that_is_none_is_a_sentence(soundbank, tmp_path):
    (soundbank / "background" / "room" / "noise.wav").unlink()
    (soundbank / "background" / "room").rmdir()
    with pytest.raises(InputError, match="background holds no folders of sounds"):
        generate_clips(tmp_path / "a", tmp_path / "a.tsv", soundbank, 1)
