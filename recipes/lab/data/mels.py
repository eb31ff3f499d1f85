"""A cache of mel spectrograms in memory."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from lab.data.datasets import Clips


class MelCache(ConcatDataset):
    """Sets of clips whose items hold mel spectrograms, each made once and kept on its device.

    A clip that is left whole for its scores stays audio, as its length counts. Read it
    without worker processes, each of which would fill a cache of its own.

    Args:
        datasets: what a ConcatDataset would join.
        mel_spec: maps audio `(1, samples)` to mel spectrograms `(1, mels, frames)`.

    Raises:
        InputError: a clip cannot be read (by an item).
    """

    def __init__(self, datasets: Sequence[Clips], mel_spec: Callable[[Tensor], Tensor]) -> None:
        super().__init__(datasets)
        self.mel_spec = mel_spec
        self.clips = [(clips, item) for clips in datasets for item in range(len(clips))]
        self.items: dict[int, tuple[Any, ...]] = {}

    @torch.no_grad()
    def __getitem__(self, number: int) -> tuple[Any, ...]:
        if number in self.items:
            return self.items[number]
        clips, item = self.clips[number]
        audio, labels, *rest = clips[item]
        if len(audio) != clips.samples:
            return (audio, labels, *rest)
        mels = self.mel_spec(audio.unsqueeze(0))[0]
        parts = (mels, labels.to(mels.device), *rest)
        self.items[number] = parts
        return parts
