"""Reading and resampling of clips, without torch, so that worker processes start quickly."""

from __future__ import annotations

import io
import math
import os
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

import numpy as np
import soundfile

from lab.errors import InputError
from lab.files import PathLike, one_spelling, write_whole

#: Suffixes of the files that libsndfile reads: its formats' names, and others in use. Nothing in
#: raw samples or in a file of Matlab's says that it is sound.
FORMATS = tuple(
    sorted(
        {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw", ".mat4", ".mat5"}
        | {".aif", ".aifc", ".oga", ".opus", ".snd", ".sph"}
    )
)
#: Suffixes of audio that it does not read.
UNREADABLE = (".aac", ".m4a", ".mp4", ".mka", ".webm", ".wma")
#: libsndfile's remark on a wav file with less audio than its header says.
CUT_SHORT = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)


class Conversion(NamedTuple):
    """What a conversion cost: energies are sums of squares times seconds.

    Attributes:
        energy: of the sound; 0 for a clip that was there.
        lost: with the frequencies above half of a lower rate; None where the rate was not lowered.
    """

    energy: float = 0.0
    lost: float | None = None


def read_audio(
    path: PathLike, fs: int | None = 16000, start: int = 0, samples: int = -1
) -> np.ndarray:
    """Read a clip as mono float32 `(samples,)` in [-1, 1]; channels are averaged.

    Args:
        path: of any format of libsndfile.
        fs: the sampling rate it must have, in Hz; None for any.
        start: the first sample that is read.
        samples: how many are read; -1 for all that follow.

    Raises:
        InputError: the file is missing, is no audio, has another sampling rate, is empty or cut
            short, or holds values that are not finite.
    """
    with open_audio(path, fs) as file:
        if start:
            file.seek(start)
        audio = file.read(samples, dtype="float32", always_2d=True)
    if not len(audio):
        raise InputError(f"{path} holds no audio (0 samples); copy it again or remove it")
    if not np.isfinite(audio).all():
        raise InputError(f"{path} holds samples that are not finite (NaN or infinity); replace it")
    return audio[:, 0] if audio.shape[1] == 1 else audio.mean(axis=1)


def read_length(path: PathLike, fs: int | None = 16000) -> int:
    """Samples of the clip that :func:`read_audio` reads, or refuses, from the file's header."""
    with open_audio(path, fs) as file:
        if not file.frames:
            raise InputError(f"{path} holds no audio (0 samples); copy it again or remove it")
        return file.frames


@contextmanager
def open_audio(path: PathLike, fs: int | None = None) -> Iterator[soundfile.SoundFile]:
    """Open an audio file; whatever is wrong with it, there or in the block, is one sentence.

    A wav file that was written through a pipe has all its samples, but not their number in its
    header: such a header is not taken at its word.

    Raises:
        InputError: the file is missing, is no audio, is cut short, or has another sampling rate
            than `fs`, in Hz; None for any.
    """
    try:
        with ExitStack() as opened:
            file = opened.enter_context(soundfile.SoundFile(path))
            if not file.frames and file.format in ("WAV", "WAVEX"):
                file = opened.enter_context(soundfile.SoundFile(_unclosed(path)))
            short = CUT_SHORT.search(file.extra_info)
            if short and int(short[1]) > int(short[2]) and not _is_placeholder(int(short[1])):
                raise InputError(
                    f"{path} is cut short: its header announces {short[1]} bytes of audio and "
                    f"{short[2]} are there; copy it again"
                )
            if fs is not None and file.samplerate != fs:
                raise InputError(
                    f"{path} has a sampling rate of {file.samplerate} Hz; resample it to {fs} Hz, "
                    f"for example with: sox {Path(path).name} -r {fs} resampled.wav"
                )
            yield file
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        if not os.path.isfile(path):
            raise InputError(f"{path} does not exist; copy it there or remove its row") from None
        raise InputError(
            f"{path} cannot be read as audio ({error}); copy it again, or convert it to wav "
            "where libsndfile does not read its format"
        ) from None


def _is_placeholder(size: int) -> bool:
    """Whether a size stands for "not known yet": sox, arecord and ffmpeg, less a header or not."""
    return any(end - 256 <= size <= end for end in (0x7FFFF000, 0x80000000, 0xFFFFFFFF))


