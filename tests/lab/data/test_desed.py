"""The classes and the folders are the official ones."""

from pathlib import Path

from lab.data.desed import CLASSES, official_layout


def test_the_classes_are_ten_in_order():
    assert list(CLASSES) == sorted(set(CLASSES))
    assert len(CLASSES) == 10


def test_the_layout_is_that_of_the_official_configuration():
    paths = official_layout("d")
    assert paths["synth_folder"] == "d/audio/train/synthetic21_train/soundscapes_16k"
    assert paths["synth_folder_44k"] == "d/audio/train/synthetic21_train/soundscapes"
    assert paths["test_dur"] == "d/metadata/validation/validation_durations.tsv"
    assert {Path(path).parts[1] for path in paths.values()} == {"audio", "metadata"}
