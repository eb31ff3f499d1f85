"""Temporal coherence as a loss module."""

from __future__ import annotations

from typing import Sequence

from torch import Tensor, nn

from dcase_coherence.functional import check_settings, coherence_loss


class CoherenceLoss(nn.Module):
    r"""Temporal coherence loss: stable features inside events, a jump at their boundaries.

    .. math:: \frac{1}{|K|} \sum_{k \in K} \Big[
              -\alpha_1 \sum_{y_t \ne y_{t-k}} \|z_t - z_{t-k}\|_2^2
              + \alpha_2 \sum_{y_t = y_{t-k}} \|z_t - z_{t-k}\|_2^2 \Big]

    With the lags K = {1}, the default, this is eq. (3) of Kothinti & Elhilali, *Temporal
    contrastive-loss for audio event detection*, divided (`reduction="mean"`) by the number of
    label elements, as a mean cross-entropy is. It has no lower bound; `margin` and `normalize`
    give it one. With several lags and alpha1 <= alpha2 a pulse of z at a label change never pays,
    only a step does; see :func:`~dcase_coherence.functional.coherence_loss`.

    The module has no parameters and no state.

    Args:
        alpha1: weight of the distances at label changes (pushed apart).
        alpha2: weight of the distances elsewhere (pulled together).
        lags: how many frames apart two frames are compared; the loss is the mean over the lags.
            `(1,)` is the paper's.
        reduction: `"mean"` over label elements (batch x frames x classes), `"sum"` or `"none"`.
        margin: boundary distances (squared) saturate here; None is the paper's.
        normalize: use unit-norm features; False is the paper's.
        center: take the mean over the batch's valid frames off before `normalize`; False is the
            paper's.
        tolerance: a soft label counts as changed when it moves by more than this.

    Shapes:
        features z `(batch, frames, dims)`, labels y `(batch, frames, classes)`, hard or soft,
        and `valid`, bool `(batch, frames)`, False for padding; a scalar, at least float32, comes
        out, or `(batch, frames - 1)` for `reduction="none"`.

    Raises:
        ValueError: when a setting is out of its range.

    Example:
        >>> import torch
        >>> z, y = torch.randn(2, 10, 8, requires_grad=True), torch.zeros(2, 10, 3)
        >>> CoherenceLoss()(z, y).backward()
        >>> z.grad.shape
        torch.Size([2, 10, 8])
        >>> steps = CoherenceLoss(0.3, 0.3, lags=(1, 2, 4, 8), normalize=True, center=True)
        >>> steps(z, y).shape
        torch.Size([])
    """

    def __init__(
        self,
        alpha1: float = 0.1,
        alpha2: float = 0.03,
        *,
        lags: Sequence[int] = (1,),
        reduction: str = "mean",
        margin: float | None = None,
        normalize: bool = False,
        center: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        check_settings(alpha1, alpha2, reduction, margin, tolerance, lags)
        self.alpha1 = alpha1
        self.alpha2 = alpha2
        self.lags = tuple(lags)
        self.reduction = reduction
        self.margin = margin
        self.normalize = normalize
        self.center = center
        self.tolerance = tolerance

    def forward(self, features: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss of features `(batch, frames, dims)` under labels `(batch, frames, classes)`."""
        return coherence_loss(
            features,
            labels,
            self.alpha1,
            self.alpha2,
            lags=self.lags,
            reduction=self.reduction,
            margin=self.margin,
            normalize=self.normalize,
            center=self.center,
            tolerance=self.tolerance,
            valid=valid,
        )

    def extra_repr(self) -> str:
        """Settings shown by ``print(model)``."""
        return (
            f"alpha1={self.alpha1}, alpha2={self.alpha2}, lags={self.lags}, "
            f"reduction={self.reduction!r}, margin={self.margin}, normalize={self.normalize}, "
            f"center={self.center}, tolerance={self.tolerance}"
        )
