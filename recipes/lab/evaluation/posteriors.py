"""Posteriors of clips: collected, decoded, and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np
import pandas as pd

from lab.data.annotations import to_tsv
from lab.errors import InputError
from lab.evaluation import decode
from lab.files import whole_file, write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from lab.data.labels import ManyHotEncoder


class Posteriors:
    """Posteriors of one model, and the names of the clips.

    Attributes:
        strong: one array `(frames, classes)` a clip, in [0, 1].
        filenames: of the clips, as their table has them.
        seconds: length of each clip.
    """

    def __init__(self) -> None:
        self.strong: list[np.ndarray] = []
        self.filenames: list[str] = []
        self.seconds: list[float] = []

    def add(self, strong: Tensor, filenames: Sequence[str], seconds: float) -> None:
        """Add strong posteriors `(clips, classes, frames)` of clips of so many seconds."""
        self.strong.extend(strong.detach().transpose(1, 2).float().cpu().numpy())
        self.filenames.extend(filenames)
        self.seconds.extend([seconds] * len(filenames))

    def decode(
        self, encoder: ManyHotEncoder, thresholds: Sequence[float], median_window: int
    ) -> dict[float, pd.DataFrame]:
        """Events at each threshold, up to the end of each clip; clips may differ in length."""
        return decode.decode(
            self.strong,
            self.filenames,
            encoder.labels,
            thresholds=thresholds,
            median_window=median_window,
            frame_seconds=encoder.frame_seconds,
            clip_seconds=self.seconds,
        )

    def save(self, path: Path, encoder: ManyHotEncoder, median_window: int) -> None:
        """Write an npz: filenames, classes, seconds, lengths (frames), strong (joined in time).

        Beside them what :meth:`decode` takes: `frame_seconds` and `median_window`.
        """
        with whole_file(path) as temporary:
            np.savez_compressed(
                temporary,
                filenames=np.array(self.filenames),
                classes=np.array(encoder.labels),
                seconds=np.array(self.seconds),
                lengths=np.array([len(clip) for clip in self.strong]),
                strong=np.concatenate(self.strong),
                frame_seconds=encoder.frame_seconds,
                median_window=median_window,
            )


def load_posteriors(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read what :meth:`Posteriors.save` wrote.

    Returns:
        posteriors `(frames, classes)` by file name, and the class names.

    Raises:
        InputError: the file is missing or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, classes = file["filenames"].tolist(), file["classes"].tolist()
            strong, lengths = file["strong"], file["lengths"]
        if strong.shape != (lengths.sum(), len(classes)) or lengths.shape != (len(names),):
            raise ValueError("its arrays do not fit each other")
        return dict(zip(names, np.split(strong, np.cumsum(lengths)[:-1]))), classes
    except Exception as error:  # numpy and zipfile raise whatever a damaged file runs into
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"{path} holds no posteriors ({reason}); test the model again") from None


def decoding_of(path: Path) -> dict[str, Any]:
    """The `frame_seconds` and `median_window` beside the posteriors of a file.

    Raises:
        InputError: the file was written without them.
    """
    with np.load(path) as file:
        if "median_window" not in file:
            raise InputError(f"{path} has no median_window; test the model again")
        return {name: file[name].item() for name in ("frame_seconds", "median_window")}


def posteriors_of_test(folder: Path) -> Path:
    """The file of the teacher, else of the student, in the folder of a test that left one."""
    return max(folder.glob("*/posteriors.npz"))


class WeakScore:
    """Macro F1 of tags: the mean over classes, 0 for a class that is neither there nor detected."""

    def __init__(self, classes: int) -> None:
        self.hits = np.zeros(classes)
        self.total = np.zeros(classes)

    def add(self, weak: Tensor, labels: Tensor) -> None:
        """Count posteriors `(clips, classes)`, positive from 0.5 on, against 0/1 labels."""
        tags = weak.detach().cpu().numpy() >= 0.5
        truth = labels.cpu().numpy() > 0
        self.hits += (tags & truth).sum(0)
        self.total += tags.sum(0) + truth.sum(0)

    def macro_f1(self) -> float:
        """Mean over the classes, in [0, 1]."""
        return float(np.mean(2 * self.hits / np.maximum(self.total, 1)))


def write_detections(
    folder: Path, name: str, events: pd.DataFrame, points: Mapping[float, pd.DataFrame]
) -> None:
    """Write detections as the official baseline names them.

    `predictions_05_<name>.tsv` and, for each operating point, `predictions_th_<threshold>.tsv`. The
    threshold has all its digits, where the baseline writes two: no two points share a name. Points
    of an earlier test in the folder are removed.
    """
    tables = {f"predictions_05_{name}.tsv": events}
    tables.update({f"predictions_th_{float(at)!r}.tsv": table for at, table in points.items()})
    for file, table in tables.items():
        write_whole(folder / file, to_tsv(table))
    for path in folder.glob("predictions_th_*.tsv"):
        if path.name not in tables:
            path.unlink()
