from __future__ import annotations

import base64
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from dcase_coherence.evaluation import plots
from dcase_coherence.evaluation.report import Report, environment, latex
from dcase_coherence.system.errors import InputError

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
        if tag in ("meta", "img"):
            self.sources += [value for name, value in attrs if name in ("src", "href")]
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
    (source,) = reader.sources
    kind, data = source.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == (folder / "figures" / "curves.svg").read_bytes()
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
