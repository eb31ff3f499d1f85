import pandas as pd
import pytest

from lab.evaluation.scores import Scorer
from lab.evaluation.thresholds import Thresholds, choose_thresholds, threshold_scores

COLUMNS = ["filename", "onset", "offset", "event_label"]


def table(*rows):
    return pd.DataFrame(
        [(f"{clip}.wav", a, b, label) for clip, a, b, label in rows], columns=COLUMNS
    )


REFERENCE = table(("a", 1.0, 2.0, "Cat"), ("a", 4.0, 5.0, "Dog"), ("b", 1.0, 3.0, "Dog"))
DURATIONS = pd.DataFrame({"filename": ["a.wav", "b.wav"], "duration": [10.0, 10.0]})
CAT = table(("a", 1.0, 2.0, "Cat"))
DOGS = table(("a", 4.0, 5.0, "Dog"), ("b", 1.0, 3.0, "Dog"))
WRONG = table(("b", 6.0, 7.0, "Cat"), ("b", 8.0, 9.0, "Cat"))


@pytest.fixture
def scorer():
    return Scorer(REFERENCE, DURATIONS, ["Cat", "Dog"])


def test_each_class_takes_its_best_and_all_share_the_best_macro(scorer):
    events = {
        0.2: pd.concat([CAT, WRONG, DOGS]),
        0.5: pd.concat([CAT, DOGS[:1]]),
        0.8: CAT,
        0.9: CAT[:0],
    }
    thresholds = choose_thresholds(events, scorer)
    # Cat is as good at 0.8 as at 0.5, which is nearer to 0.5.
    assert thresholds == Thresholds(0.5, {"Cat": 0.5, "Dog": 0.2})
    scores = threshold_scores(events, scorer, thresholds)
    assert scores["shared_threshold"] == 0.5
    assert scores["shared_threshold_f1_macro"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["class_thresholds_f1_macro"] == scores["class_thresholds_f1_micro"] == 1
    assert scores["shared_threshold_f1_micro"] == pytest.approx(4 / 5)


def test_a_class_that_is_never_right_stays_at_half(scorer):
    thresholds = choose_thresholds({0.4: WRONG, 0.5: WRONG, 0.6: WRONG}, scorer)
    assert thresholds == Thresholds(0.5, {"Cat": 0.5, "Dog": 0.5})
