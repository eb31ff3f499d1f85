from __future__ import annotations

import numpy as np
import pandas as pd

from lab.evaluation import plots
from lab.evaluation.report import Report

SCORES = pd.DataFrame(
    {"mean": [0.41234, np.nan], "p": [0.00001, 0.0], "interval": ["[0.1, 0.2]", "-"]},
    index=pd.Index(["event_F1", "a|b <i>"], name="score"),
)


def test_a_report_and_its_files(tmp_path):
    report = Report("One & two", command="python x.py --data '<dir>'")
    report.table("Main scores", SCORES, note="Means.")
    table = pd.DataFrame({"loss": [2.0, 1.0]})
    report.figure("Curves", plots.curves({"baseline": table}, panels=["loss"]), note="A caption.")
    paths = report.write(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "report.md",
        "figures/curves.png",
        "figures/curves.svg",
    ]
    assert all(path.is_file() for path in paths)
    lines = paths[0].read_text("utf-8").splitlines()
    assert any(line.startswith("| numpy ") for line in lines)
    assert "![Curves](figures/curves.png)" in lines
    start = lines.index("## Main scores") + 2
    rows = [line.replace("\\|", "/").strip("| ").split("|") for line in lines[start : start + 4]]
    assert [cell.strip() for cell in rows[2]] == ["event_F1", "0.412", "1.0e-05", "[0.1, 0.2]"]
    assert [cell.strip() for cell in rows[3]] == ["a/b <i>", "-", "0.000", "-"]
    assert {len(row) for row in rows} == {4}
