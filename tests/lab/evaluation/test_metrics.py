"""F1 from counts, and tables that cannot be used."""

import pandas as pd
import pytest

from lab.errors import InputError
from lab.evaluation import metrics


def counts(**columns):
    return pd.DataFrame(columns, index=["Cat", "Dog", "Speech"])


def test_f1_from_counts_by_hand():
    table = counts(n_ref=[4, 2, 0], n_est=[4, 0, 3], tp=[3, 0, 0], fp=[1, 0, 3])
    scores = metrics.scores_from_counts(table, undefined=[False, True, False])
    assert scores.macro_f1 == pytest.approx((0.75 + 0.0) / 2)
    assert scores.strict_macro_f1 == pytest.approx((0.75 + 0.0) / 2)
    assert scores.micro_f1 == pytest.approx(2 * 3 / (6 + 7))
    assert scores.classwise.loc["Dog", ["f1", "precision", "recall"]].isna().all()


def test_nothing_at_all_scores_zero():
    table = counts(n_ref=[0] * 3, n_est=[0] * 3, tp=[0] * 3, fp=[0] * 3)
    scores = metrics.scores_from_counts(table, undefined=[True] * 3)
    assert (scores.macro_f1, scores.micro_f1, scores.strict_macro_f1) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a.wav", 1.0, 0.5, "Dog")], "Dog in a.wav has its onset 1.0 s after its offset 0.5 s"),
        ([("a.wav", -1.0, 0.5, "Dog")], "Dog in a.wav has the onset -1.0"),
        ([(None, 0.0, 0.5, "Dog")], "a row without filename"),
    ],
)
def test_bad_rows_are_named(rows, words):
    table = pd.DataFrame(rows, columns=metrics.COLUMNS)
    with pytest.raises(InputError, match=words):
        metrics.check_events(table, "the reference")


def test_a_scenario_there_is_not():
    with pytest.raises(InputError, match="scenario is 3; give 1 or 2"):
        metrics.scenario_settings(3)
