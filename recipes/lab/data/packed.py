"""Packed stores: all clips of a folder in one file, from which loading is a copy.

The file holds the samples of every clip as 16-bit integers, one clip after another, then an index
(the name, size and time of each source, its length and the CRC-32 of its samples), then the length
and CRC-32 of the index. It is written beside its place and moved there when it is whole.

Opening a store compares the index with the files of the folder and all samples with their
checksums, which reads the store once, about as long as an epoch's loading from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

import filelock
import numpy as np
import torch
from torch import Tensor

from lab.data.audio import read_audio
from lab.errors import InputError
from lab.files import PARTIAL, PathLike, whole_file

#: (size in bytes, time of the last change in ns) of the files of a folder.
Sources = Mapping[str, "tuple[int, int]"]

FORMAT = 1
MAGIC = b"CLIPS16\n"
TAIL = struct.Struct("<QI8s")  # bytes of the index, its CRC-32, MAGIC
SCALE = 32768  # of 16-bit samples to [-1, 1]
AT_ONCE = 64  # clips in memory while packing
ADVICE = "or set data.packed: false to read the wav files themselves"


class Packed(NamedTuple):
    """A clip in a store: its source's name, bytes and time (ns), its samples and their CRC-32."""

    name: str
    size: int
    mtime_ns: int
    length: int
    crc: int


class Unusable(Exception):
    """Why a store cannot be used and has to be made anew."""


class Store:
    """Clips of a folder in one file; made by :func:`pack`.

    Args:
        path: the file.
        clips: what it holds, in its order.

    Attributes:
        samples: int16 memory map `(samples of all clips,)`.
        starts: first sample of each clip.
        lengths: samples of each clip.
    """

    def __init__(self, path: PathLike, clips: Sequence[Packed]) -> None:
        self.path = Path(path)
        self.clips = list(clips)
        self.lengths = [clip.length for clip in clips]
        ends = np.cumsum(self.lengths, dtype=np.int64).tolist()
        self.starts = [end - length for end, length in zip(ends, self.lengths)]
        # Copy on write: torch takes no read-only array, and nothing reaches the file.
        self.samples = np.memmap(path, "<i2", "c", shape=(ends[-1],))
        self._numbers = {clip.name: number for number, clip in enumerate(clips)}
        self._on: dict[torch.device, Tensor] = {}

    def __reduce__(self) -> Any:
        # A loader's worker maps the file; the samples do not travel.
        return Store, (self.path, self.clips)

    def number(self, name: str) -> int:
        """Place of a clip among the clips.

        Raises:
            InputError: the store does not hold it.
        """
        if name not in self._numbers:
            raise InputError(
                f"{name} is not in the packed clips {self.path}, which hold the .wav files of one "
                f"folder; convert it to wav, {ADVICE}"
            )
        return self._numbers[name]

    def read(self, number: int) -> np.ndarray:
        """Float32 samples `(samples,)` of a clip, to the bit those of `read_audio`."""
        start = self.starts[number]
        part = np.asarray(self.samples[start : start + self.lengths[number]])
        return part.astype(np.float32) / np.float32(SCALE)

    def on(self, device: torch.device) -> Tensor:
        """All samples, int16 `(samples,)`, in a device's memory; on the CPU the map itself.

        Raises:
            InputError: the device has not enough memory.
        """
        if device not in self._on:
            try:
                self._on[device] = torch.from_numpy(self.samples).to(device)
            except torch.cuda.OutOfMemoryError:
                raise InputError(
                    f"the clips in {self.path} take {self.samples.nbytes / 1e9:.1f} GB, more than "
                    f"the memory that is left on {device}; take another GPU, {ADVICE}"
                ) from None
        return self._on[device]


def pack(folder: PathLike, fs: int = 16000, *, cache: PathLike | None = None) -> Store:
    """Open the packed store of a folder's wav files; make it where there is none that fits.

    A store is made anew, with a line on standard error that says why, when a file of the folder
    is new, gone, or of another size or time, and when the store is damaged. Processes that ask
    for the same store wait for the one that makes it.

    Args:
        folder: holds the wav files; hidden ones are left out.
        fs: the sampling rate they must have, in Hz.
        cache: folder of the store; None for `<folder>.packed`, beside the folder.

    Raises:
        InputError: the folder or one of its wav files cannot be read, a clip has samples that 16
            bits do not hold, or the store cannot be written.
    """
    path = store_path(folder, cache)
    try:
        return open_store(path, find_sources(folder), fs)
    except Unusable:
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); give data.packed_folder a "
            f"folder that can, {ADVICE}"
        ) from None
    with lock:
        sources = find_sources(folder)
        try:
            # Another process may have made it by now.
            return open_store(path, sources, fs)
        except Unusable as reason:
            for left_over in path.parent.glob(f".{path.stem}{PARTIAL}*{path.suffix}"):
                left_over.unlink()
            print(f"packing {len(sources)} clips into {path}: {reason}", file=sys.stderr)
        write_store(path, folder, sources, fs)
        try:
            return open_store(path, find_sources(folder), fs)
        except Unusable as reason:
            raise InputError(
                f"{path} cannot be used just after it was made ({reason}); run the same command "
                f"again when nothing else changes {folder}, {ADVICE}"
            ) from None


