"""Pictures of what a detector finds in a recording: a figure, and a page that plays."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

import numpy as np
import pandas as pd

from lab.baseline.detections import Detections
from lab.data.annotations import one_field
from lab.data.labels import ManyHotEncoder
from lab.evaluation import plots
from lab.files import PathLike, write_whole


def draw_posteriors(
    target: PathLike,
    name: str,
    audio: PathLike,
    posteriors: np.ndarray,
    encoder: ManyHotEncoder,
    threshold: float,
) -> None:
    """Draw the posteriors of a recording, as PNG and SVG.

    Args:
        target: path of the files, without suffix.
        name: of the recording, the title.
        audio: the recording, whose spectrogram is drawn above.
        posteriors: `(frames, classes)`.
        encoder: frames and classes of the posteriors.
        threshold: of the posteriors.
    """
    figure = plots.posteriors(
        {"posterior": posteriors},
        pd.DataFrame(),
        encoder.labels,
        frame_seconds=encoder.frame_seconds,
        audio=audio,
        threshold=threshold,
        title=one_field(name),
    )
    plots.save(figure, target)


def write_page(
    path: PathLike,
    detections: Detections,
    sound: np.ndarray,
    posteriors: np.ndarray,
    encoder: ManyHotEncoder,
    threshold: float,
    settings: Mapping[str, object],
) -> None:
    """Write the page of a recording, see :func:`lab.evaluation.player.player`."""
    from lab.evaluation.player import player

    content = player(
        one_field(Path(detections.filename).name),
        sound,
        posteriors,
        detections.events,
        encoder.labels,
        frame_seconds=encoder.frame_seconds,
        threshold=threshold,
        settings=settings,
    )
    write_whole(path, content)
