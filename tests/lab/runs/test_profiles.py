import numpy as np
import pandas as pd
import pytest

from lab.evaluation.posteriors import Posteriors, write_detections
from lab.evaluation.profile import ALL
from lab.runs.profiles import counts_of_trials, errors_of_trials, profile_of_scores

TABLE = ["filename", "onset", "offset", "event_label"]
REFERENCE = pd.DataFrame(
    [
        ("a.wav", 1.0, 3.0, "Dog"),
        ("b.wav", 1.0, 3.0, "Dog"),
        ("not_tested.wav", 1.0, 3.0, "Dog"),
        ("silent.wav", None, None, None),
    ],
    columns=TABLE,
)


@pytest.fixture
def trial(tmp_path):
    """Write what a test leaves behind, given the detected events; returns the trial's folder."""

    def trial(name, *events):
        said = Posteriors()
        said.filenames = ["a.wav", "b.wav", "silent.wav"]
        said.strong = [np.zeros((4, 1), dtype=np.float32)] * 3
        place = tmp_path / name / "metrics_test" / "teacher"
        said.save(place / "posteriors.npz", ["Dog"])
        write_detections(place, "teacher", pd.DataFrame(list(events), columns=TABLE), {})
        return tmp_path / name

    return trial


def test_errors_are_of_all_trials_over_the_clips_that_were_tested(trial, tmp_path):
    one = trial("one", ("a.wav", 1.1, 3.0, "Dog"), ("silent.wav", 1.0, 2.0, "Dog"))
    two = trial("two", ("a.wav", 1.0, 3.0, "Dog"), ("b.wav", 1.5, 3.0, "Dog"))
    errors = errors_of_trials([one, tmp_path / "elsewhere", two], "teacher", REFERENCE)
    assert errors["onset_error"].tolist() == pytest.approx([0.1, 0.0, 0.5])
    assert errors_of_trials([tmp_path / "elsewhere"], "teacher", REFERENCE) is None


def test_counts_of_clips_are_those_of_the_detections(trial):
    one = trial("one", ("a.wav", 1.1, 3.0, "Dog"), ("silent.wav", 1.0, 2.0, "Dog"))
    two = trial("two")
    counts = counts_of_trials([one, two], "teacher", REFERENCE, ["Cat", "Dog"])
    # Clips a, b and silent; reference events, estimated events, true positives of the dog.
    assert counts[0, :, 1].tolist() == [[1, 1, 1], [1, 0, 0], [0, 1, 0]]
    assert counts[1, :, 1].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert not counts[:, :, 0].any()


def test_profiles_are_summed_over_trials():
    scores = [
        {"test/teacher/profile/events": 4.0, "test/teacher/profile/hit": n, "test/teacher/f1": 0.5}
        for n in (1.0, 2.0)
    ]
    assert profile_of_scores(scores, "teacher").loc[ALL].to_dict() == {"events": 8, "hit": 3}
