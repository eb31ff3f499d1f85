"""Let the unmodified code of the 2021 baseline run on today's libraries.

That code was written for PyTorch 1.8, Lightning 1.2 and pandas 1. Each shim below brings back one
interface that was removed since, only where it is missing, and only for a `with` block:

    with shims.shims():
        trainer = pl.Trainer(gpus=0, distributed_backend=None, ...)
        trainer.fit(official)

In an environment of 2021 none is applied.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any, Callable, ContextManager, Iterator, Mapping
from unittest import mock

import torch

#: All shims by name, in the order in which they are applied; each tells whether it was needed.
SHIMS: dict[str, Callable[[], ContextManager[bool]]] = {}
#: Sets an attribute of a module or class for a `with` block.
patched = functools.partial(mock.patch.object, create=True)

Patches = Callable[[], "list[ContextManager[Any]]"]


def _shim(*libraries: str) -> Callable[[Patches], Callable[[], ContextManager[bool]]]:
    """Register a shim about these libraries by its patches, none where it is not needed."""

    def register(patches: Patches) -> Callable[[], ContextManager[bool]]:
        @contextlib.contextmanager
        @functools.wraps(patches)
        def shim() -> Iterator[bool]:
            with contextlib.ExitStack() as stack:
                made = [] if _missing(*libraries) else patches()
                for patch in made:
                    stack.enter_context(patch)
                yield bool(made)

        SHIMS[patches.__name__] = shim
        return shim

    return register


@contextlib.contextmanager
def shims() -> Iterator[list[str]]:
    """Apply the shims that this environment needs; gives their names, and undoes them at the end.

    In the official environments, which have Lightning 1, none is applied. Blocks may be nested: the
    inner one finds nothing missing.
    """
    import pytorch_lightning

    if int(pytorch_lightning.__version__.split(".")[0]) < 2:
        yield []
        return
    with contextlib.ExitStack() as stack:
        yield [name for name, shim in SHIMS.items() if stack.enter_context(shim())]


@contextlib.contextmanager
def _modules(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def _missing(*names: str) -> bool:
    """Whether one of some libraries is not installed."""
    return any(name not in sys.modules and importlib.util.find_spec(name) is None for name in names)


def _release(library: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(library).split(".")[:2])


# --- asteroid ------------------------------------------------------------------------------------


class BaseScheduler:
    """Learning rate set step by step by `_get_lr`, as asteroid's class of that name does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.step_num = 0

    def step(self, metrics: Any = None, epoch: Any = None) -> None:
        """Count a step and set the learning rate of every parameter group."""
        self.step_num += 1
        rate = self._get_lr()  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        vars(self).update(state)


@_shim()
def asteroid_scheduler() -> list[ContextManager[Any]]:
    """`asteroid.engine.schedulers`, of which the baseline uses `BaseScheduler` alone.

    asteroid 0.4 does not install beside today's torch, and later ones pin Lightning.
    """
    if not _missing("asteroid"):
        return []
    names = ("asteroid", "asteroid.engine", "asteroid.engine.schedulers")
    modules = {name: ModuleType(name) for name in names}
    for name in names[:2]:
        modules[name].__path__ = []
    modules[names[2]].__dict__["BaseScheduler"] = BaseScheduler
    return [_modules(modules)]


# --- Lightning -----------------------------------------------------------------------------------


@_shim("pytorch_lightning")
def hparams_setter() -> list[ContextManager[Any]]:
    """`self.hparams = hparams` in a LightningModule (removed in Lightning 1.5)."""
    import pytorch_lightning as pl

    owner = next(cls for cls in pl.LightningModule.__mro__ if "hparams" in vars(cls))
    if vars(owner)["hparams"].fset is not None:
        return []

    def set_hparams(self: Any, hparams: Any) -> None:
        self._set_hparams(hparams)

    return [patched(owner, "hparams", vars(owner)["hparams"].setter(set_hparams))]


