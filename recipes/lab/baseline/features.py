"""Log-mel features and their normalisation; the only module that needs torchaudio."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

import torch
import torchaudio
from torch import Tensor, nn

EPSILON = 1e-8  # added to divisors


class MelSpectrogram(torchaudio.transforms.MelSpectrogram):
    """Mel spectrogram of magnitudes, as in the DCASE 2021 Task 4 baseline.

    A symmetric Hamming window and mel filters on magnitudes (power 1). `(batch, samples)` becomes
    `(batch, mels, frames)`. Takes the `feats:` section of the configuration, of which the official
    features do not use `n_filters` either.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_window: int = 2048,
        hop_length: int = 256,
        f_min: float = 0.0,
        f_max: float = 8000.0,
        n_mels: int = 128,
        n_filters: int = 2048,
    ) -> None:
        super().__init__(
            sample_rate=sample_rate,
            n_fft=n_window,
            win_length=n_window,
            hop_length=hop_length,
            f_min=f_min,
            f_max=f_max,
            n_mels=n_mels,
            window_fn=torch.hamming_window,
            wkwargs={"periodic": False},
            power=1,
        )


def take_log(mels: Tensor) -> Tensor:
    """Magnitudes to dB, floored at 1e-5 and clamped to [-50, 80]."""
    return mels.clamp(min=1e-5).log10().mul_(20).clamp_(-50, 80)


class Scaler(nn.Module):
    """Normalise log-mel features, clip by clip or with the statistics of a data set.

    Args:
        statistic: "instance" (statistics of each clip) or "dataset" (:meth:`fit` first).
        normtype: "minmax" to [0, 1] (instance only), "standard" to mean 0 and deviation 1, or
            "mean".
        dims: dimensions of `(batch, mels, frames)` that share statistics.
    """

    mean: Tensor
    mean_squared: Tensor

    def __init__(
        self,
        statistic: str = "instance",
        normtype: str = "minmax",
        dims: Sequence[int] = (1, 2),
    ) -> None:
        super().__init__()
        self.statistic = statistic
        self.normtype = normtype
        self.dims = tuple(dims)

    @property
    def needs_fit(self) -> bool:
        """Whether :meth:`fit` must be called before use."""
        return self.statistic == "dataset" and "mean" not in self._buffers

    def set_statistics(self, mean: Tensor, mean_squared: Tensor) -> None:
        """Take the statistics of a data set, `(1, ...)` with the `dims` kept as 1."""
        self.register_buffer("mean", mean)
        self.register_buffer("mean_squared", mean_squared)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Average the statistics of batches of features `(batch, mels, frames)`."""
        count = 0
        mean: Any = 0.0
        mean_squared: Any = 0.0
        for features in batches:
            count += 1
            mean = mean + features.mean(self.dims, keepdim=True).mean(0, keepdim=True)
            squares = features.square().mean(self.dims, keepdim=True)
            mean_squared = mean_squared + squares.mean(0, keepdim=True)
        self.set_statistics(mean / count, mean_squared / count)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise `(batch, mels, frames)`."""
        if self.statistic == "dataset":
            centred = features - self.mean
            if self.normtype == "mean":
                return centred
            return centred / ((self.mean_squared - self.mean**2).sqrt() + EPSILON)
        if self.normtype == "minmax":
            low = features.amin(self.dims, keepdim=True)
            high = features.amax(self.dims, keepdim=True)
            return (features - low) / (high - low + EPSILON)
        centred = features - features.mean(self.dims, keepdim=True)
        if self.normtype == "mean":
            return centred
        return centred / (features.std(self.dims, keepdim=True) + EPSILON)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # The statistics of a checkpoint may come before any fit, in the shape that `dims` gave.
        if self.needs_fit and prefix + "mean" in state_dict:
            self.set_statistics(
                torch.empty_like(state_dict[prefix + "mean"]),
                torch.empty_like(state_dict[prefix + "mean_squared"]),
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
