"""Checkpoints: written whole, plain data and tensors only, and found again where they moved to."""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Any, Mapping

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.files import PathLike, write_whole

#: Classes that Lightning 1.2, of the official 2021 baseline, wrote into checkpoints as names of
#: its callbacks. Empty classes stand in for them, so that nothing of Lightning is run either.
STAND_INS = [
    (type(name.rpartition(".")[2], (), {}), name)
    for name in (
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    )
]


def load_checkpoint(path: PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint without running any code that it may hold.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain data.
    """
    if not os.path.isfile(path):
        raise InputError(f"the checkpoint {path} does not exist; give the path of a .ckpt file")
    try:
        with torch.serialization.safe_globals(STAND_INS):  # type: ignore[arg-type]
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises whatever a damaged archive runs into
        reason = str(error).split("\n")[0].split(". ")[0]
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked:
            reason = f"it names {blocked[1]}, which would be run"
        raise InputError(
            f"the checkpoint {path} cannot be loaded ({reason}); it is damaged or holds more "
            "than tensors and plain data: give a checkpoint that this project wrote"
        ) from None
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


def classes_in(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Classes of a checkpoint, in the order of the network's outputs.

    One that names none, as the official ones and ours of before, is of DESED's ten; None where it
    says that its network has another number of outputs.
    """
    held = checkpoint.get("hyper_parameters")
    held = held if isinstance(held, Mapping) else {}
    data, net = (dict(held.get(section) or {}) for section in ("data", "net"))
    if data.get("classes"):
        return [str(name) for name in data["classes"]]
    return list(CLASSES) if net.get("nclass", len(CLASSES)) == len(CLASSES) else None


def bare_weights(state: Any, path: PathLike) -> Any:
    """Weights of a checkpoint under the names that the networks have without a wrapper.

    DistributedDataParallel and torch.compile put `module.` and `_orig_mod.` into the names; that
    they are taken off is said on standard error.

    Args:
        state: the state_dict; what is none is given back as it is.
        path: of the checkpoint, for messages.

    Raises:
        InputError: a weight is not finite.
    """
    if not isinstance(state, dict):
        return state
    for key, value in state.items():
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise InputError(
                f"the checkpoint {path} holds weights that are not finite ({key}), as those of a "
                "training that diverged; give one of an earlier epoch or of another training"
            )
    bare = {re.sub(r"\b(module|_orig_mod)\.", "", str(key)): value for key, value in state.items()}
    if list(bare) != list(state):
        print(f"{path}: a wrapper's prefix is taken off the names of the weights", file=sys.stderr)
    return bare


def _save(content: Mapping[str, Any], path: PathLike) -> None:
    # Not torch.save to the file: on a full disk it raises a C++ error, not an OSError.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


class WholeFileIO(TorchCheckpointIO):
    """Write checkpoints to a temporary file beside their place, then move them there."""

    def save_checkpoint(self, checkpoint: Any, path: PathLike, storage_options: Any = None) -> None:
        """Save; what was there stays until the new file is whole."""
        _save(checkpoint, path)

    def load_checkpoint(self, path: PathLike, map_location: Any = "cpu", *_: Any, **__: Any) -> Any:
        """Load with :func:`load_checkpoint`."""
        return load_checkpoint(path, map_location)


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that still knows its files when the folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state, with the files in the present folder."""

        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        super().load_state_dict(
            {
                **state_dict,
                **{name: here(state_dict[name]) for name in paths},
                "dirpath": self.dirpath,
                "best_k_models": {here(p): s for p, s in state_dict["best_k_models"].items()},
            }
        )


class OwnPatience(EarlyStopping):
    """An EarlyStopping that keeps its patience: a run that stopped goes on with more of it."""

    @property
    def state_key(self) -> str:
        """The name of Lightning's own, under which it is kept in checkpoints."""
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state but for the patience and what it led to."""
        super().load_state_dict({**state_dict, "patience": self.patience, "stopped_epoch": 0})


def save_statistics(path: PathLike, of: Mapping[str, Any], mean: Tensor, squares: Tensor) -> None:
    """Save the statistics of a scaler and what they were computed with."""
    _save({**of, "mean": mean.cpu(), "mean_squared": squares.cpu()}, path)


def load_statistics(path: PathLike, of: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Load the statistics of a scaler.

    Raises:
        InputError: they were computed with other settings than `of`.
    """
    saved = load_checkpoint(path)
    mean, squares = saved.get("mean"), saved.get("mean_squared")
    other = [name for name, value in of.items() if saved.get(name) != value]
    if other or not isinstance(mean, Tensor) or not isinstance(squares, Tensor):
        raise InputError(
            f"scaler.savepath {path} holds no statistics for these settings (another "
            f"{' and '.join(other) or 'file'}); delete it or give another path"
        )
    return mean, squares