def store_path(folder: PathLike, cache: PathLike | None = None) -> Path:
    """Where the store of a folder is kept.

    Example:
        >>> store_path("/data/audio/train/weak_16k").as_posix()
        '/data/audio/train/weak_16k.packed'
    """
    folder = Path(os.path.abspath(folder))
    if cache is None:
        return folder.with_name(f"{folder.name}.packed")
    # The folders of synthetic clips all have the same name.
    digest = hashlib.blake2b(os.fsencode(folder), digest_size=4).hexdigest()
    return Path(cache, f"{folder.name}-{digest}.packed")


def find_sources(folder: PathLike) -> Sources:
    """Size and time of the wav files of a folder, by name.

    Raises:
        InputError: there is no such folder, or it holds no wav file.
    """
    try:
        with os.scandir(folder) as entries:
            wavs = [entry for entry in entries if entry.name.lower().endswith(".wav")]
            files = [entry for entry in wavs if not entry.name.startswith(".")]
            found = {entry.name: entry.stat() for entry in files if entry.is_file()}
    except OSError as error:
        raise InputError(
            f"the clips in {folder} cannot be packed ({error.strerror}); correct its path"
        ) from None
    if not found:
        raise InputError(f"{folder} holds no .wav file; put the clips there, {ADVICE}")
    return {name: (found[name].st_size, found[name].st_mtime_ns) for name in sorted(found)}


def open_store(path: Path, sources: Sources, fs: int) -> Store:
    """Open a store and check all of it.

    Raises:
        Unusable: it is missing, damaged, or not made of these sources.
    """
    rate, clips = read_index(path)
    if rate != fs:
        raise Unusable(f"it was made of clips at {rate} Hz, not {fs} Hz")
    before = {clip.name: (clip.size, clip.mtime_ns) for clip in clips}
    differing = {
        "new": sources.keys() - before.keys(),
        "gone": before.keys() - sources.keys(),
        "changed": {n for n in sources.keys() & before.keys() if sources[n] != before[n]},
    }
    for what, names in differing.items():
        if names:
            raise Unusable(f"{len(names)} of its clips are {what}, such as {min(names)}")
    store = Store(path, clips)

    def checksum(number: int) -> int:
        start = store.starts[number]
        return zlib.crc32(store.samples[start : start + store.lengths[number]].data)

    with ThreadPoolExecutor() as pool:
        for clip, crc in zip(clips, pool.map(checksum, range(len(clips)))):
            if clip.crc != crc:
                raise Unusable(f"it is damaged, the checksum of {clip.name} differs")
    return store


def read_index(path: Path) -> tuple[int, list[Packed]]:
    """Read the sampling rate and the clips of a store, without their samples.

    Raises:
        Unusable: it is missing or damaged.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL.size, 0))
            length, crc, magic = TAIL.unpack(file.read())
            file.seek(size - TAIL.size - length)
            text = file.read(length)
        if magic != MAGIC or zlib.crc32(text) != crc:
            raise ValueError
        index = json.loads(text)
        if index["format"] != FORMAT:
            raise Unusable(f"it has format {index['format']}, not {FORMAT}")
        clips = [Packed(*clip) for clip in index["clips"]]
        if 2 * sum(clip.length for clip in clips) + length + TAIL.size != size:
            raise ValueError
    except FileNotFoundError:
        raise Unusable("there is none yet") from None
    except (OSError, ValueError, struct.error) as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise Unusable(f"it is damaged or cut short{reason}") from None
    return index["fs"], clips


def write_store(path: Path, folder: PathLike, sources: Sources, fs: int) -> None:
    """Pack clips, whatever store is there.

    Raises:
        InputError: a clip cannot be read or packed, or the store cannot be written.
    """
    names = list(sources)
    clips = []

    def read(name: str) -> np.ndarray:
        return to_int16(Path(folder, name), fs)

    with whole_file(path) as temporary, open(temporary, "wb") as file:
        with ThreadPoolExecutor() as pool:
            for first in range(0, len(names), AT_ONCE):
                some = names[first : first + AT_ONCE]
                for name, samples in zip(some, pool.map(read, some)):
                    file.write(samples.data)
                    crc = zlib.crc32(samples.data)
                    clips.append(Packed(name, *sources[name], len(samples), crc))
        index = json.dumps({"format": FORMAT, "fs": fs, "clips": clips}).encode()
        file.write(index + TAIL.pack(len(index), zlib.crc32(index), MAGIC))


def to_int16(path: PathLike, fs: int) -> np.ndarray:
    """Read a clip as int16 `(samples,)` that give its float samples exactly.

    Raises:
        InputError: the clip cannot be read (see `read_audio`), or 16 bits do not hold it: wav of
            more bits, or of several channels whose mean needs more.
    """
    scaled = read_audio(path, fs) * np.float32(SCALE)
    with np.errstate(invalid="ignore"):
        samples = scaled.astype("<i2")
    if not np.array_equal(samples, scaled):
        raise InputError(
            f"{path} holds samples that 16 bits do not hold exactly; convert it to mono 16-bit "
            f"wav, {ADVICE}"
        )
    return samples
