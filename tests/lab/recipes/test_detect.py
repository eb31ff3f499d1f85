"""Detections as tables, JSON, Audacity labels and figures."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from lab.baseline.config import load_config
from lab.baseline.experiment import build
from lab.data.desed import official_layout
from lab.evaluation import plots

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def checkpoint(dataset, conf_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect")
    config = load_config(conf_file, {"data": official_layout(dataset)})
    config["scaler"].update(statistic="instance", normtype="standard")
    module = build(config, coherence=False, log_dir=folder, train=False).module
    torch.save(
        {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)},
        folder / "model.ckpt",
    )
    return folder / "model.ckpt"


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "one.flac", tmp_path / "two.wav"]
    for path, seconds in zip(paths, (2.5, 0.8)):
        soundfile.write(path, 0.1 * rng.standard_normal(round(22050 * seconds)), 22050)
    return [str(path) for path in paths]


@pytest.fixture
def detect(checkpoint, main):
    def detect(*arguments):
        main("detect.py", *arguments, "--checkpoint", checkpoint, "--gpus", "cpu")

    return detect


def test_a_table_is_printed(detect, recordings, capsys, tmp_path):
    detect(*recordings, "--threshold", 0.0)
    printed = capsys.readouterr().out
    (tmp_path / "out.tsv").write_text(printed)
    table = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    assert list(table.columns) == ["filename", "onset", "offset", "event_label"]
    assert list(table["filename"].unique()) == ["one.flac", "two.wav"]
    # Above 0 every class is active all the time.
    assert len(table) == 20
    assert (table["onset"] == 0).all()
    assert table.groupby("filename")["offset"].max().tolist() == [2.5, 0.8]


def test_tables_are_utf8_with_four_fields_whatever_the_locale_and_the_name(
    checkpoint, recordings, run, tmp_path, monkeypatch
):
    name = "ü\tb\n.wav"
    (tmp_path / "two.wav").rename(tmp_path / name)
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    arguments = (name, "--checkpoint", checkpoint, "--gpus", "cpu", "--threshold", 0)
    printed = run("detect.py", *arguments, cwd=tmp_path).stdout
    run("detect.py", *arguments, "--out", "out.tsv", cwd=tmp_path)
    assert (tmp_path / "out.tsv").read_text(encoding="utf-8") == printed
    rows = [line.split("\t") for line in printed.splitlines()]
    assert {len(row) for row in rows} == {4}
    assert {row[0] for row in rows[1:]} == {"ü\\tb\\n.wav"}


def test_recordings_without_events_are_named(detect, recordings, capsys):
    detect(*recordings, "--threshold", 1.0)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert rows == ["one.flac\t\t\t", "two.wav\t\t\t"]


def test_json(detect, recordings, tmp_path):
    detect(
        *recordings, "--threshold", 0.0, "--format", "json", "--out", tmp_path / "new" / "a.json"
    )
    content = json.loads((tmp_path / "new" / "a.json").read_text())
    assert [found["duration"] for found in content] == [2.5, 0.8]
    assert content[1]["events"][0] == {
        "event_label": "Alarm_bell_ringing",
        "onset": 0,
        "offset": 0.8,
    }


def test_audacity_labels_and_figures(detect, recordings, tmp_path):
    out = tmp_path / "labels"
    arguments = (*recordings, "--threshold", 0.0, "--format", "audacity", "--out", out)
    detect(*arguments, "--figure", tmp_path / "figures")
    lines = (out / "two.wav.txt").read_text().splitlines()
    assert lines[0] == "0.000000\t0.800000\tAlarm_bell_ringing"
    assert len(lines) == 10
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["one.flac.png", "one.flac.svg", "two.wav.png", "two.wav.svg"]
    with pytest.raises(SystemExit):
        detect(*arguments)


def test_a_page_of_one_recording(detect, recordings, tmp_path, capsys):
    target = tmp_path / "new" / "page.html"
    detect(recordings[0], "--threshold", 0.0, "--figure", target)
    text = target.read_text()
    assert "<title>one.flac</title>" in text
    assert "<td>Alarm_bell_ringing</td><td>0.000</td><td>2.500</td>" in text
    assert str(tmp_path) not in text
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    assert capsys.readouterr().out.count("one.flac") == 10


def test_a_page_is_of_one_recording_and_not_overwritten(detect, recordings, tmp_path, capsys):
    target = tmp_path / "page.html"
    for several, words in (
        (recordings, "is a page of one recording, and there are 2"),
        (recordings[:1], "page.html exists; remove it"),
    ):
        with pytest.raises(SystemExit):
            detect(*several, "--figure", target)
        assert words in capsys.readouterr().err
        target.write_text("kept")
    assert target.read_text() == "kept"


@pytest.mark.parametrize(
    ("number", "format"), [(signal.SIGTERM, "tsv"), (signal.SIGKILL, "audacity")]
)
def test_a_stopped_run_goes_on_to_the_same_end(
    checkpoint, recordings, run, tmp_path, number, format
):
    (tmp_path / "many").mkdir()
    for count in range(5):
        (tmp_path / "many" / f"{count:02}.wav").write_bytes(Path(recordings[1]).read_bytes())
    options = ["many", "--checkpoint", checkpoint, "--gpus", "cpu", "--threshold", 0]
    options += ["--format", format, "--figure", "figures", "--out", "out"]

    def contents(folder):
        return {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "many").symlink_to(tmp_path / "many")
    process = subprocess.Popen(
        [sys.executable, ROOT / "recipes" / "detect.py", *map(str, options)],
        cwd=tmp_path / "stopped",
        stderr=subprocess.PIPE,
    )
    while len(list((tmp_path / "stopped").rglob("[!.]*.svg"))) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate()[1].decode()
    if number == signal.SIGTERM:
        assert process.returncode == 75
        assert "what is finished is kept; run the same command again to go on" in said
    kept = contents(tmp_path / "stopped" / "figures")
    assert 4 <= len(kept) < 10
    run("detect.py", *options, cwd=tmp_path / "stopped")
    run("detect.py", *options, cwd=tmp_path / "whole")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_run_without_output_promises_nothing(checkpoint, recordings, tmp_path):
    options = [*recordings, "--checkpoint", checkpoint, "--gpus", "cpu"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "recipes" / "detect.py", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"filename\tonset\toffset\tevent_label\n"
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1].decode()
    assert process.returncode in (0, 75)
    assert "is kept" not in said


def test_two_folders_with_files_of_one_name(detect, recordings, capsys, tmp_path):
    paths = [tmp_path / site / "0600.wav" for site in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(Path(recordings[1]).read_bytes())
    detect(*paths, "--format", "audacity", "--out", tmp_path / "labels", "--threshold", 0)
    assert all((tmp_path / "labels" / site / "0600.wav.txt").is_file() for site in ("a", "b"))
    with pytest.raises(SystemExit):
        detect(*paths, "--format", "audacity")
    said = capsys.readouterr()
    assert said.out == ""
    assert "--format audacity" in said.err


def test_a_picture_that_fails_loses_no_detections(detect, recordings, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(plots, "save", fail)
    with pytest.raises(MemoryError):
        detect(recordings[0], "--out", tmp_path / "a.tsv", "--figure", tmp_path / "figures")
    assert "one.flac" in (tmp_path / "a.tsv").read_text()


def test_detections_are_an_input_of_the_evaluation(detect, main, recordings, capsys, tmp_path):
    detect(*recordings, "--threshold", 0, "--out", tmp_path / "found.tsv")
    names = [Path(path).name for path in recordings]
    rows = [f"{name}\t0\t{end}\tSpeech\n" for name, end in zip(names, (2.5, 0.8))]
    head = "filename\tonset\toffset\tevent_label\n"
    (tmp_path / "truth.tsv").write_text(head + "".join(rows))
    main("evaluate.py", tmp_path / "truth.tsv", tmp_path / "found.tsv")
    assert re.search(r"^Speech +100.0 +100.0$", capsys.readouterr().out, re.MULTILINE)


def test_one_broken_recording_does_not_lose_the_others(detect, recordings, capsys, tmp_path):
    (tmp_path / "broken.wav").write_text("no audio")
    with pytest.raises(SystemExit) as stop:
        detect(tmp_path / "broken.wav", *recordings, tmp_path / "missing.wav")
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert all(Path(path).name in said.out for path in recordings)
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["error", "error"]


def test_nothing_is_overwritten(detect, recordings, capsys, tmp_path):
    (tmp_path / "a.tsv").write_text("kept")
    with pytest.raises(SystemExit):
        detect(*recordings, "--out", tmp_path / "a.tsv")
    assert "a.tsv exists" in capsys.readouterr().err
    assert (tmp_path / "a.tsv").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--threshold", "2"], "threshold"), (["--median_window", "0"], "median_window")],
)
def test_bad_settings(detect, recordings, capsys, arguments, words):
    with pytest.raises(SystemExit):
        detect(*recordings, *arguments)
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_as_a_command(run, checkpoint, recordings, tmp_path):
    missing = tmp_path / "missing.ckpt"
    done = run("detect.py", *recordings, "--checkpoint", missing, cwd=tmp_path, code=2)
    assert "missing.ckpt does not exist" in done.stderr
    assert len(done.stderr.splitlines()) == 1
