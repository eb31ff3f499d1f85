"""Mixup of clips within a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def mixup(
    data: Tensor,
    target: Tensor,
    alpha: float = 0.2,
    beta: float = 0.2,
    mixup_label_type: str = "soft",
) -> tuple[Tensor, Tensor]:
    """Mix each row with a row of a random permutation (Zhang et al., mixup, ICLR 2018).

    The share is drawn with `np.random.beta`, then the permutation with `torch.randperm`, once a
    batch and in the order of the DCASE 2021 Task 4 baseline: with the same seeds, the same mix.

    Args:
        data: `(batch, ...)`.
        target: `(batch, ...)`, in [0, 1].
        alpha: first parameter of the beta distribution.
        beta: second parameter of the beta distribution.
        mixup_label_type: "soft" mixes the labels in the same shares, "hard" unites them.

    Returns:
        Mixed data and mixed target, new tensors of the shapes given.
    """
    share = np.random.beta(alpha, beta)
    order = torch.randperm(data.size(0))
    mixed = share * data + (1 - share) * data[order]
    if mixup_label_type == "soft":
        target = share * target + (1 - share) * target[order]
    elif mixup_label_type == "hard":
        target = target + target[order]
    else:
        raise ValueError(f"mixup_label_type is {mixup_label_type!r}; it must be soft or hard")
    return mixed, target.clamp(0, 1)
