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


def test_a_table_is_printed_and_is_an_input_of_the_evaluation(
    detect, main, recordings, capsys, tmp_path
):
    detect(*recordings, "--threshold", 0.0)
    result = tmp_path / "found.tsv"
    result.write_text(capsys.readouterr().out)
    table = pd.read_csv(result, sep="\t")
    assert list(table.columns) == ["filename", "onset", "offset", "event_label", "confidence"]
    # Above 0 every class is active all the time.
    assert table["filename"].value_counts().to_dict() == {"one.flac": 10, "two.wav": 10}
    assert (table["onset"] == 0).all()
    assert table.groupby("filename")["offset"].max().tolist() == [2.5, 0.8]
    assert table["confidence"].between(0.001, 0.999).all()
    truth = tmp_path / "truth.tsv"
    table = table.drop(columns="confidence")
    table[table["event_label"] == "Speech"].to_csv(truth, sep="\t", index=False)
    main("evaluate.py", truth, result)
    assert re.search(r"^Speech +100.0 +100.0$", capsys.readouterr().out, re.MULTILINE)
    # Recordings without events are named.
    detect(*recordings, "--threshold", 1.0)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert rows == ["one.flac\t\t\t\t", "two.wav\t\t\t\t"]


def test_quiet_shows_no_progress(detect, recordings, tmp_path, monkeypatch, capsys):
    output = {}
    for name, quiet in (("bar", []), ("quiet", ["--quiet"])):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        detect(*recordings, "--out", tmp_path / f"{name}.tsv", *quiet)
        output[name] = capsys.readouterr().err
    assert "2/2" in output["bar"]
    assert output["quiet"] == ""


def test_json(detect, recordings, tmp_path):
    out = tmp_path / "new" / "a.json"
    detect(*recordings, "--threshold", 0.0, "--format", "json", "--out", out)
    content = json.loads(out.read_text())
    assert [result["duration"] for result in content] == [2.5, 0.8]
    event = content[1]["events"][0]
    assert 0 < event.pop("confidence") < 1
    assert event == {"event_label": "Alarm_bell_ringing", "onset": 0, "offset": 0.8}


def test_audacity_labels_and_figures(detect, recordings, tmp_path):
    # Two folders with files of one name.
    paths = [tmp_path / site / "0600.wav" for site in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(Path(recordings[1]).read_bytes())
    out, figures = tmp_path / "labels", tmp_path / "figures"
    options = ("--threshold", 0.0, "--format", "audacity", "--out", out, "--figure", figures)
    detect(*paths, *options)
    lines = (out / "b" / "0600.wav.txt").read_text().splitlines()
    assert lines[0] == "0.000000\t0.800000\tAlarm_bell_ringing"
    assert len(lines) == 10
    written = sorted(path.relative_to(figures).as_posix() for path in figures.rglob("*.*"))
    assert written == [f"{site}/0600.wav.{kind}" for site in "ab" for kind in ("png", "svg")]


def test_a_page_of_one_recording(detect, recordings, tmp_path, capsys):
    target = tmp_path / "new" / "page.html"
    detect(recordings[0], "--threshold", 0.0, "--figure", target)
    text = target.read_text()
    assert "<title>one.flac</title>" in text
    assert re.search(
        r"<td>Alarm_bell_ringing</td><td>0.000</td><td>2.500</td><td>0\.\d{3}</td>", text
    )
    assert str(tmp_path) not in text
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    assert capsys.readouterr().out.count("one.flac") == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threshold", 2], "threshold"),
        (["--median_window", 0], "median_window"),
        (["--out", "kept.tsv"], "kept.tsv exists"),
        (["--figure", "page.html"], "is a page of one recording, and there are 2"),
        (["--format", "audacity"], "--format audacity"),
        (["--checkpoint", "missing.ckpt"], "missing.ckpt does not exist"),
    ],
)
def test_bad_input_is_one_sentence(
    refused, checkpoint, recordings, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    Path("kept.tsv").write_text("kept")
    assert words in refused("detect.py", *recordings, "--checkpoint", checkpoint, *arguments)
    assert Path("kept.tsv").read_text() == "kept"


def test_tables_are_utf8_with_all_fields_whatever_the_locale_and_the_name(
    checkpoint, recordings, run, main, tmp_path, monkeypatch
):
    name = "ü\tb\n.wav"
    (tmp_path / "two.wav").rename(tmp_path / name)
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    arguments = (name, "--checkpoint", checkpoint, "--gpus", "cpu", "--threshold", 0)
    printed = run("detect.py", *arguments, cwd=tmp_path).stdout
    monkeypatch.chdir(tmp_path)
    main("detect.py", *arguments, "--out", "out.tsv")
    assert (tmp_path / "out.tsv").read_text(encoding="utf-8") == printed
    rows = [line.split("\t") for line in printed.splitlines()]
    assert {len(row) for row in rows} == {5}
    assert {row[0] for row in rows[1:]} == {"ü\\tb\\n.wav"}


def test_a_stopped_run_goes_on_to_the_same_end(checkpoint, recordings, main, tmp_path, monkeypatch):
    (tmp_path / "many").mkdir()
    for count in range(5):
        (tmp_path / "many" / f"{count:02}.wav").write_bytes(Path(recordings[1]).read_bytes())
    options = ["many", "--checkpoint", checkpoint, "--gpus", "cpu", "--threshold", 0]
    options += ["--figure", "figures", "--out", "out"]

    def contents(folder):
        # An SVG names its parts by places that the layout rounds otherwise in another process.
        return {
            str(p.relative_to(folder)): p.suffix != ".svg" and p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file()
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
    process.terminate()
    output = process.communicate()[1].decode()
    assert process.returncode == 75
    assert "what is finished is kept; run the same command again to go on" in output
    assert len((tmp_path / "stopped" / "out").read_text().splitlines()) > 1
    kept = contents(tmp_path / "stopped" / "figures")
    assert 4 <= len(kept) < 10
    for name in ("stopped", "whole"):
        monkeypatch.chdir(tmp_path / name)
        main("detect.py", *options)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_run_without_output_promises_nothing(checkpoint, recordings, tmp_path):
    options = [*recordings, "--checkpoint", checkpoint, "--gpus", "cpu"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "recipes" / "detect.py", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"filename\tonset\toffset\tevent_label\tconfidence\n"
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[1].decode()
    assert process.returncode in (0, 75)
    assert "is kept" not in output


def test_a_picture_that_fails_loses_no_detections(detect, recordings, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(plots, "save", fail)
    with pytest.raises(MemoryError):
        detect(recordings[0], "--out", tmp_path / "a.tsv", "--figure", tmp_path / "figures")
    assert "one.flac" in (tmp_path / "a.tsv").read_text()


def test_one_broken_recording_does_not_lose_the_others(detect, recordings, capsys, tmp_path):
    (tmp_path / "broken.wav").write_text("no audio")
    with pytest.raises(SystemExit) as stop:
        detect(tmp_path / "broken.wav", *recordings, tmp_path / "missing.wav")
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert all(Path(path).name in output.out for path in recordings)
    assert [line.split(":")[0] for line in output.err.splitlines()] == ["error", "error"]
