import numpy as np
import pandas as pd
import pytest

from lab.errors import InputError
from lab.evaluation.posteriors import Posteriors, write_detections
from lab.evaluation.profile import ALL
from lab.runs.profiles import profiles_of_trials

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


def test_trials_of_a_system_are_summed_over_the_clips_that_were_tested(trial):
    one = trial("one", ("a.wav", 1.1, 3.0, "Dog"), ("silent.wav", 1.0, 2.0, "Dog"))
    two = trial("two", ("a.wav", 1.0, 3.0, "Dog"), ("b.wav", 1.5, 3.0, "Dog"))
    nothing = trial("nothing")
    folders = {"system": [one, two], "deaf": [nothing, nothing], "diverged": []}
    profiles, errors = profiles_of_trials(folders, "teacher", REFERENCE)
    assert list(profiles) == list(errors) == ["system", "deaf"]
    found = profiles["system"].loc[ALL]
    assert found[["events", "hit", "onset_wrong", "missed"]].tolist() == [4, 2, 1, 1]
    assert found[["estimated", "est_hit", "est_false_alarm"]].tolist() == [4, 2, 1]
    assert errors["system"]["onset_error"].tolist() == pytest.approx([0.1, 0.0, 0.5])
    assert profiles["deaf"].loc[ALL, ["events", "missed"]].tolist() == [4, 4]
    assert errors["deaf"].empty


def test_a_trial_without_detections_is_named(trial, tmp_path):
    folders = {"system": [trial("one"), tmp_path / "untested"]}
    with pytest.raises(InputError, match=r"untested.*posteriors.npz"):
        profiles_of_trials(folders, "teacher", REFERENCE)
