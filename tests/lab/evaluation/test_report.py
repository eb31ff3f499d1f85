from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lab.errors import InputError
from lab.evaluation import plots
from lab.evaluation.report import Report, environment, latex

SCORES = pd.DataFrame(
    {"mean": [0.41234, np.nan], "p": [0.00001, 0.0], "interval": ["[0.1, 0.2]", None]},
    index=pd.Index(["event_F1", "a|b <i>"], name="score"),
)


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
        "report.md",
        "tables/main_scores.tex",
        "figures/curves.png",
        "figures/curves.svg",
    ]
    assert all(path.is_file() for path in paths)


def test_markdown_tables_have_as_many_cells_in_every_row(written):
    folder, _ = written
    lines = (folder / "report.md").read_text("utf-8").splitlines()
    assert "| training.lr | 0.001 |" in lines
    assert any(line.startswith("| numpy | ") for line in lines)
    assert "![Curves](figures/curves.png)" in lines
    start = lines.index("## Main scores") + 2
    cells = [line.replace("\\|", "").count("|") for line in lines[start : start + 4]]
    assert cells == [5, 5, 5, 5]
    assert lines[start + 3].startswith(r"| a\|b <i> |")


def test_a_sentence_on_what_cannot_be_shown(tmp_path):
    report = Report("A run", command="x")
    report.text("A clip", "There is <none>.")
    report.write(tmp_path)
    assert "## A clip\n\nThere is <none>.\n" in (tmp_path / "report.md").read_text()


def test_a_figure_that_fails_loses_no_table(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(plots, "save", fail)
    report = Report("A run", command="x")
    report.figure("Curves", plots.curves({"a": pd.DataFrame({"loss": [1.0]})}, panels=["loss"]))
    report.table("Main scores", SCORES)
    with pytest.raises(MemoryError):
        report.write(tmp_path)
    assert (tmp_path / "report.md").is_file()
    assert (tmp_path / "tables" / "main_scores.tex").is_file()


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
