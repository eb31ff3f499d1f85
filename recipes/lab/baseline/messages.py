"""What a training says: less of the libraries' advice, and one sentence for what goes wrong."""

from __future__ import annotations

import errno
import logging
import warnings
from contextlib import contextmanager
from typing import Iterator

from lab.errors import InputError, Stopped

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's banners, and its advice that does not apply here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for advice in (
            ".*does not have many workers.*",
            # A worker that lived on would not see the epoch of its clips change.
            ".*persistent_workers=True.*",
            ".*is smaller than the logging interval.*",
            ".*exists and is not empty.*",
            ".*isinstance.treespec, LeafSpec.*",
            # Rank zero alone scores.
            ".*sync_dist=True.*",
            # Frozen batch normalisation is.
            ".*in eval mode at the start of training.*",
        ):
            warnings.filterwarnings("ignore", advice)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Tell what a loader's worker, the disk or the memory ends a training with as one sentence."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).split("InputError: ")[-1].strip()) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise InputError(
            f"the logs of the run cannot be written ({error.strerror}); make room, and run the "
            "same command again to go on"
        ) from None
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise InputError(
                "the memory of the GPU is full; lower training.batch_size, set data.keep_mels: "
                "false or take another GPU, and run the same command again to go on"
            ) from None
        if "DataLoader worker" not in str(error):
            raise
        if "Terminated" in str(error):
            # A scheduler may stop it before it stops this process.
            raise Stopped("a process that loads clips was told to stop") from None
        raise InputError(
            "a process that loads clips was killed, for want of memory perhaps; lower "
            "training.num_workers, and run the same command again to go on"
        ) from None
