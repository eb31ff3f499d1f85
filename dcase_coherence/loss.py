"""Temporal coherence as a loss module."""

from __future__ import annotations

from torch import Tensor, nn

from dcase_coherence.functional import check_settings, coherence_loss


class CoherenceLoss(nn.Module):
    """Temporal coherence loss, eq. (3) of the paper; see :func:`coherence_loss`.

    Args:
        alpha1: weight of the distances at label changes (pushed apart).
        alpha2: weight of the distances elsewhere (pulled together).
        reduction: `"mean"` over label elements, `"sum"` or `"none"`.
        margin: boundary distances (squared) saturate here; None is the paper's.
        normalize: use unit-norm features; False is the paper's.
        tolerance: a soft label counts as changed when it moves by more than this.

    Raises:
        ValueError: when a setting is out of its range.

    Example:
        >>> import torch
        >>> z, y = torch.randn(2, 10, 8, requires_grad=True), torch.zeros(2, 10, 3)
        >>> CoherenceLoss()(z, y).backward()
        >>> z.grad.shape
        torch.Size([2, 10, 8])
    """

    def __init__(
        self,
        alpha1: float = 0.1,
        alpha2: float = 0.03,
        *,
        reduction: str = "mean",
        margin: float | None = None,
        normalize: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        check_settings(alpha1, alpha2, reduction, margin, tolerance)
        self.alpha1 = alpha1
        self.alpha2 = alpha2
        self.reduction = reduction
        self.margin = margin
        self.normalize = normalize
        self.tolerance = tolerance

    def forward(self, features: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss of features `(batch, frames, dims)` under labels `(batch, frames, classes)`."""
        return coherence_loss(
            features,
            labels,
            self.alpha1,
            self.alpha2,
            reduction=self.reduction,
            margin=self.margin,
            normalize=self.normalize,
            tolerance=self.tolerance,
            valid=valid,
        )

    def extra_repr(self) -> str:
        """Settings shown by ``print(model)``."""
        return (
            f"alpha1={self.alpha1}, alpha2={self.alpha2}, reduction={self.reduction!r}, "
            f"margin={self.margin}, normalize={self.normalize}, tolerance={self.tolerance}"
        )
