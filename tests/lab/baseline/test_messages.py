"""One sentence for what goes wrong in a training, and less of the libraries' advice."""

import errno
import logging
import warnings

import pytest

from lab.baseline.messages import UNWRITABLE, one_sentence, quiet
from lab.errors import RESUME_ME, InputError, Stopped

# What torch makes of an error that one of its workers raised.
FROM_WORKER = """Caught InputError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "datasets.py", line 94, in __getitem__
    audio = self.audio(item)
dcase_coherence.official.errors.InputError: a.wav is cut short; copy it again
"""


def raised(error, expected=InputError):
    with pytest.raises(expected) as caught, one_sentence():
        raise error
    return caught.value


@pytest.mark.parametrize("said", [FROM_WORKER, "a.wav is cut short; copy it again"])
def test_the_sentence_is_that_of_the_worker(said):
    assert str(raised(InputError(said))) == "a.wav is cut short; copy it again"


@pytest.mark.parametrize("number", UNWRITABLE)
def test_a_full_disk_is_a_sentence(number):
    said = str(raised(OSError(number, "Disk quota exceeded")))
    assert said.startswith("the logs of the run cannot be written (Disk quota exceeded); make room")
    assert "\n" not in said


def test_a_worker_that_was_killed_is_a_sentence():
    said = str(raised(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")))
    assert said.startswith("a process that loads clips was killed")
    assert "training.num_workers" in said


def test_a_worker_that_was_told_to_stop_stops_the_run():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    assert raised(error, Stopped).code == RESUME_ME


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a shape is wrong"),
        OSError(errno.ENOENT, "No such file"),
        FloatingPointError("the features have diverged"),
    ],
)
def test_other_errors_pass_as_they_are(error):
    assert raised(error, type(error)) is error


def test_advice_that_does_not_apply_is_silenced_and_other_warnings_are_not():
    with warnings.catch_warnings(record=True) as heard, quiet():
        warnings.simplefilter("default", append=True)
        warnings.warn("The 'train_dataloader' does not have many workers", stacklevel=1)
        warnings.warn("Checkpoint directory /x exists and is not empty.", stacklevel=1)
        warnings.warn("the loss is odd", stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["the loss is odd"]


def test_lightnings_banners_are_silenced_for_a_while():
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level

    def fail():
        assert not logger.isEnabledFor(logging.INFO)
        assert logger.isEnabledFor(logging.WARNING)
        raise KeyError

    try:
        logger.setLevel(logging.INFO)
        with pytest.raises(KeyError), quiet():
            fail()
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)
