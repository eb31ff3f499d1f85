import io

import numpy as np
import pandas as pd
import soundfile

from lab.data import annotations
from lab.files import write_whole
from lab.soundscapes import layout
from lab.soundscapes.mixing import Event

EVENTS = [
    [Event(0.5, 1.25, "Dog"), Event(1.0, 3.0, "Cat"), Event(4.0, 5.0, "Dog")],
    [Event(0.0, 10.0, "Frying")],
]


def test_wav_is_16_khz_mono_16_bit_and_lossless():
    audio = np.arange(-32768, 32768).astype("<i2")
    read, rate = soundfile.read(io.BytesIO(layout.wav_bytes(audio)), dtype="int16")
    assert rate == 16000
    assert (read == audio).all()


def test_strong_table_is_the_official_one(tmp_path):
    path = tmp_path / "soundscapes.tsv"
    path.write_bytes(layout.table_bytes(layout.SUBSETS["strong"], EVENTS))
    table = annotations.read_strong_tsv(path)
    assert list(table.columns) == ["filename", "onset", "offset", "event_label"]
    assert path.read_text().splitlines()[1] == "strong_00000.wav\t0.500\t1.250\tDog"
    assert table.filename.nunique() == 2
    assert len(table) == 4


def test_weak_table_names_each_class_of_a_clip_once(tmp_path):
    path = tmp_path / "weak.tsv"
    path.write_bytes(layout.table_bytes(layout.SUBSETS["weak"], EVENTS))
    table = pd.read_csv(path, sep="\t")
    assert list(table.event_labels) == ["Cat,Dog", "Frying"]
    assert len(annotations.read_weak_tsv(path)) == 2


def test_durations_table_lists_every_clip(tmp_path):
    path = tmp_path / "durations.tsv"
    path.write_bytes(layout.durations_bytes(layout.SUBSETS["test"], 3))
    table = annotations.read_durations(path)
    assert list(table.filename) == [f"test_{i:05d}.wav" for i in range(3)]
    assert (table.duration == 10).all()


def test_annotations_survive_writing_and_reading(tmp_path):
    path = tmp_path / "clip.json"
    write_whole(path, layout.annotation_bytes(EVENTS[0]))
    assert layout.read_annotation(path) == EVENTS[0]


def test_filenames_differ_between_subsets():
    names = {subset.filename(3) for subset in layout.SUBSETS.values()}
    numbers = {subset.number for subset in layout.SUBSETS.values()}
    assert len(names) == len(numbers) == len(layout.SUBSETS) == 5