@_shim("pytorch_lightning")
def lightning_metrics() -> list[ContextManager[Any]]:
    """`pl.metrics.classification.F1` (moved to torchmetrics, with another signature)."""
    import pytorch_lightning as pl

    if hasattr(pl, "metrics"):
        return []
    from torchmetrics.classification import MultilabelF1Score

    class F1(MultilabelF1Score):
        """The old metric's arguments, and its float targets, for the multilabel case."""

        def __init__(
            self, num_classes: int, average: str, multilabel: bool, compute_on_step: bool
        ) -> None:
            if not multilabel or compute_on_step:
                raise NotImplementedError("F1 is shimmed for the baseline's own arguments only")
            super().__init__(num_labels=num_classes, average=average)  # type: ignore[arg-type]

        def forward(self, preds: torch.Tensor, target: torch.Tensor) -> None:
            self.update(preds, target.int())

    metrics, classification = ModuleType("metrics"), ModuleType("classification")
    classification.__dict__["F1"] = F1
    metrics.__dict__["classification"] = classification
    return [patched(pl, "metrics", metrics)]


@_shim("pytorch_lightning")
def trainer_arguments() -> list[ContextManager[Any]]:
    """`Trainer(gpus, distributed_backend, flush_logs_every_n_steps, resume_from_checkpoint)`."""
    import pytorch_lightning as pl

    if "gpus" in inspect.signature(pl.Trainer.__init__).parameters:
        return []

    class Trainer(pl.Trainer):
        """Today's Trainer with the arguments of Lightning 1.2."""

        def __init__(
            self,
            *,
            gpus: Any = None,
            distributed_backend: Any = None,
            flush_logs_every_n_steps: Any = None,
            resume_from_checkpoint: Any = None,
            **kwargs: Any,
        ) -> None:
            kwargs.update(devices_of(gpus))
            if distributed_backend is not None:
                kwargs["strategy"] = distributed_backend
            super().__init__(**kwargs)
            self._resume_from = resume_from_checkpoint

        def fit(self, *args: Any, **kwargs: Any) -> Any:
            kwargs.setdefault("ckpt_path", self._resume_from)
            return super().fit(*args, **kwargs)

    return [patched(pl, "Trainer", Trainer)]


def devices_of(gpus: Any) -> dict[str, Any]:
    """Lightning 1.2's `gpus` (a number, or a string of indices) as today's arguments.

    Example:
        >>> devices_of(0), devices_of("0"), devices_of(2)
        ({'accelerator': 'cpu', 'devices': 1}, {'accelerator': 'gpu', 'devices': [0]}, \
{'accelerator': 'gpu', 'devices': 2})
    """
    if gpus is None or gpus == 0:
        return {"accelerator": "cpu", "devices": 1}
    if isinstance(gpus, str):
        indices = [int(index) for index in gpus.split(",") if index.strip()]
        gpus = -1 if indices == [-1] else indices
    return {"accelerator": "gpu", "devices": gpus}


@_shim("pytorch_lightning")
def validation_epoch_end() -> list[ContextManager[Any]]:
    """The hook `validation_epoch_end(outputs)` (removed in Lightning 2.0).

    The baseline does not use the outputs; they are not collected, and the list is empty.
    """
    import pytorch_lightning as pl

    if hasattr(pl.LightningModule, "validation_epoch_end"):
        return []
    trainer_module = importlib.import_module("pytorch_lightning.trainer.trainer")
    verify = trainer_module._verify_loop_configurations

    def verify_without(trainer: Any) -> None:
        # The check refuses every model that has the hook; for its time, this one has not.
        with patched(trainer.lightning_module, "validation_epoch_end", None):
            verify(trainer)

    def on_validation_epoch_end(self: Any) -> None:
        if hasattr(self, "validation_epoch_end"):
            self.validation_epoch_end([])

    return [
        patched(trainer_module, "_verify_loop_configurations", verify_without),
        patched(pl.LightningModule, "on_validation_epoch_end", on_validation_epoch_end),
    ]


