"""Clips with strong, weak and no labels, and the sampler that joins them in a batch.

An item is `(audio (samples,), labels (classes, frames), 1.0)`, with the clip's path at the end
where `return_filename` is set. A clip that is longer than the network's is cut into windows, an
item each, so that an epoch hears all of it.
"""

from __future__ import annotations

import math
import os
from typing import Any, Iterator, List, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Sampler

from lab.data.audio import audio_names, read_audio, read_length, refuse_missing
from lab.data.labels import ManyHotEncoder
from lab.errors import InputError
from lab.files import PathLike

#: Share of a window that may be left out at the end of a clip.
SLACK = 0.02


class Clips(Dataset):
    """Audio clips and their labels, of one length unless `whole`; the base of the three sets.

    Args:
        files: path of each clip.
        encoder: gives the frames and classes of the labels.
        pad_to: length in seconds; shorter clips are padded with zeros, longer ones are cut into
            windows.
        fs: sampling rate in Hz.
        return_filename: add the path to the item.
        whole: leave longer clips whole, as what is scored has to be.

    Attributes:
        files: path of each item's clip.
        clips: number of each item's clip in the given order.
        starts: first sample of each item in its clip.

    Raises:
        InputError: a file that may have to be cut cannot be read.
    """

    def __init__(
        self,
        files: Sequence[str],
        encoder: ManyHotEncoder,
        pad_to: float = 10,
        fs: int = 16000,
        return_filename: bool = False,
        whole: bool = False,
    ) -> None:
        self.encoder = encoder
        self.samples = round(pad_to * fs)
        self.fs = fs
        self.return_filename = return_filename
        self.whole = whole
        windows = [(clip, at) for clip, path in enumerate(files) for at in self._windows(path)]
        self.clips = [clip for clip, _ in windows]
        self.starts = [start for _, start in windows]
        self.files = [files[clip] for clip in self.clips]

    def __len__(self) -> int:
        return len(self.files)

    def _windows(self, path: str) -> list[int]:
        """First samples of the windows of a clip, evenly spaced from its start to its end."""
        if self.whole:
            return [0]
        rest = read_length(path, self.fs) - self.samples
        more = math.ceil(rest / self.samples - SLACK)
        return [round(window * rest / more) for window in range(more + 1)] if more > 0 else [0]

    def labels(self, item: int, frames: int | None = None) -> np.ndarray:
        """Labels `(frames, classes)` of an item; `frames` where they are not the encoder's."""
        frames = self.encoder.n_frames if frames is None else frames
        return np.zeros((frames, len(self.encoder.labels)))

    def audio(self, item: int) -> np.ndarray:
        """Float32 samples `(samples,)` of an item, unpadded."""
        samples = -1 if self.whole else self.samples
        return read_audio(self.files[item], self.fs, self.starts[item], samples)

    def length(self, item: int) -> int:
        """Samples of an item, without reading its audio."""
        if not self.whole:
            return self.samples
        return max(read_length(self.files[item], self.fs), self.samples)

    def __getitem__(self, item: int) -> tuple[Any, ...]:
        audio = self.audio(item)
        audio = np.pad(audio, (0, max(self.samples - len(audio), 0)))
        frames = len(audio) // self.encoder.frame_hop // self.encoder.net_pooling
        labels = self.labels(item, frames)
        tensors = torch.from_numpy(audio), torch.from_numpy(labels.T.astype(np.float32))
        return (*tensors, 1.0, *([self.files[item]] if self.return_filename else []))


