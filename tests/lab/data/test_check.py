"""A data set that is well, and one fault after another."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from lab.data.check import DESED, check, overlapping, report, write_missing
from lab.data.desed import official_layout
from lab.errors import InputError


@pytest.fixture
def tree(tmp_path, dataset):
    """A copy of the tiny data set, which claims that it was generated as it is."""
    root = tmp_path / "tree"
    shutil.copytree(dataset, root)
    shutil.rmtree(root / "audio" / "eval21_16k")
    # In the tiny set the events of a clip are of different classes and last to its end.
    fault(root, "weak_tsv", "7.wav\t\n", "7.wav\tCat\n")
    counts = {"strong": 6, "weak": 8, "unlabelled": 10, "validation": 3, "test": 3}
    (root / "soundscapes.json").write_text(json.dumps(counts))
    return root


def diagnose(root):
    result = check(root, processes=1, progress=False)
    return {d.part.key: d for d in result}, [text for d in result for text in d.problems]


def test_a_sound_data_set_has_no_problem(tree):
    parts, problems = diagnose(tree)
    assert problems == []
    assert {key: len(d.clips) for key, d in parts.items()} == {
        "synth": 6,
        "weak": 8,
        "unlabeled": 10,
        "synth_val": 3,
        "test": 3,
    }
    assert parts["unlabeled"].seconds == (0.4, 1.0, 1.5)
    assert parts["synth"].rates == {16000: 6}
    assert any("1 clip without events: 0.wav" in note for note in parts["synth"].notes)


def test_clips_in_capitals_and_in_folders_are_found(renamed):
    (renamed / "soundscapes.json").write_text(json.dumps({"strong": 6, "weak": 8, "test": 3}))
    fault(renamed, "weak_tsv", "7.wav\t\n", "7.wav\tCat\n")
    parts, problems = diagnose(renamed)
    assert problems == []
    assert len(parts["unlabeled"].clips) == 10
    assert not any("no table" in note for d in parts.values() for note in d.notes)
    next((renamed / "audio").rglob("a/2.wav")).unlink()
    assert any(": a/2.wav" in text for text in diagnose(renamed)[1])


def test_without_a_manifest_the_numbers_are_those_of_desed(tree):
    (tree / "soundscapes.json").unlink()
    parts, problems = diagnose(tree)
    assert [d.expected for d in parts.values()] == [10000, 1578, 14412, 2500, 1168, 692]
    assert [len(d.clips) for d in parts.values()] == [6, 8, 10, 3, 3, 0]
    assert sum(", not " in text for text in problems) == len(DESED)


def test_missing_clips_are_listed_for_the_organisers(tree, tmp_path):
    paths = official_layout(tree)
    Path(paths["weak_folder"], "3.wav").unlink()
    Path(paths["test_folder"], "1.wav").unlink()
    names = "filename\n" + "".join(f"{clip}.wav\n" for clip in range(9))
    (tree / "metadata" / "train" / "unlabel_in_domain.tsv").write_text(names)
    result = check(tree, processes=1, progress=False)
    assert write_missing(result, tmp_path / "missing.tsv") == 3
    table = pd.read_csv(tmp_path / "missing.tsv", sep="\t")
    assert list(table.columns) == ["filename", "error", "subset"]
    assert list(zip(table["subset"], table["filename"])) == [
        ("weak", "3.wav"),
        ("unlabelled", "8.wav"),
        ("test", "1.wav"),
    ]
    assert "1 clip missing: named in a table and not there: 3.wav" in report(result)


def sound(root, key, name, audio, rate=16000):
    soundfile.write(Path(official_layout(root)[key], name), audio, rate)


def fault(root, key, old, new):
    """Text in the place of another, at the end of a table where there is none."""
    path = Path(official_layout(root)[key])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text + new)


def forget(root, part):
    shutil.move(
        official_layout(root)[f"{part}_folder"], official_layout(root)[f"{part}_folder_44k"]
    )


@pytest.mark.parametrize(
    ("part", "harm", "arguments", "sentence"),
    [
        (
            "synth",
            sound,
            ("synth_folder", "2.wav", np.ones(44100), 44100),
            "1 clip not at 16000 Hz",
        ),
        ("test", fault, ("test_tsv", "", "1.wav\t0.3\t0.4\tCat\n" * 2), "overlapping .*: 1.wav"),
        (
            "synth",
            fault,
            ("synth_tsv", "", "0.wav\t0.5\t1.3\tCat\n"),
            "end more than 0.2 s .*: 0.w",
        ),
        ("synth", fault, ("synth_tsv", "Vacuum_", "Vaccum_"), "did you mean 'Vacuum_cleaner'"),
        ("test", fault, ("test_dur", "1.wav\t1.0", "1.wav\t3"), "1 clip more than 0.2 s longer or"),
        ("test", fault, ("test_dur", "1.wav\t1.0\n", ""), "1 clip without a row in"),
        ("weak", fault, ("weak_tsv", "7.wav\tCat", "7.wav\t"), "1 clip without any tag: 7.wav"),
        ("weak", fault, ("weak_tsv", "7.wav\tCat", "7.wav\tCow"), "'Cow' is unknown"),
        ("weak", forget, ("weak",), "8 clips are not resampled to 16000 Hz"),
    ],
)
def test_a_fault_is_found_where_it_is(tree, part, harm, arguments, sentence):
    harm(tree, *arguments)
    parts, _ = diagnose(tree)
    assert any(re.search(sentence, text) for text in parts[part].problems), parts[part].problems
    assert not any(d.problems for key, d in parts.items() if key != part)


def test_a_clip_that_is_no_audio_is_named(tree):
    Path(official_layout(tree)["unlabeled_folder"], "2.wav").write_text("x")
    assert any("1 clip cannot be used" in text for text in diagnose(tree)[1])


def test_silent_unused_and_other_lengths_are_notes(tree):
    sound(tree, "weak_folder", "0.wav", np.zeros(16000))
    sound(tree, "synth_folder", "extra.wav", np.ones(16000) / 2)
    (tree / "soundscapes.json").write_text(json.dumps({"weak": 8, "strong": 7}))
    parts, problems = diagnose(tree)
    assert problems == []
    assert any("1 clip silent from start to end: 0.wav" in n for n in parts["weak"].notes)
    assert any("in no table, so never used: extra.wav" in n for n in parts["synth"].notes)
    assert any("10 clips shorter than 10 s" in n for n in parts["unlabeled"].notes)


def test_clips_that_the_training_will_cut_are_told_from_those_that_are_scored_whole(tree):
    for key in ("weak", "test"):
        sound(tree, f"{key}_folder", "1.wav", np.ones(24000) / 2)
    result = check(tree, seconds=1.0, processes=1, progress=False)
    notes = {d.part.key: " ".join(d.notes) for d in result}
    assert "longer than 1 s, which the training cuts into windows: 1.wav" in notes["weak"]
    assert "1 clip longer than 1 s, scored whole: 1.wav" in notes["test"]
    assert "1 clip shorter than 1 s, which are padded: short.wav" in notes["unlabeled"]
    assert "longer" not in notes["synth_val"]


def test_an_event_inside_a_long_one_overlaps():
    rows = [("a", 0, 9, "Dog"), ("a", 1, 2, "Dog"), ("a", 3, 4, "Dog"), ("a", 3, 4, "Cat")]
    events = pd.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"])
    assert overlapping(events) == ["a"]
    assert overlapping(events[1:]) == []
    assert overlapping(events.drop(index=1)) == ["a"]


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither audio/ nor metadata/"):
        check(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        check(tmp_path / "gone")
    (tmp_path / "audio").mkdir()
    (tmp_path / "soundscapes.json").write_text("{")
    with pytest.raises(InputError, match=r"soundscapes\.json cannot be read"):
        check(tmp_path)


def test_own_classes_are_those_of_the_training_table(own_dataset, own_classes):
    parts, problems = diagnose(own_dataset)
    assert problems == []
    # Nothing says how many clips there should be, and a part that is nowhere is none.
    assert {d.expected for d in parts.values()} == {None}
    assert list(parts) == ["synth", "weak", "unlabeled", "synth_val", "test"]
    assert report(list(parts.values())).splitlines()[0] == f"classes: {', '.join(own_classes)}"
    shutil.rmtree(official_layout(own_dataset)["synth_folder"])
    parts, _ = diagnose(own_dataset)
    assert any("missing" in text for text in parts["synth"].problems)


def test_classes_that_are_given_are_held_against_the_tables(own_dataset, own_classes):
    result = check(own_dataset, classes=own_classes[1:], processes=1, progress=False)
    output = {d.part.key: d.problems for d in result}
    assert any("'NA' is unknown; " in text for text in output["synth"])
    assert any("'NA' is unknown; " in text for text in output["weak"])
    more = check(own_dataset, classes=[*own_classes, "rain"], processes=1, progress=False)
    assert not any(d.problems for d in more)
    assert any("no event of rain: nothing to learn" in text for text in more[0].notes)


def test_segments_of_soft_labels_may_touch_and_overlap(own_dataset):
    head = "filename\tonset\toffset\tevent_label\tconfidence\n"
    rows = "1.wav\t0\t0.5\tsiren\t0.5\n1.wav\t0.4\t1\tsiren\t0.9\n"
    Path(official_layout(own_dataset)["test_tsv"]).write_text(f"{head}0.wav\n2.wav\n{rows}")
    assert diagnose(own_dataset)[1] == []


def test_clips_that_are_there_otherwise_are_told(tree):
    folder = Path(official_layout(tree)["test_folder"])
    (folder / "1.wav").rename(folder / "1.WAV")
    (folder / "2.wav").rename(folder / "2.m4a")
    for key in ("test_tsv", "test_dur"):
        fault(tree, key, "2.wav", "2.m4a")
    problems = " ".join(diagnose(tree)[0]["test"].problems)
    assert "named in a table and not there: 1.wav (there is 1.WAV)" in problems
    assert "1 clip of a format that libsndfile does not read; convert it to wav: 2.m4a" in problems