@_shim("pytorch_lightning.core.optimizer")
def custom_scheduler() -> list[ContextManager[Any]]:
    """A scheduler that is no torch `LRScheduler` (refused since Lightning 1.6)."""
    module = importlib.import_module("pytorch_lightning.core.optimizer")
    if not hasattr(module, "_validate_scheduler_api"):
        return []
    return [patched(module, "_validate_scheduler_api", lambda configs, model: None)]


# --- torch and torchaudio ------------------------------------------------------------------------


@_shim("pytorch_lightning")
def checkpoint_globals() -> list[ContextManager[Any]]:
    """`torch.load` of a Lightning 1 checkpoint, where callbacks are keyed by their classes.

    Since torch 2.6 a checkpoint may name plain types only; these two classes are allowed, and
    nothing else: a file that names any other is still refused.
    """
    if not hasattr(torch.serialization, "safe_globals"):
        return []
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    return [torch.serialization.safe_globals([EarlyStopping, ModelCheckpoint])]


@_shim("torchaudio")
def torchaudio_files() -> list[ContextManager[Any]]:
    """`torchaudio.load` and `save` (since 2.9 by way of torchcodec alone), with soundfile."""
    if not _missing("torchcodec"):
        return []
    import torchaudio

    if not hasattr(torchaudio, "load_with_torchcodec"):
        return []
    import soundfile

    def load(file: Any) -> Any:
        samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate

    def save(file: Any, samples: torch.Tensor, rate: int) -> None:
        soundfile.write(str(file), samples.numpy().T, rate, subtype="FLOAT")

    return [patched(torchaudio, "load", load), patched(torchaudio, "save", save)]


@_shim("librosa")
def librosa_resample() -> list[ContextManager[Any]]:
    """`librosa.resample(y, from, to)` with the rates by position (by keyword since 0.10)."""
    import librosa

    if _release("librosa") < (0, 10):
        return []

    def by_position(samples: Any, orig_sr: Any, target_sr: Any, **options: Any) -> Any:
        # Found only when it is called: loading it takes seconds, and most runs never resample.
        resample = importlib.import_module("librosa.core.audio").resample
        return resample(samples, orig_sr=orig_sr, target_sr=target_sr, **options)

    return [patched(librosa, "resample", by_position)]


# --- pandas and numpy ----------------------------------------------------------------------------


@_shim("pandas")
def dataframe_append() -> list[ContextManager[Any]]:
    """`DataFrame.append` (removed in pandas 2.0)."""
    import pandas as pd

    if hasattr(pd.DataFrame, "append"):
        return []

    def append(self: Any, other: Any, ignore_index: bool = False) -> Any:
        # Empty frames have no types of their own, and concat would mix object columns in.
        parts = [part for part in (self, other) if len(part)] or [other]
        return pd.concat(parts, ignore_index=ignore_index)

    return [patched(pd.DataFrame, "append", append)]


@_shim("pandas")
def fillna_method() -> list[ContextManager[Any]]:
    """`fillna(method=)` (removed in pandas 3.0), which psds_eval calls."""
    import pandas as pd

    fillna = pd.DataFrame.fillna
    if "method" in inspect.signature(fillna).parameters:
        return []

    def with_method(self: Any, value: Any = None, *, method: Any = None, **options: Any) -> Any:
        if method is None:
            return fillna(self, value, **options)
        return getattr(self, method)(**options)

    return [patched(pd.DataFrame, "fillna", with_method)]


@_shim("psds_eval", "numpy")
def argwhere_to_int() -> list[ContextManager[Any]]:
    """`int(np.argwhere(...))` in psds_eval (numpy 2.4 converts only arrays without dimensions)."""
    import numpy as np

    if _release("numpy") < (2, 4):
        return []
    numpy_of_psds = ModuleType("numpy")
    numpy_of_psds.__dict__.update(vars(np))
    numpy_of_psds.__dict__["argwhere"] = lambda array: _OneIndex(np.argwhere(array))
    return [patched(importlib.import_module("psds_eval.psds"), "np", numpy_of_psds)]


class _OneIndex:
    """Indices that become a number where there is exactly one."""

    def __init__(self, indices: Any) -> None:
        self.indices = indices

    def __int__(self) -> int:
        return int(self.indices.item())
