from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile

from lab.errors import InputError
from lab.evaluation import plots
from lab.evaluation.report import Report, environment, latex

SCORES = pd.DataFrame(
    {"mean": [0.41234, np.nan], "p": [0.00001, 0.0], "interval": ["[0.1, 0.2]", None]},
    index=pd.Index(["event_F1", "a|b <i>"], name="score"),
)


class Reader(HTMLParser):
    """Collects cells, sources and unclosed elements."""

    def __init__(self):
        super().__init__()
        self.rows, self.sources, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag in ("meta", "link"):
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


@pytest.fixture
def written(tmp_path):
    report = Report("One & two", command="python x.py --data '<dir>'", summary="Better by 1 %.")
    report.settings({"training": {"lr": 0.001, "batch": [1, 2]}, "seed": 3})
    report.table("Main scores", SCORES, note="Means.")
    table = pd.DataFrame({"loss": [2.0, 1.0]})
    report.figure("Curves", plots.curves({"baseline": table}, panels=["loss"]), note="A caption.")
    paths = report.write(tmp_path)
    return tmp_path, paths


def test_files(written):
    folder, paths = written
    assert [str(path.relative_to(folder)) for path in paths] == [
        "report.html",
        "report.md",
        "tables/main_scores.tex",
        "figures/curves.png",
        "figures/curves.svg",
    ]
    assert all(path.is_file() for path in paths)


def test_html_is_well_formed_and_stands_alone(written):
    folder, _ = written
    text = (folder / "report.html").read_text("utf-8")
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert ["event_F1", "0.412", "1.0e-05", "[0.1, 0.2]"] in reader.rows
    assert ["a|b <i>", "\N{EN DASH}", "0.000", "\N{EN DASH}"] in reader.rows
    assert ["training.lr", "0.001"] in reader.rows
    assert ["numpy", np.__version__] in reader.rows
    assert all(source.startswith(("#", "data:")) for source in reader.sources)
    assert text.count("<svg ") == 1
    for name in ("main_scores", "curves", "environment"):
        assert f'<li><a href="#{name}">' in text
        assert f'<h2 id="{name}">' in text
    assert "<title>One &amp; two</title>" in text
    assert "&lt;dir&gt;" in text


def test_markdown_tables_have_as_many_cells_in_every_row(written):
    folder, _ = written
    lines = (folder / "report.md").read_text("utf-8").splitlines()
    assert "![Curves](figures/curves.png)" in lines
    start = lines.index("## Main scores") + 2
    cells = [line.replace("\\|", "").count("|") for line in lines[start : start + 4]]
    assert cells == [5, 5, 5, 5]
    assert lines[start + 3].startswith(r"| a\|b <i> |")


def drawn():
    clip = np.random.default_rng(0).random((20, 1))
    return plots.posteriors({"baseline": clip}, pd.DataFrame(), ["Dog"], frame_seconds=0.05)


def test_one_clip_has_a_player(tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros(16000), 16000)
    report = Report("A run", command="x")
    report.clip("A clip", drawn(), tmp_path / "a.wav", "A caption.")
    with pytest.raises(InputError, match="the audio of a clip already; add 'Another'"):
        report.clip("Another", drawn(), tmp_path / "b.wav")
    report.figure("Another", drawn())
    assert report.page().count("<audio ") == 1
    report.write(tmp_path)
    assert (tmp_path / "figures" / "a_clip.png").is_file()
    assert "![A clip](figures/a_clip.png)\n\nA caption." in (tmp_path / "report.md").read_text()


def test_a_clip_whose_audio_is_away_is_shown_without_a_player(tmp_path):
    report = Report("A run", command="x")
    report.clip("A clip", drawn(), tmp_path / "away.wav", "A caption.")
    said = report.page()
    assert "<audio" not in said
    assert said.count("<svg ") == 1
    assert f"A caption. Without a player: {tmp_path / 'away.wav'} does not exist.<" in said


def test_a_sentence_on_what_cannot_be_shown(tmp_path):
    report = Report("A run", command="x")
    report.text("A clip", "There is <none>.")
    report.write(tmp_path)
    assert "<p>There is &lt;none&gt;.</p>" in (tmp_path / "report.html").read_text()
    assert "## A clip\n\nThere is <none>.\n" in (tmp_path / "report.md").read_text()


def test_latex_escapes():
    table = pd.DataFrame({"F1 (%)": ["40 ± 1", "a&b_c"]}, index=["x^2", "{\\}"])
    lines = latex(table).splitlines()
    assert lines[2] == r" & F1 (\%) \\"
    assert lines[4] == r"x\textasciicircum{}2 & 40 $\pm$ 1 \\"
    assert lines[5] == r"\{\textbackslash{}\} & a\&b\_c \\"


def test_environment_names_what_matters():
    found = environment()
    assert {"date", "python", "system", "cores", "numpy"} <= set(found)
    assert all(isinstance(value, str) for value in found.values())


def test_two_parts_of_one_name_are_refused():
    report = Report("A run", command="x")
    report.table("Scores", SCORES)
    with pytest.raises(InputError, match="'scores!' already"):
        report.table("scores!", SCORES)