def _unclosed(path: PathLike) -> io.BytesIO:
    """A wav file, whose header may say 0 samples because it was never told their number.

    Where the header does not know how long the file is, the size of the RIFF chunk is put to 8:
    there libsndfile takes the number of samples from the file's length.
    """
    content = bytearray(Path(path).read_bytes())
    if int.from_bytes(content[4:8], "little") + 8 != len(content):
        content[4:8] = (8).to_bytes(4, "little")
    return io.BytesIO(content)


def audio_names(folder: PathLike) -> list[str]:
    """Names of the audio files in a folder and below, see :func:`file_names`, by their suffixes."""
    return [name for name in file_names(folder) if name.lower().endswith(FORMATS)]


def file_names(folder: PathLike) -> list[str]:
    """Names of the files in a folder and below, sorted; none where there is no folder.

    Names are relative to the folder, with `/`. Hidden files are left out: a killed conversion left
    them unfinished.
    """
    names: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(folder)
        names += [(inside / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)


def stem(name: str) -> str:
    """Name of a clip without the suffix of its format; a dot may stand in the name itself.

    Example:
        >>> stem("site.A.2026.05.01.WAV"), stem("site.A.2026.05.01")
        ('site.A.2026.05.01', 'site.A.2026.05.01')
    """
    start, suffix = os.path.splitext(name)
    return start if suffix.lower() in (*FORMATS, *UNREADABLE) else name


def missing_clips(names: Sequence[str], folder: PathLike) -> list[str]:
    """Names of clips that are not in a folder, for a message: those that look alike beside them.

    Names look alike that differ in the sequence of characters for an accent, in capitals, or in
    the format's suffix.
    """

    def look(name: str) -> str:
        return one_spelling(stem(name)).casefold()

    there = {look(name): name for name in file_names(folder)} if names else {}
    shown = []
    for name in names:
        other = there.get(look(name))
        if other is not None:
            same = one_spelling(name) == one_spelling(other)
            accent = ", which has other bytes for an accent" if same else ""
            name = f"{name} (there is {other}{accent})"
        shown.append(name)
    return shown


def refuse_missing(
    missing: Sequence[str], names: Sequence[str], table: str, folder: PathLike
) -> None:
    """Raise where clips of a table are missing in a folder; the first three are named."""
    if missing:
        shown = ", ".join(missing_clips(missing[:3], folder)) + ", ..." * (len(missing) > 3)
        raise InputError(
            f"{len(missing)} of {len(names)} clips of {table} are not in {folder}: {shown}; "
            "copy or rename them, or remove their rows"
        )


def wav_name(name: str) -> str:
    """Name of a clip as wav: its own where it is one.

    Example:
        >>> wav_name("a/clip.WAV"), wav_name("a/clip.flac"), wav_name("2026.05.01")
        ('a/clip.WAV', 'a/clip.wav', '2026.05.01.wav')
    """
    return name if name.lower().endswith(".wav") else f"{stem(name)}.wav"


def resample(audio: np.ndarray, rate: int, fs: int) -> np.ndarray:
    """Resample `(samples,)` from `rate` to `fs`, both in Hz (polyphase, with anti-aliasing).

    Example:
        >>> len(resample(np.zeros(44100), 44100, 16000))
        16000
    """
    if rate == fs:
        return audio
    # Imported here: reading alone, in every training, does not wait for it.
    from scipy.signal import resample_poly

    common = math.gcd(rate, fs)
    return resample_poly(audio, fs // common, rate // common)


def wav_bytes(audio: np.ndarray, fs: int) -> bytes:
    """The content of a mono 16-bit wav file of samples `(samples,)` at `fs` Hz."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, fs, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def convert(source: PathLike, target: PathLike, fs: int = 16000) -> Conversion:
    """Write an audio file as mono 16-bit wav at `fs` Hz; one at this rate that is newer is kept.

    Raises:
        InputError: the source cannot be used (see :func:`read_audio`), or the target cannot be
            written.
    """
    try:
        there = soundfile.info(str(target))
        if there.samplerate == fs and os.path.getmtime(target) >= os.path.getmtime(source):
            return Conversion()
    except (OSError, soundfile.LibsndfileError):
        pass
    audio = read_audio(source, None)
    rate = soundfile.info(str(source)).samplerate
    samples = resample(audio, rate, fs)
    # Not to the file: libsndfile does not say why it cannot write.
    write_whole(target, wav_bytes(samples, fs))
    before = float(np.square(audio, dtype=np.float64).sum()) / rate
    after = float(np.square(samples, dtype=np.float64).sum()) / fs
    return Conversion(before, max(before - after, 0.0) if rate > fs else None)
