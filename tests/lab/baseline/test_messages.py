"""One sentence for what goes wrong in a training, and less of the libraries' advice."""

import errno
import warnings

import pytest
import torch

from lab.baseline.messages import one_sentence, quiet
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError(FROM_WORKER), "a.wav is cut short; copy it again"),
        (OSError(errno.ENOSPC, "No space left"), "cannot be written (No space left); make room"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "num_workers"),
        (torch.OutOfMemoryError("CUDA out of memory"), "training.batch_size"),
    ],
)
def test_what_goes_wrong_is_one_sentence(error, words):
    output = str(raised(error))
    assert words in output
    assert "\n" not in output


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
