"""New synthetic clips with Scaper, through the `desed` package, an extra of its own."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile

from lab.errors import InputError
from lab.files import PathLike, remove_left_over, whole_file
from lab.processes import over_files

# The settings of the official `generate_dcase_task4_2021.py`, as far as the package takes them.
SECONDS = 10.0
REFERENCE = -50  # dB
MOST_EVENTS = 5
SNR = ("uniform", 6, 30)  # dB
PITCH = ("uniform", -3.0, 3.0)  # semitones


def import_desed() -> ModuleType:
    """Import the `desed` package, an extra of its own: its Scaper needs libsox to build."""
    try:
        return importlib.import_module("desed")
    except ImportError as error:
        raise InputError(
            f"the desed package cannot be imported ({error}); install libsox with its headers (on "
            "Debian: apt install sox libsox-dev), then: pip install 'dcase-coherence[desed]'"
        ) from None


def generate_clips(
    audio: PathLike,
    table: PathLike,
    soundbank: PathLike,
    count: int,
    *,
    seed: int = 2021,
    processes: int | None = None,
    progress: str | None = None,
) -> None:
    """Generate clips `0.wav`, `0.jams` and so on, then the table of their events.

    A clip depends on the seed and its number alone. Clips that are there are kept, so a run that
    was interrupted goes on.

    Args:
        audio: folder that gets them.
        table: gets their events.
        soundbank: folder with `foreground/<Class>/*` and `background/<label>/*`; a class may have
            the suffixes of DESED, `_nOn` and `_nOff`: recordings without their onset or offset.
        count: of the clips; the classes take turns.
        processes: as many as there are cores when None.
        progress: title of the bar that is shown on a terminal; None for no bar.

    Raises:
        InputError: the package is not installed, or the soundbank cannot be used.
    """
    desed = import_desed()
    for kind in ("foreground", "background"):
        folder = Path(soundbank, kind)
        if not folder.is_dir() or not any(path.is_dir() for path in folder.iterdir()):
            raise InputError(
                f"{folder} holds no folders of sounds; a soundbank has foreground/<Class>/* and "
                "background/<label>/*"
            )
    audio = Path(audio)
    audio.mkdir(parents=True, exist_ok=True)
    remove_left_over(audio)
    annotations = [audio / f"{number}.jams" for number in range(count)]
    make = partial(_make_clip, audio=audio, soundbank=Path(soundbank), seed=seed)
    missing = [number for number, path in enumerate(annotations) if not path.exists()]
    for _ in over_files(make, missing, processes=processes, progress=progress):
        pass
    with whole_file(table) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package, about what pandas 3 will change
        desed.generate_tsv_from_jams([str(path) for path in annotations], str(temporary))


def _make_clip(number: int, audio: Path, soundbank: Path, seed: int) -> None:
    import_desed()
    from desed.soundscape import Soundscape

    state = np.random.SeedSequence((seed, number)).generate_state(2)
    rng = np.random.RandomState(state[0])
    np.random.seed(state[1])  # the package draws from it, too
    folders: dict[str, list[str]] = {}
    for path in sorted(Path(soundbank, "foreground").iterdir()):
        if path.is_dir():
            folders.setdefault(path.name.split("_nO")[0], []).append(path.name)
    classes = list(folders)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as work:
        warnings.simplefilter("ignore")  # Scaper's: it cuts an event to fit, it lowers a level
        scape = Soundscape(
            SECONDS,
            str(soundbank / "foreground"),
            str(soundbank / "background"),
            REFERENCE,
            16000,
            random_state=rng,
        )
        try:
            scape.add_random_background()
            for event in range(rng.randint(1, MOST_EVENTS + 1)):
                label = classes[number % len(classes)] if event == 0 else rng.choice(classes)
                folder = str(rng.choice(folders[label]))
                scape.add_fg_event_non_noff(folder, snr=SNR, pitch_shift=PITCH)
            scape.generate(f"{work}/clip.wav", f"{work}/clip.jams", fix_clipping=True)
        except (AssertionError, soundfile.LibsndfileError) as error:
            raise InputError(f"the soundbank {soundbank} cannot be used: {error}") from None
        # The annotation last: where it is, the clip is whole.
        for suffix in (".wav", ".jams"):
            with whole_file(audio / f"{number}{suffix}") as temporary:
                shutil.copyfile(f"{work}/clip{suffix}", temporary)
