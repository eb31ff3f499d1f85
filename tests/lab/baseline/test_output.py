"""Detections of many recordings are kept as each is finished, and the same run goes on."""

import re

import pandas as pd
import pytest

from lab.baseline.detections import COLUMNS, FORMATS, Detections
from lab.baseline.output import Output
from lab.errors import InputError

NAMES = ["b.wav", "a.wav", "x/a.wav", "\udce9.wav"]
SETTINGS = {"threshold": 0.5, "model": None}


def detections(name):
    events = [["Dog", 0.1 * n, 1 / 3 + n, 2 / 3] for n in range(len(name) % 3)]
    return Detections(name, 7 / 3, 8000.0, pd.DataFrame(events, columns=COLUMNS))


def start(tmp_path, format, names=NAMES, **options):
    out = tmp_path / ("labels" if FORMATS[format].suffix else "new/events")
    return Output(names, format=format, **{"out": out, "settings": SETTINGS, **options})


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def draw(output, name):
    for path in output.pictures(name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"figure of {name!r}")


def run(output, stop_after=None):
    for name in [name for name in output.names if name not in output.done][:stop_after]:
        output.add(detections(name))
        if output.figures:
            draw(output, name)
    if stop_after is None:
        output.close()


@pytest.mark.parametrize("figures", [False, True])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stops", [[0], [1, 1], [4]])
def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, format, stops, figures):
    def output(folder):
        return start(folder, format, figures=folder / "figures" if figures else None)

    run(output(tmp_path / "whole"))
    done = 0
    for stop in stops:
        run(output(tmp_path / "stopped"), stop)
        done += stop
        assert len(output(tmp_path / "stopped").done) == done
    run(output(tmp_path / "stopped"))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert not [name for name in contents(tmp_path / "whole") if name.endswith(".progress")]


@pytest.mark.parametrize("format", FORMATS)
def test_a_stopped_run_leaves_what_is_finished_in_place(tmp_path, format):
    output = start(tmp_path, format)
    for name in NAMES[1:3]:
        output.add(detections(name))
    output.close()
    held = list(map(detections, NAMES[1:3]))
    if FORMATS[format].suffix:
        texts = [output.text(name).read_text() for name in NAMES[1:3]]
        assert texts == [FORMATS[format].text([one]) for one in held]
        assert not output.text(NAMES[0]).exists()
    else:
        assert (tmp_path / "new" / "events").read_text() == FORMATS[format].text(held)


def test_a_run_that_was_killed_while_it_wrote_goes_on(tmp_path):
    run(start(tmp_path / "whole", "tsv"))
    run(start(tmp_path / "killed", "tsv", figures=tmp_path / "figures"), 2)
    table = tmp_path / "killed" / "new" / "events"
    progress = table.with_name("events.progress")
    # Half a line of progress, and half a figure.
    progress.write_bytes(progress.read_bytes() + b'{"filename": "x/a')
    (tmp_path / "figures" / ".a-partial-8.png").touch()
    # A recording whose figure is missing is done again.
    (tmp_path / "figures" / "a.wav.svg").unlink()
    run(start(tmp_path / "killed", "tsv", figures=tmp_path / "figures"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list(tmp_path.rglob("*partial*"))


def test_a_recording_that_was_mended_gets_its_place(tmp_path):
    run(start(tmp_path / "whole", "tsv"))
    output = start(tmp_path / "broken", "tsv")
    for name in NAMES[1:]:
        output.add(detections(name))
    output.close()
    run(start(tmp_path / "broken", "tsv"))
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_standard_output_starts_again_with_what_is_finished(tmp_path, capsys):
    options = {"out": None, "figures": tmp_path / "figures"}
    names = NAMES[:3]
    run(start(tmp_path, "json", names, **options), 2)
    capsys.readouterr()
    run(start(tmp_path, "json", names, **options))
    assert capsys.readouterr().out == FORMATS["json"].text(map(detections, names))


@pytest.mark.parametrize("format", ["tsv", "json"])
def test_standard_output_without_any_recording(tmp_path, capsys, format):
    start(tmp_path, format, out=None).close()
    assert capsys.readouterr().out == FORMATS[format].text([])
    assert contents(tmp_path) == {}


def test_runs_that_cannot_go_on_are_refused(tmp_path):
    run(start(tmp_path, "tsv"), 1)
    before = contents(tmp_path)
    for options, key in (
        ({"settings": {**SETTINGS, "threshold": 0.4}}, "threshold"),
        ({"format": "json"}, "format"),
    ):
        with pytest.raises(InputError, match=rf"events\.progress is of a run with another {key}"):
            start(tmp_path, **{"format": "tsv", **options})
    assert contents(tmp_path) == before
    (tmp_path / "mine.progress").write_text("notes of mine\n")
    with pytest.raises(InputError, match=r"mine\.progress cannot be read"):
        start(tmp_path, "tsv", out=tmp_path / "mine")
    (tmp_path / "labels").write_text("kept")
    with pytest.raises(InputError, match="labels is a file"):
        start(tmp_path, "audacity")
    with pytest.raises(InputError, match="and there are 4; give a folder with --out"):
        Output(NAMES, format="audacity", settings=SETTINGS)


@pytest.mark.parametrize(
    ("there", "options"),
    [
        ("events", {"format": "tsv"}),
        ("labels/x/a.wav.txt", {"format": "audacity"}),
        ("labels/x/a.wav.selections.txt", {"format": "raven"}),
        ("figures/a.wav.svg", {"format": "tsv", "figures": "figures"}),
        ("page.html", {"format": "tsv", "page": "page.html", "out": None}),
    ],
)
def test_nothing_is_overwritten_and_nothing_begun(tmp_path, there, options):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("kept")
    paths = {"out": "labels" if FORMATS[options["format"]].suffix else "events", **options}
    for key in ("out", "figures", "page"):
        paths[key] = tmp_path / paths[key] if paths.get(key) else None
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / there} exists")):
        Output(NAMES, settings=SETTINGS, **paths)
    assert contents(tmp_path) == {there: b"kept"}


def test_a_disk_that_cannot_be_written_is_a_sentence(tmp_path):
    output = start(tmp_path, "tsv")
    run(output, 1)
    output.progress.unlink()
    output.progress.mkdir()
    with pytest.raises(InputError, match=r"events\.progress cannot be written"):
        output.add(detections("a.wav"))
