"""Pseudo-labels: what a teacher is sure of, as labels for clips without strong ones."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn

from dcase_coherence.tap import FeatureTap


class PseudoRows(NamedTuple):
    """Rows of a batch with labels that nobody gave, for the regularizer's second term.

    Attributes:
        labels: `(rows, frames, classes)`, or of the whole batch.
        rows: which rows of the batch (a slice, a bool mask or indices); None for all.
        valid: bool, like the labels but for the classes: False where a frame does not count.
        epoch: how many epochs are over since the term on these rows may begin, fractional; below
            0 its weight is 0.
    """

    labels: Tensor
    rows: Union[slice, Tensor, None] = None
    valid: Union[Tensor, None] = None
    epoch: float = math.inf


def median_filter(posteriors: Tensor, window: int) -> Tensor:
    """Median-filter posteriors along time, as the decoding of events does.

    Boundaries are reflected, and of an even window the larger of the two middle values is taken:
    the numbers are those of `scipy.ndimage.median_filter`.

    Args:
        posteriors: `(batch, frames, classes)`.
        window: length of the filter in frames; 1 leaves the posteriors as they are.

    Returns:
        `(batch, frames, classes)`.

    Raises:
        ValueError: when the window is no whole number of at least 1.

    Example:
        >>> median_filter(torch.tensor([[[0.1], [0.9], [0.2], [0.8], [0.7]]]), 3).flatten()
        tensor([0.1000, 0.2000, 0.8000, 0.7000, 0.7000])
    """
    if int(window) != window or window < 1:
        raise ValueError(f"median_window is {window}; give a whole number of frames of at least 1")
    window, frames = int(window), posteriors.shape[1]
    if window == 1 or not posteriors.numel():
        return posteriors
    before = window // 2
    place = torch.arange(-before, frames + window - before - 1, device=posteriors.device)
    place = place.remainder(2 * frames)
    reflected = torch.min(place, 2 * frames - 1 - place)
    around = posteriors[:, reflected].unfold(1, window, 1)
    return around.sort(dim=-1).values[..., before]


def pseudo_labels(
    posteriors: Tensor, *, threshold: float = 0.5, band: float = 0.05, median_window: int = 7
) -> tuple[Tensor, Tensor]:
    """Labels from a teacher's posteriors, and the frames in which it is sure of them.

    Args:
        posteriors: of the strong output, `(batch, frames, classes)`. No gradient flows to them.
        threshold: a class is active where its median-filtered posterior is above it.
        band: a frame counts when the filtered posteriors of all classes are at least this far
            from the threshold; 0 counts every frame. A boundary counts where the posterior passes
            the band from one frame to the next, so a wide band leaves few of them.
        median_window: length of the median filter, in frames.

    Returns:
        Labels of 0 and 1 `(batch, frames, classes)`, and bool `(batch, frames)`, False where a
        frame does not count (also for NaN).

    Raises:
        ValueError: when posteriors are not three-dimensional, or a setting is out of its range.

    Example:
        >>> posteriors = torch.tensor([[[0.1], [0.47], [0.8], [0.9]]])
        >>> labels, valid = pseudo_labels(posteriors, median_window=1)
        >>> labels.flatten(), valid
        (tensor([0., 0., 1., 1.]), tensor([[ True, False,  True,  True]]))
    """
    check_pseudo_labels(threshold, band)
    if posteriors.dim() != 3:
        raise ValueError(
            f"posteriors have shape {tuple(posteriors.shape)}; they must be (batch, frames, "
            "classes)"
        )
    posteriors = posteriors.detach()
    if posteriors.dtype != torch.float64:
        posteriors = posteriors.float()
    smooth = median_filter(posteriors, median_window)
    # A comparison of each side, so that 0.55 is 0.05 from 0.5 in the posteriors' own precision.
    sure = (smooth <= threshold - band) | (smooth >= threshold + band)
    return (smooth > threshold).to(smooth.dtype), sure.all(dim=-1)


def check_pseudo_labels(threshold: Any, band: Any) -> None:
    """Check the settings of pseudo-labels.

    Raises:
        ValueError: when one of them is out of its range; the message names it and its value.
    """
    if not _is_number(threshold) or not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold!r}; it must be a number between 0 and 1")
    widest = min(threshold, 1 - threshold)
    if not _is_number(band) or not 0 <= band < widest:
        raise ValueError(
            f"band is {band!r}; it must be a number from 0 to below {widest:g}, so that there are "
            f"posteriors on both sides of the threshold {threshold:g} that count"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class PosteriorTap(FeatureTap):
    """Tap of a network's strong posteriors, `(batch, classes, frames)` as it gives them.

    Args:
        model: its output is the strong posteriors, or begins with them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, layout="bct")
        self.name = f"teacher {self.name}"

    def _features(self, output: Any) -> Tensor:
        return super()._features(output[0] if isinstance(output, (tuple, list)) else output)


class TeacherLabels:
    """Pseudo-labels from the forward pass that a training step makes of its teacher anyway.

    The teacher is tapped: a second forward of it in training mode would move the statistics of
    its batch normalisation.

    Args:
        teacher: the network; see :class:`PosteriorTap`.
        rows: which rows of the batch to label.
        threshold: see :func:`pseudo_labels`.
        band: see :func:`pseudo_labels`.
        median_window: see :func:`pseudo_labels`.
        after: the epoch from which on the labels count.

    Example:
        >>> teacher = nn.Sequential(nn.Conv1d(8, 3, 1), nn.Sigmoid())
        >>> labels = TeacherLabels(teacher, rows=slice(2, 6), after=50)
        >>> with torch.no_grad():
        ...     _ = teacher(torch.randn(6, 8, 50))
        >>> labels(epoch=51.5).labels.shape, labels.after
        (torch.Size([4, 50, 3]), 50)
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        rows: slice,
        threshold: float = 0.5,
        band: float = 0.05,
        median_window: int = 7,
        after: float = 0.0,
    ) -> None:
        check_pseudo_labels(threshold, band)
        self.teacher = teacher
        self.rows = rows
        self.threshold = threshold
        self.band = band
        self.median_window = median_window
        self.after = after
        self.tap = PosteriorTap(teacher)

    def begin(self) -> None:
        """Forget the forward passes before a step; tap the teacher again in a copy."""
        if not self.tap.attached:
            self.tap = PosteriorTap(self.teacher)
        self.tap.clear()

    def __call__(self, epoch: float = math.inf) -> PseudoRows:
        """Label the rows of the step at a (fractional, 0-based) epoch.

        Raises:
            RuntimeError: when the teacher did not run, or ran more than once, in the step.
        """
        labels, valid = pseudo_labels(
            self.tap.pop()[self.rows],
            threshold=self.threshold,
            band=self.band,
            median_window=self.median_window,
        )
        return PseudoRows(labels, self.rows, valid, epoch - self.after)
