"""What the commands need installed: what is missing, or does not load, is told before any work."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

from lab.errors import INSTALL, InputError

#: What generated clips and the checks of recordings take.
SOUND = ("numpy", "pandas", "scipy", "soundfile", "joblib", "tqdm")
#: What scores, tables and figures take.
SCORES = ("numpy", "pandas", "scipy", "matplotlib", "soundfile")
#: What a network takes: torchaudio is built for a torch, and loads beside no other.
NETWORK = (
    *("torch", "torchaudio", "pytorch_lightning", "tensorboard", "filelock", "yaml"),
    *SOUND,
    *SCORES,
    "dcase_coherence",
)

# Names under which packages are installed, where they are not those of their modules.
_INSTALLED_AS = {"yaml": "pyyaml"}


def require(*modules: str) -> None:
    """Import what the rest of a command takes, for example :data:`NETWORK`.

    Raises:
        InputError: one of them, or what it imports, is missing or does not load.
    """
    for module in dict.fromkeys(modules):
        try:
            importlib.import_module(module)
        except Exception as error:  # a library that does not load raises anything
            raise InputError(f"{_complaint(module, error)}; {INSTALL} '.[recipes]'") from None


def _complaint(module: str, error: BaseException) -> str:
    missing = (getattr(error, "name", None) or module).split(".")[0]
    if isinstance(error, ModuleNotFoundError) and importlib.util.find_spec(missing) is None:
        return f"{_INSTALLED_AS.get(missing, missing)} is not installed"
    beside = f" beside {_release('torch')}" if module == "torchaudio" else ""
    while error.__context__ is not None:  # the first error says what is wrong
        error = error.__context__
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{_release(module)} does not load{beside} ({reason})"


def _release(module: str) -> str:
    name = _INSTALLED_AS.get(module, module)
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name
