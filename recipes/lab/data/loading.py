"""Batches of clips: read by a DataLoader, or of packed clips made on the device that trains."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, SequentialSampler

from lab.data.datasets import Clips
from lab.data.packed import SCALE, Store, pack
from lab.files import PathLike


def pack_sets(sets: Iterable[Clips], cache: PathLike | None = None) -> None:
    """Let sets take their audio from packed stores, which are made where needed.

    Args:
        sets: whose files are wav.
        cache: folder of the stores; None for beside the folders of the clips.

    Raises:
        InputError: see :func:`lab.data.packed.pack`.
    """
    stores: dict[str, Store] = {}
    for clips in sets:
        places = []
        for folder, name in map(os.path.split, clips.files):
            if folder not in stores:
                stores[folder] = pack(folder, clips.fs, cache=cache)
            places.append((stores[folder], stores[folder].number(name)))
        clips.packed = places


def is_packed(data: Any) -> bool:
    """Whether all of a ConcatDataset's clips lie in packed stores."""
    return isinstance(data, ConcatDataset) and all(
        getattr(clips, "packed", None) is not None for clips in data.datasets
    )


def load(
    data: Any,
    device: torch.device,
    *,
    num_workers: int = 0,
    mel_spec: Callable[[Tensor], Tensor] | None = None,
    **batches: Any,
) -> Any:
    """Give batches of clips: a DataLoader or, where all lie in packed stores, without one.

    Args:
        data: a set of clips or a ConcatDataset.
        device: where packed clips are wanted.
        num_workers: of a DataLoader.
        mel_spec: of packed clips give what it makes of them, see :class:`MelBatches`.
        batches: `batch_sampler` or `batch_size`.
    """
    if is_packed(data) and mel_spec is not None:
        return MelBatches(data, device, mel_spec, **batches)
    if is_packed(data):
        return DeviceBatches(data, device, **batches)
    # Its own generator: starting workers takes no number from the training's.
    return DataLoader(data, num_workers=num_workers, generator=torch.Generator(), **batches)


class DeviceBatches:
    """The batches that a DataLoader would give, without one, on a device.

    Audio and labels of all clips stay in the device's memory (of a CPU: the stores' memory maps);
    a batch is a copy there. A clip of ten seconds takes 320 kB.

    Args:
        data: a ConcatDataset of packed clips.
        device: where the batches are wanted.
        batch_sampler: gives the numbers of each batch's clips, which are of one length.
        batch_size: without a sampler, clips in a batch, in order.

    Raises:
        InputError: the device has not enough memory.
    """

    def __init__(
        self,
        data: Any,
        device: torch.device,
        batch_sampler: Any = None,
        batch_size: int = 1,
    ) -> None:
        self.batch_sampler = batch_sampler or BatchSampler(
            SequentialSampler(data), batch_size, drop_last=False
        )
        self.device = device
        self.clips: list[tuple[Any, int]] = [
            (clips, item) for clips in data.datasets for item in range(len(clips.files))
        ]
        labels = [torch.from_numpy(clips.labels(item).T) for clips, item in self.clips]
        # Hard labels take a byte each, soft ones the four of what is trained with.
        soft = any(bool(((label != 0) & (label != 1)).any()) for label in labels)
        kind = torch.float32 if soft else torch.uint8
        self.labels = torch.stack([label.to(kind) for label in labels]).to(device)
        for clips, item in self.clips:
            clips.packed[item][0].on(device)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[Any]]:
        for numbers in self.batch_sampler:
            yield self.batch(numbers)

    def batch(self, numbers: list[int]) -> list[Any]:
        """Audio `(batch, samples)`, labels `(batch, classes, frames)`, ones, and file names.

        The names are there where the clips have `return_filename`.
        """
        labels = self.labels.index_select(0, torch.tensor(numbers, device=self.device)).float()
        sound, labels = self.sound(numbers, labels)
        batch = [sound, labels, torch.ones(len(numbers), dtype=torch.float64, device=self.device)]
        if self.clips[numbers[0]][0].return_filename:
            return [*batch, tuple(c.files[i] for c, i in (self.clips[n] for n in numbers))]
        return batch

    def sound(self, numbers: list[int], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Audio `(batch, samples)`, and the labels of what is taken of each clip."""
        parts: list[Tensor] = []
        for row, number in enumerate(numbers):
            clips, item = self.clips[number]
            store, clip = clips.packed[item]
            length = store.lengths[clip]
            samples = clips.taken(length)
            start = clips.starts[item]
            begin = store.starts[clip] + start
            part = store.on(self.device)[begin : begin + min(length - start, samples)]
            missing = samples - len(part)
            parts.append(functional.pad(part, (0, missing)) if missing else part)
            if samples > clips.samples:
                own = clips.labels(item, clips.frames(samples)).T
                if row == 0 and own.shape != labels.shape[1:]:
                    labels = labels.new_empty((len(numbers), *own.shape))
                labels[row] = torch.from_numpy(own).to(labels)
        return torch.stack(parts).float().div_(SCALE), labels


class MelBatches(DeviceBatches):
    """Batches that hold mel spectrograms in the place of audio, each made once and kept.

    Args:
        data: a ConcatDataset of packed clips.
        device: where the batches are wanted.
        mel_spec: maps `(1, samples)` to `(1, mels, frames)`.
        **batches: as in :class:`DeviceBatches`.
    """

    def __init__(
        self,
        data: Any,
        device: torch.device,
        mel_spec: Callable[[Tensor], Tensor],
        **batches: Any,
    ) -> None:
        super().__init__(data, device, **batches)
        self.mel_spec = mel_spec
        self.mels: dict[int, Tensor] = {}

    def sound(self, numbers: list[int], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mel spectrograms `(batch, mels, frames)`, and the labels of what they are of."""
        parts, own = [], []
        for row, number in enumerate(numbers):
            mels, clip_labels = self.mels.get(number), labels[row]
            if mels is None:
                sound, moved = super().sound([number], labels[row : row + 1])
                self.mels[number] = mels = self.mel_spec(sound)[0]
                clip_labels = moved[0]
            parts.append(mels)
            own.append(clip_labels)
        return torch.stack(parts), torch.stack(own)