class StronglyAnnotatedSet(Clips):
    """Clips whose events have a class, an onset and an offset.

    Args:
        audio_folder: holds the files that the table names.
        tsv_entries: columns filename, onset, offset (seconds), event_label and, of soft labels,
            confidence; a row without label is a clip without events.

    The rest is as in :class:`Clips`. Raises InputError when files are missing.
    """

    def __init__(
        self,
        audio_folder: PathLike,
        tsv_entries: pd.DataFrame,
        encoder: ManyHotEncoder,
        pad_to: float = 10,
        **options: Any,
    ) -> None:
        self.events: dict[str, list[tuple[Any, ...]]] = {}
        columns = ["filename", "event_label", "onset", "offset"]
        columns += ["confidence"] * ("confidence" in tsv_entries)
        for filename, *event in zip(*(tsv_entries[column] for column in columns)):
            events = self.events.setdefault(filename, [])
            if not pd.isna(event[0]):
                events.append(tuple(event))
        self.names = list(self.events)
        files = find_files(audio_folder, self.names)
        super().__init__(files, encoder, pad_to, **options)

    def labels(self, item: int, frames: int | None = None) -> np.ndarray:
        """Labels `(frames, classes)` of an item."""
        # To the millisecond: events that begin with the window begin in its first frame.
        onset = round(self.starts[item] / self.fs, 3)
        return self.encoder.encode_strong(
            [
                (label, max(0, start - onset), stop - onset, *confidence)
                for label, start, stop, *confidence in self.events[self.names[self.clips[item]]]
                if stop > onset
            ],
            frames,
        )


class WeakSet(Clips):
    """Clips with tags; the labels stand in the first frame, the other frames are zero.

    Each window of a long clip has all its tags.

    Args:
        audio_folder: holds the files that the table names.
        tsv_entries: columns filename, event_labels (separated by commas).

    The rest is as in :class:`Clips`. Raises InputError when files are missing.
    """

    def __init__(
        self,
        audio_folder: PathLike,
        tsv_entries: pd.DataFrame,
        encoder: ManyHotEncoder,
        pad_to: float = 10,
        **options: Any,
    ) -> None:
        self.tags = list(tsv_entries["event_labels"])
        files = find_files(audio_folder, list(tsv_entries["filename"]))
        super().__init__(files, encoder, pad_to, **options)

    def labels(self, item: int, frames: int | None = None) -> np.ndarray:
        """Labels `(frames, classes)`, all in frame 0."""
        labels = super().labels(item, frames)
        labels[0] = self.encoder.encode_weak(self.tags[self.clips[item]])
        return labels


class UnlabeledSet(Clips):
    """All clips of a folder and below, sorted by name (the official baseline takes any order).

    Args:
        unlabeled_folder: holds the clips.

    The rest is as in :class:`Clips`. Raises InputError when the folder holds none.
    """

    def __init__(
        self,
        unlabeled_folder: PathLike,
        encoder: ManyHotEncoder,
        pad_to: float = 10,
        **options: Any,
    ) -> None:
        _check_folder(unlabeled_folder)
        files = audio_names(unlabeled_folder)
        if not files:
            raise InputError(f"{unlabeled_folder} holds no audio file; put the clips there")
        paths = [os.path.join(unlabeled_folder, file) for file in files]
        super().__init__(paths, encoder, pad_to, **options)


