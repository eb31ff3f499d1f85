"""Detections as tables, JSON, Audacity labels and figures."""

import json
import time

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from lab.baseline.config import load_config
from lab.baseline.experiment import build
from lab.data.desed import official_layout

pytestmark = pytest.mark.slow


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
    assert list(table["filename"].unique()) == recordings
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
    assert rows == [f"{path}\t\t\t" for path in recordings]


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


def test_a_page_of_one_recording(detect, recordings, tmp_path):
    target = tmp_path / "new" / "page.html"
    detect(recordings[0], "--threshold", 0.0, "--figure", target)
    text = target.read_text()
    assert text.count("data:audio/flac;base64,") == 1
    assert "<title>Events in one.flac</title>" in text
    assert "10 events at threshold 0." in text
    cells = '<th scope="row">Alarm_bell_ringing</th><td>0.000</td><td>2.500</td>'
    assert cells in text
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def test_a_page_without_events(detect, recordings, tmp_path):
    detect(recordings[1], "--threshold", 1.0, "--figure", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "No events at threshold 1." in text
    assert '<h2 id="events">' not in text
    assert "<audio" in text


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


def test_the_page_plays_in_a_browser(detect, recordings, tmp_path, browse):
    detect(recordings[0], "--figure", tmp_path / "page.html")
    driver = browse(tmp_path / "page.html")
    driver.find_element("css selector", ".controls button").click()
    audio = driver.find_element("css selector", "audio")
    deadline = time.monotonic() + 60
    while not driver.execute_script("return arguments[0].currentTime > 0.1", audio):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (cursor, *_) = driver.find_elements("css selector", ".cursor")
    box = driver.execute_script(
        "return JSON.parse(document.querySelector('#posteriors-values').textContent).panels[0].box"
    )
    assert float(cursor.get_dom_attribute("x1")) > box[0]


def test_one_broken_recording_does_not_lose_the_others(detect, recordings, capsys, tmp_path):
    (tmp_path / "broken.wav").write_text("no audio")
    with pytest.raises(SystemExit) as stop:
        detect(tmp_path / "broken.wav", *recordings, tmp_path / "missing.wav")
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert all(path in said.out for path in recordings)
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
