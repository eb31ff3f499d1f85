"""Changes of the clips of a training batch: mixup, time shift, gain, masked mel bands.

All numbers come from the global generators, which the trainer seeds for each epoch and process.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def mixup(data: Tensor, target: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mix each row with a row of a random permutation (Zhang et al., mixup, ICLR 2018).

    The share is drawn with `np.random.beta`, then the permutation with `torch.randperm`, once a
    batch and in the order of the DCASE 2021 Task 4 baseline: with the same seeds, the same mix.

    Data and target `(batch, ...)` are left as they are; "soft" mixes the labels in the same shares,
    "hard" unites them.
    """
    share = np.random.beta(0.2, 0.2)
    order = torch.randperm(data.size(0))
    mixed = share * data + (1 - share) * data[order]
    if kind == "soft":
        target = share * target + (1 - share) * target[order]
    else:
        target = target + target[order]
    return mixed, target.clamp(0, 1)


@torch.no_grad()
def time_shift(
    mels: Tensor, labels: Tensor, most: int, rows: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Turn each clip in time, its labels with it; what leaves at the end comes in at the start.

    Shifts are whole label frames, so that labels stay exact. Frames of the features beyond the
    last label frame, which the pooling leaves out, stay where they are.

    Args:
        mels: `(batch, mels, frames)`, a whole number of times as many frames as the labels have,
            and perhaps a few more.
        labels: `(batch, classes, label frames)`.
        most: largest shift, in label frames; each clip's is drawn from 0 to it.
        rows: those with strong labels; the labels of others do not move (weak labels stand in the
            first frame).
    """
    frames = labels.size(-1)
    pooled = mels.size(-1) // frames
    shifts = torch.randint(most + 1, (len(mels), 1), device="cpu").to(mels.device)
    turned = mels.clone()
    turned[..., : frames * pooled] = _turn(mels[..., : frames * pooled], shifts * pooled)
    moved = labels.clone()
    moved[rows] = _turn(labels[rows], shifts[rows])
    return turned, moved


def _turn(values: Tensor, shifts: Tensor) -> Tensor:
    """Shift each row of `(batch, ..., frames)` circularly by its own `(batch, 1)`."""
    size = values.size(-1)
    sources = (torch.arange(size, device=values.device) - shifts) % size
    return values.gather(-1, sources[:, None].expand_as(values))


@torch.no_grad()
def gain(mels: Tensor, deviation: float) -> Tensor:
    """Make each clip of magnitudes `(batch, mels, frames)` louder or softer.

    By a normally distributed number of dB, of this standard deviation. A scaler with the statistics
    of each clip takes most of it away again.
    """
    decibels = deviation * torch.randn(len(mels), 1, 1, device="cpu")
    return mels * (10 ** (decibels / 20)).to(mels.device)


@torch.no_grad()
def frequency_mask(features: Tensor, most: int) -> Tensor:
    """Set neighbouring mel bands of each clip to the clip's mean (Park et al., SpecAugment, 2019).

    Of `(batch, mels, frames)` each clip's number of bands is drawn from 0 to `most`, then the
    lowest of them.
    """
    batch, bands, _ = features.shape
    count = torch.randint(most + 1, (batch, 1), device="cpu")
    lowest = (torch.rand(batch, 1, device="cpu") * (bands - count + 1)).long()
    band = torch.arange(bands)
    masked = ((band >= lowest) & (band < lowest + count)).to(features.device)
    return torch.where(masked[..., None], features.mean((1, 2), keepdim=True), features)