class ConcatDatasetBatchSampler(Sampler[List[int]]):
    """Batches of fixed shares of concatenated sets, each set in a new random order an epoch.

    A pass ends when the set that is used up first cannot fill its share; an epoch has one pass or
    more. The order is a function of seed and epoch alone. Of several processes each takes its part
    of each set's share of a batch: together, in the order of their ranks, they see what one process
    with their shares added up would see.

    Args:
        lengths: clips of each set, in the order of the ConcatDataset.
        batch_sizes: clips of each set in a batch of one process; 0 leaves the set out.
        passes: how often an epoch goes through the clips.
        rank: which of the processes this is, from 0.
        processes: how many train together.

    Raises:
        InputError: a set has fewer clips than its share, or all shares are 0.

    Example:
        >>> sampler = ConcatDatasetBatchSampler([4, 2, 9], [2, 1, 0], seed=1)
        >>> len(sampler), [len(batch) for batch in sampler]
        (2, [3, 3])
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_sizes: Sequence[int],
        seed: int = 0,
        *,
        passes: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if not any(batch_sizes):
            raise InputError("batch_size is 0 for every set; give at least one set a share")
        for length, size, name in zip(lengths, batch_sizes, ("strong", "weak", "unlabelled")):
            if length < size * processes:
                each = f" in each of {processes} processes" if processes > 1 else ""
                raise InputError(
                    f"the {name} set has {length} clips, fewer than its batch size of {size}"
                    f"{each}; add clips or lower training.batch_size"
                )
        self.lengths = list(lengths)
        self.batch_sizes = list(batch_sizes)
        self.seed = seed
        self.passes = passes
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the orders of an epoch; takes effect at the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        shares = zip(self.lengths, self.batch_sizes)
        once = min(length // (size * self.processes) for length, size in shares if size)
        return once * self.passes

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.passes):
            yield from self._pass(self.epoch * self.passes + number)

    def _pass(self, passed: int) -> Iterator[list[int]]:
        orders = []
        offset = 0
        for index, (length, size) in enumerate(zip(self.lengths, self.batch_sizes)):
            # One generator a set: the order of one does not depend on the length of another.
            generator = torch.Generator().manual_seed(mix_seed(self.seed, passed, index))
            order: Tensor = torch.randperm(length, generator=generator) + offset
            orders.append((order.tolist(), size))
            offset += length
        for number in range(len(self) // self.passes):
            batch = number * self.processes + self.rank
            yield [i for order, size in orders for i in order[batch * size : (batch + 1) * size]]


class LengthBatchSampler(Sampler[List[int]]):
    """Batches of clips of one length, in order, for clips that are taken whole.

    Under a normalisation clip by clip no clip may be padded to the length of another. Of long
    clips a batch holds fewer, at most as many samples as `batch_size` clips of `samples` have.

    Args:
        data: a set of clips, or a ConcatDataset of such.
        batch_size: clips in a batch.
        samples: of a clip of the usual length.

    Raises:
        InputError: the length of a clip cannot be read.
    """

    def __init__(self, data: Any, batch_size: int, samples: int) -> None:
        lengths = [c.length(i) for c in sets_of(data) for i in range(len(c.files))]
        alike: dict[int, list[int]] = {}
        for number, length in enumerate(lengths):
            alike.setdefault(length, []).append(number)
        self.batches = []
        for length, numbers in alike.items():
            size = max(min(batch_size, batch_size * samples // length), 1)
            self.batches += [numbers[i : i + size] for i in range(0, len(numbers), size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def sets_of(data: Any) -> list[Any]:
    """The sets that a ConcatDataset joins, or the one that is none."""
    return data.datasets if isinstance(data, ConcatDataset) else [data]


def mix_seed(*numbers: int) -> int:
    """One 32-bit seed from several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _check_folder(folder: PathLike) -> None:
    if not os.path.isdir(folder):
        raise InputError(f"the folder {folder} does not exist; correct its path under data:")


def name_in(folder: PathLike, path: str) -> str | None:
    """Name of a file in a folder or below it, as :func:`find_files` was given it; None elsewhere.

    Example:
        >>> name_in("audio/weak_16k", "audio/weak_16k/a/clip.WAV")
        'a/clip.WAV'
    """
    inside = os.path.join(folder, "")
    return path[len(inside) :] if path.startswith(inside) else None


def find_files(folder: PathLike, names: Sequence[str]) -> list[str]:
    """Paths of named files in a folder, all of which must be there."""
    _check_folder(folder)
    paths = [os.path.join(folder, name) for name in names]
    present = set(os.listdir(folder))  # one question to a file server, not thousands
    missing = [
        name for name, path in zip(names, paths) if name not in present and not os.path.isfile(path)
    ]
    refuse_missing(missing, names, "the table", folder)
    return paths
