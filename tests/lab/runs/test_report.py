"""The report of a comparison: what its tables hold."""

import numpy as np
import pandas as pd
import pytest

from lab.data.labels import ManyHotEncoder
from lab.evaluation.posteriors import Posteriors, write_detections
from lab.evaluation.significance import Bootstrap, paired_test
from lab.runs.report import event_counts, has_detections, tables
from lab.runs.results import COLUMNS

MACRO = "event_f1_macro"
SCORES = {"steps": [0.41, 0.47, 0.45], "baseline": [0.40, 0.44, 0.45], "exact": [None, 0.2]}


@pytest.fixture
def results():
    """Trials of three settings; one of `exact` diverged, and one has no counts."""
    rows = [
        {"setting": setting, "seed": 42 + n, MACRO: score, "validation": score}
        | ({"events": 10, "hit": 4 + n, "missed": 6 - n} if score and setting != "exact" else {})
        for setting, scores in SCORES.items()
        for n, score in enumerate(scores)
    ]
    return (
        pd.DataFrame(rows, columns=["setting", *COLUMNS[3:]])
        .fillna(
            {"hit": 0, "missed": 0, "onset_wrong": 0, "offset_wrong": 0, "both_wrong": 0}
            | {"fragmented": 0, "estimated": 0}
        )
        .set_index(["setting", "seed"])
    )


def cells(table):
    header, _, *rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()]
    return {row[0]: dict(zip(header, row)) for row in rows}


def test_scores_differences_and_events(results):
    clips = {"steps": Bootstrap(0.01, -0.02, 0.03)}
    scores, _, differences, note, events, _ = tables(results, "baseline", clips, True)
    assert list(cells(scores)) == ["steps", "baseline", "exact"]
    assert cells(scores)["baseline"]["event F1, macro (%)"] == "43.00 ± 2.65"
    assert cells(scores)["exact"]["trials"] == "1 of 2"
    assert cells(scores)["baseline"]["PSDS 1"] == "-"
    steps = cells(differences)["steps"]
    test = paired_test(SCORES["baseline"], SCORES["steps"])
    assert steps["difference [95 % over seeds]"].startswith("+1.33 [-2.46, ")
    assert steps["95 % over clips"] == "[-2.00, +3.00]"
    assert steps["p, paired t"] == f"{test.p_t:.3f}"
    assert cells(differences)["exact"]["95 % over clips"] == "-"
    assert "1 seed, which proves nothing" in note
    assert cells(events)["baseline"]["hit"] == "50.0"
    assert list(cells(events)) == ["steps", "baseline", "official, on DESED"]
    # One setting alone is compared with nothing.
    alone = tables(results.loc[["baseline"]], "baseline", {}, False)
    assert not any("difference" in part or "official" in part for part in alone)


def test_counts_of_clips_are_those_of_the_detections(tmp_path):
    columns = ["filename", "onset", "offset", "event_label"]
    dog = (1.0, 3.0, "Dog")
    rows = [("a.wav", *dog), ("b.wav", *dog), ("not_tested.wav", *dog), ("silent.wav", *[None] * 3)]
    reference = pd.DataFrame(rows, columns=columns)
    clips = Posteriors()
    clips.filenames = ["a.wav", "b.wav", "silent.wav"]
    clips.strong = [np.zeros((4, 1), dtype=np.float32)] * 3
    for model, events in (("student", []), ("teacher", [rows[0], ("silent.wav", *dog)])):
        place = tmp_path / "trial" / "metrics_test" / model
        clips.save(place / "posteriors.npz", ManyHotEncoder(["Dog"], 1, 2048, 256), 1)
        write_detections(place, model, pd.DataFrame(events, columns=columns), {})
    assert has_detections(tmp_path / "trial")
    assert not has_detections(tmp_path / "elsewhere")
    (counts,) = event_counts([tmp_path / "trial"], reference, ["Cat", "Dog"])
    # Clips a, b and silent; reference events, estimated events, true positives of the teacher.
    assert counts[:, 1].tolist() == [[1, 1, 1], [1, 0, 0], [0, 1, 0]]
    assert not counts[:, 0].any()
