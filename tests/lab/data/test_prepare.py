"""Resampling a tree, and laying a test set into one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from lab.data.audio import read_audio
from lab.data.desed import official_layout
from lab.data.prepare import SETS, add_set, resample_tree
from lab.errors import InputError


def write(path, seconds=1.0, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 500 * time), rate)


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


HEAD = ("filename", "onset", "offset", "event_label")


@pytest.fixture
def recordings(tmp_path):
    """Three clips in other formats, and the arguments that name them."""
    folder = tmp_path / "recordings"
    write(folder / "a.ogg", 1.0, 16000)
    write(folder / "b.flac", 0.5, 44100)
    write(folder / "c.wav", 0.25, 8000)
    events = table(
        tmp_path / "events.tsv",
        HEAD,
        ("a.wav", 0.1, 0.9, "Dog"),
        ("b.wav", 0.0, 0.25, "Cat"),
        ("c.wav", "", "", ""),
        ("a.wav", 0.2, 0.5, "Cat"),
    )
    return folder, events


def test_a_test_set_is_laid_into_the_official_layout(tmp_path, recordings):
    assert add_set("test", tmp_path / "out", *recordings, progress=False).clips == 3
    paths = official_layout(tmp_path / "out")
    for name, samples in (("a.wav", 16000), ("b.wav", 8000), ("c.wav", 4000)):
        assert len(read_audio(f"{paths['test_folder']}/{name}")) == samples
    pd.testing.assert_frame_equal(
        pd.read_csv(paths["test_tsv"], sep="\t"), pd.read_csv(recordings[1], sep="\t")
    )
    durations = pd.read_csv(paths["test_dur"], sep="\t", index_col="filename")["duration"]
    assert durations.to_dict() == {"a.wav": 1.0, "b.wav": 0.5, "c.wav": 0.25}
    # Again: nothing changes, nothing is refused.
    assert add_set("test", tmp_path / "out", *recordings, progress=False).clips == 3


def test_another_test_set_is_not_overwritten(tmp_path, recordings):
    add_set("test", tmp_path / "out", *recordings, progress=False)
    folder, events = recordings
    table(events, HEAD, ("a.wav", 0.1, 0.9, "Dog"))
    with pytest.raises(InputError, match=r"validation\.tsv holds another set"):
        add_set("test", tmp_path / "out", folder, events, progress=False)
    other = official_layout(tmp_path / "other")
    write(Path(other["test_folder"], "z.wav"))
    with pytest.raises(InputError, match="1 clips of another set, such as z"):
        add_set("test", tmp_path / "other", folder, events, progress=False)


def test_names_stay_as_the_table_has_them(tmp_path):
    folder = tmp_path / "recordings"
    for name in ("a.WAV", "x/a.WAV", "x/y/b.flac", "c.wav"):
        write(folder / name, 1.0, 16000)
    names = ["a.WAV", "x/a.WAV", "x/y/b.wav", "c.wav"]
    rows = [(name, 0.1, 0.9, "Dog") for name in names]
    events = table(tmp_path / "events.tsv", HEAD, *rows)
    assert add_set("test", tmp_path / "out", folder, events, progress=False).clips == 4
    paths = official_layout(tmp_path / "out")
    assert pd.read_csv(paths["test_tsv"], sep="\t")["filename"].tolist() == names
    assert pd.read_csv(paths["test_dur"], sep="\t")["filename"].tolist() == sorted(names)
    for name in names:
        assert len(read_audio(f"{paths['test_folder']}/{name}")) == 16000
    events = table(tmp_path / "twice.tsv", HEAD, rows[0], ("a.wav", 0.1, 0.9, "Dog"))
    with pytest.raises(InputError, match=r"names a\.WAV and a\.wav, the same clip"):
        add_set("test", tmp_path / "other", folder, events, progress=False)


def test_a_table_without_a_clip_gives_way(tmp_path, recordings):
    table(Path(official_layout(tmp_path / "out")["test_tsv"]), HEAD)
    assert add_set("test", tmp_path / "out", *recordings, progress=False).clips == 3


def test_missing_and_ambiguous_clips_are_named(tmp_path, recordings):
    folder, events = recordings
    write(folder / "a.flac")
    with pytest.raises(InputError, match=r"a\.flac and a\.ogg for a\.wav"):
        add_set("test", tmp_path / "out", folder, events, progress=False)
    (folder / "a.flac").unlink()
    (folder / "a.ogg").unlink()
    with pytest.raises(InputError, match=r"1 of 3 clips .* a\.wav"):
        add_set("test", tmp_path / "out", folder, events, progress=False)
    with pytest.raises(InputError, match="names no clip"):
        add_set("test", tmp_path / "out", folder, table(events, HEAD), progress=False)


def test_a_tree_is_resampled_once_and_gets_its_durations(tmp_path):
    paths = {name: Path(path) for name, path in official_layout(tmp_path).items()}
    with pytest.raises(InputError, match="holds no audio to resample"):
        resample_tree(tmp_path, progress=False)
    write(paths["weak_folder_44k"] / "a.wav", 0.5, 44100)
    write(paths["synth_val_folder_44k"] / "x" / "b.WAV", 0.5, 44100)
    paths["weak_folder"].mkdir(parents=True)
    (paths["weak_folder"] / ".a-partial-killed.wav").write_bytes(b"RIFF")
    done = resample_tree(tmp_path, progress=False)
    assert {folder: addition.clips for folder, addition in done.items()} == {
        str(paths["weak_folder"]): 1,
        str(paths["synth_val_folder"]): 1,
    }
    assert len(read_audio(paths["weak_folder"] / "a.wav")) == 8000
    assert [path.name for path in paths["weak_folder"].iterdir()] == ["a.wav"]
    assert paths["synth_val_dur"].read_text() == "filename\tduration\nx/b.WAV\t0.5\n"
    before = (paths["weak_folder"] / "a.wav").stat().st_mtime_ns
    resample_tree(tmp_path, progress=False)
    assert (paths["weak_folder"] / "a.wav").stat().st_mtime_ns == before


def test_own_recordings_become_every_set(tmp_path, recordings):
    folder, events = recordings
    out, paths = tmp_path / "out", official_layout(tmp_path / "out")
    rows = [("a.wav", 0.1, 0.9, "siren", 0.25), ("b.wav", 0.0, 0.25, "drill", 1.0), ("c.wav",)]
    table(events, (*HEAD, "confidence"), *rows)
    tags = table(tmp_path / "tags.tsv", ("filename", "event_labels"), ("b.wav", "siren,drill"))
    for name in SETS:
        inputs = {"weak": tags, "unlabelled": None}.get(name, events)
        clips = add_set(name, out, folder, inputs, progress=False).clips
        assert clips == (1 if name == "weak" else 3)
    for part in SETS.values():
        assert len(read_audio(f"{paths[f'{part}_folder']}/b.wav")) == 8000
        if part not in ("weak", "unlabeled"):
            pd.testing.assert_frame_equal(
                pd.read_csv(paths[f"{part}_tsv"], sep="\t"), pd.read_csv(events, sep="\t")
            )
        if f"{part}_dur" in paths:
            assert len(pd.read_csv(paths[f"{part}_dur"], sep="\t")) == 3
    assert pd.read_csv(paths["weak_tsv"], sep="\t")["event_labels"].tolist() == ["siren,drill"]


def test_a_set_of_a_class_that_the_training_lacks_is_refused(tmp_path, recordings):
    folder, events = recordings
    out = tmp_path / "out"
    events.write_text(events.read_text().replace("Dog", "siren"))
    add_set("training", out, folder, events, progress=False)
    events.write_text(events.read_text().replace("Cat", "rain"))
    output = r"events\.tsv, line 3: the class 'rain' is unknown; the classes are Cat, siren"
    with pytest.raises(InputError, match=output):
        add_set("test", out, folder, events, progress=False)
    classes = ["Cat", "siren", "rain"]
    assert add_set("test", out, folder, events, classes=classes, progress=False).clips == 3


def test_sets_without_clips_are_refused(tmp_path, recordings):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no audio that libsndfile reads"):
        add_set("unlabelled", tmp_path / "out", tmp_path / "empty", None, progress=False)
    assert not (tmp_path / "out").exists()


def test_every_format_of_libsndfile_is_taken(tmp_path):
    folder = tmp_path / "recordings"
    names = ["a.mp3", "b.MP3", "c.aiff", "d.opus", "e.w64"]
    for name in names:
        write(folder / name.replace("opus", "ogg"), 1.0, 48000)
    samples, rate = soundfile.read(folder / "d.ogg")
    (folder / "d.ogg").unlink()
    soundfile.write(folder / "d.opus", samples, rate, format="OGG", subtype="OPUS")
    events = table(tmp_path / "e.tsv", HEAD, *((f"{n[0]}.wav", 0.1, 0.9, "Dog") for n in names))
    assert add_set("training", tmp_path / "out", folder, events, progress=False).clips == 5
    assert add_set("unlabelled", tmp_path / "out", folder, None, progress=False).clips == 5
    paths = official_layout(tmp_path / "out")
    for name in names:
        for part in ("synth", "unlabeled"):
            assert len(read_audio(f"{paths[f'{part}_folder']}/{name[0]}.wav")) > 15000


def test_what_is_there_is_not_called_missing(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "a.m4a").write_bytes(b"not for libsndfile")
    events = table(tmp_path / "events.tsv", HEAD, ("a.m4a", 0.1, 0.9, "Dog"))
    with pytest.raises(InputError, match=r"a\.m4a cannot be read as audio .* convert it to wav"):
        add_set("training", tmp_path / "out", folder, events, progress=False)
    with pytest.raises(InputError, match=r"1 other files, such as a\.m4a"):
        add_set("unlabelled", tmp_path / "out", folder, None, progress=False)
    table(events, HEAD, ("a.wav", 0.1, 0.9, "Dog"), ("B.wav", 0.1, 0.9, "Dog"))
    write(folder / "b.wav")
    output = r"a\.wav \(there is a\.m4a\), B\.wav \(there is b\.wav\)"
    with pytest.raises(InputError, match=output):
        add_set("training", tmp_path / "out", folder, events, progress=False)


def test_dots_in_names_are_no_suffixes(tmp_path):
    folder, names = tmp_path / "recordings", ["site.A.2026.05.01", "site.A.2026.05.02"]
    for name in names:
        write(folder / f"{name}.flac")
    events = table(tmp_path / "events.tsv", HEAD, *((name, 0.1, 0.9, "a.b") for name in names))
    add_set("training", tmp_path / "out", folder, events, progress=False)
    paths = official_layout(tmp_path / "out")
    written = sorted(path.name for path in Path(paths["synth_folder"]).iterdir())
    assert written == [f"{name}.wav" for name in names]
    assert pd.read_csv(paths["synth_tsv"], sep="\t")["filename"].tolist() == written
    table(events, HEAD, ("site.A.2026.05.03", 0.1, 0.9, "a.b"))
    with pytest.raises(InputError, match=r"are not in .*: site\.A\.2026\.05\.03;"):
        add_set("training", tmp_path / "other", folder, events, progress=False)


@pytest.mark.parametrize(("there", "named"), [("e\u0301", "\u00e9"), ("\u00e9", "e\u0301")])
def test_two_spellings_of_a_file_are_one(tmp_path, there, named):
    write(tmp_path / "recordings" / f"{there}.flac")
    events = tmp_path / "events.tsv"
    text = "\t".join(HEAD) + f"\n{named}.wav\t0.1\t0.9\tDog\n"
    events.write_text(text, encoding="utf-8")
    add_set("test", tmp_path / "out", tmp_path / "recordings", events, progress=False)
    paths = official_layout(tmp_path / "out")
    # The bytes of the table: by them scores find the clip.
    assert [path.name for path in Path(paths["test_folder"]).iterdir()] == [f"{named}.wav"]
    assert Path(paths["test_dur"]).read_text(encoding="utf-8").split()[2] == f"{named}.wav"


def test_what_a_lower_rate_costs_is_told(tmp_path):
    folder, time = tmp_path / "recordings", np.arange(32000) / 32000
    folder.mkdir()
    for name, frequency in (("bat", 11000), ("bird", 3000)):
        soundfile.write(folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * frequency * time), 32000)
    events = table(tmp_path / "e.tsv", HEAD, *((f"{n}.wav", 0, 1, n) for n in ("bat", "bird")))
    lost = add_set("training", tmp_path / "out", folder, events, progress=False)
    assert lost.loss == pytest.approx(0.5, abs=0.01)
    assert lost.worst[0] == "bat.wav"
    assert lost.worst[1] == pytest.approx(1, abs=0.01)
    # Another rate: what is there is not kept.
    kept = add_set("training", tmp_path / "out", folder, events, fs=32000, progress=False)
    assert (kept.loss, kept.worst) == (0, None)
    for name in ("bat", "bird"):
        path = Path(official_layout(tmp_path / "out")["synth_folder"], f"{name}.wav")
        assert np.square(read_audio(path, 32000)).mean() == pytest.approx(0.045, rel=0.01)
