"""The command line: exit codes and sentences."""

import importlib.util
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile

SCRIPT = Path(__file__).parents[3] / "recipes" / "prepare_desed.py"


@pytest.fixture
def main():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT))).main


@pytest.fixture
def recordings(tmp_path):
    """Three recordings with their events, as command-line arguments."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for clip in range(3):
        soundfile.write(folder / f"{clip}.flac", 0.1 * rng.standard_normal(44100), 44100)
        rows.append((f"{clip}.wav", 0.25, 0.5, "Dog"))
    table = tmp_path / "events.tsv"
    columns = ["filename", "onset", "offset", "event_label"]
    pd.DataFrame(rows, columns=columns).to_csv(table, sep="\t", index=False)
    return ["--audio", str(folder), "--tsv", str(table)]


def test_a_test_set_is_added_then_checked(main, recordings, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["--add", "test", *recordings, "--out", out, "--quiet"]) == 0
    (tmp_path / "out" / "soundscapes.json").write_text(json.dumps({"test": 3}))
    assert main(["--check", out, "--quiet"]) == 0
    output = capsys.readouterr().out
    assert "test                         3         3   16000   1.00, 1.00, 1.00" in output
    assert "problems: none" in output


def test_a_public_set_is_added(main, recordings, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--add", "public", *recordings, "--out", str(out), "--quiet"]) == 0
    added, cost = capsys.readouterr().out.splitlines()
    assert added == f"the public set of {out}: 3 clips"
    # White noise at 44.1 kHz: a little less than 8000 of its 22050 Hz is left.
    assert cost.startswith("65 % of the energy of their sound lay above 8000 Hz")
    assert (out / "metadata" / "eval" / "public.tsv").is_file()


def test_a_fault_is_exit_code_1_and_missing_clips_a_file(main, recordings, tmp_path, capsys):
    out = tmp_path / "out"
    main(["--add", "test", *recordings, "--out", str(out), "--quiet"])
    (out / "audio" / "validation" / "validation_16k" / "1.wav").unlink()
    missing = tmp_path / "missing.tsv"
    assert main(["--check", str(out), "--missing", str(missing), "--quiet"]) == 1
    assert missing.read_text().splitlines()[1:] == ["1.wav\tmissing\ttest"]
    assert "2 clips in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--check", "/nowhere"], "is no folder"),
        (["--check", "/tmp", "--processes", "0"], "--processes is 0"),
        (["--resample", "/nowhere"], "holds no audio to resample"),
        (["--generate", "/nowhere", "--clips", "1", "-1"], "--clips is"),
        (["--add", "test", "--audio", "/a", "--labels", "/b", "--out", "/c"], "/b is no folder"),
    ],
)
def test_bad_input_is_exit_code_2_and_a_sentence(main, arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ")
    assert sentence in output


@pytest.mark.skipif(importlib.util.find_spec("desed") is not None, reason="desed is installed")
@pytest.mark.parametrize("what", ["--download", "--generate"])
def test_without_the_desed_package_the_extra_is_named(main, what, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([what, str(tmp_path / "new")])
    assert stop.value.code == 2
    assert "dcase-coherence[desed]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_rate_follows_the_configuration_or_the_flag(main, recordings, tmp_path, capsys):
    out, conf = str(tmp_path / "out"), tmp_path / "c.yaml"
    conf.write_text("data: {fs: 32000}\nfeats: {sample_rate: 32000, hop_length: 512}\n")
    add = ["--add", "test", *recordings, "--out", out, "--quiet"]
    assert main([*add, "--conf_file", str(conf)]) == 0
    assert "above 16000 Hz" in capsys.readouterr().out
    (tmp_path / "out" / "soundscapes.json").write_text(json.dumps({"test": 3}))
    check = ["--check", out, "--audio-max-len", "1", "--quiet"]
    assert main([*check, "--conf_file", str(conf)]) == 0
    assert main([*check, "--rate", "32000"]) == 0
    others = ["data.fs=32000", "feats.sample_rate=32000", "feats.hop_length=512"]
    assert main([*check, "--set", *others]) == 0
    capsys.readouterr()
    assert main(check) == 1
    assert "3 clips not at 16000 Hz" in capsys.readouterr().out


def test_one_folder_with_labels_is_split_into_three_sets(main, tmp_path, capsys):
    audio, labels = tmp_path / "audio", tmp_path / "labels"
    audio.mkdir()
    labels.mkdir()
    for clip in range(6):
        soundfile.write(audio / f"{clip}.flac", 0.1 * np.ones(16000), 16000)
        label = ["car horn", "dog"][clip % 2]
        (labels / f"{clip}.txt").write_text(f"0.25\t0.5\t{label}\n")
    arguments = ["--audio", str(audio), "--labels", str(labels), "--out", str(tmp_path / "out")]
    command = ["--split", "50", "17", "33", "--seed", "3", *arguments, "--quiet"]
    for _ in range(2):  # a second run finds what the first one wrote
        assert main(command) == 0
        output = capsys.readouterr().out.splitlines()
        assert [line.split()[-2] for line in output] == ["3", "1", "2"]
    assert main(["--check", str(tmp_path / "out"), "--audio-max-len", "1", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("classes: car horn, dog")
    # Other seeds make other sets, which do not overwrite these.
    with pytest.raises(SystemExit):
        main([*command, "--seed", "4"])
    assert "holds another set" in capsys.readouterr().err
    # One set alone, of one class.
    test = ["--add", "test", *arguments[:-1], str(tmp_path / "other"), "--quiet"]
    assert main([*test, "--classes", "dog", "car horn"]) == 0
    with pytest.raises(SystemExit):
        main([*test, "--classes", "dog"])
    assert "0.txt, line 1: the class 'car horn' is unknown" in capsys.readouterr().err
