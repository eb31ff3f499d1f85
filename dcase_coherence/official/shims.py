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

import torch

Shim = Callable[[], ContextManager[bool]]

#: All shims by name, in the order in which they are applied.
SHIMS: dict[str, Shim] = {}


def _shim(*libraries: str) -> Callable[[Callable[[], Iterator[bool]]], Shim]:
    """Register a shim about these libraries: where one is not installed there is nothing to do."""

    def register(function: Callable[[], Iterator[bool]]) -> Shim:
        @functools.wraps(function)
        def guarded() -> Iterator[bool]:
            if _missing(*libraries):
                yield False
            else:
                yield from function()

        made = contextlib.contextmanager(guarded)
        SHIMS[function.__name__] = made
        return made

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
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module or class for a `with` block.

    Example:
        >>> import math
        >>> with patched(math, "pi", 3):
        ...     math.pi
        3
        >>> round(math.pi, 2)
        3.14
    """
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextlib.contextmanager
def _modules(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _missing(*names: str) -> bool:
    """Whether one of some libraries is not installed."""
    return any(name not in sys.modules and importlib.util.find_spec(name) is None for name in names)


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
def asteroid_scheduler() -> Iterator[bool]:
    """`asteroid.engine.schedulers`, of which the baseline uses `BaseScheduler` alone.

    asteroid 0.4 does not install beside today's torch, and later ones pin Lightning.
    """
    if "asteroid" in sys.modules or not _missing("asteroid"):
        yield False
        return
    names = ("asteroid", "asteroid.engine", "asteroid.engine.schedulers")
    modules = {name: ModuleType(name) for name in names}
    for name in names[:2]:
        modules[name].__path__ = []
    modules[names[2]].__dict__["BaseScheduler"] = BaseScheduler
    with _modules(modules):
        yield True


# --- Lightning -----------------------------------------------------------------------------------


@_shim("pytorch_lightning")
def hparams_setter() -> Iterator[bool]:
    """`self.hparams = hparams` in a LightningModule (removed in Lightning 1.5)."""
    import pytorch_lightning as pl

    owner = next(cls for cls in pl.LightningModule.__mro__ if "hparams" in vars(cls))
    if vars(owner)["hparams"].fset is not None:
        yield False
        return

    def set_hparams(self: Any, hparams: Any) -> None:
        self._set_hparams(hparams)

    with patched(owner, "hparams", vars(owner)["hparams"].setter(set_hparams)):
        yield True


@_shim("pytorch_lightning")
def lightning_metrics() -> Iterator[bool]:
    """`pl.metrics.classification.F1` (moved to torchmetrics, with another signature)."""
    import pytorch_lightning as pl

    if hasattr(pl, "metrics"):
        yield False
        return
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
    with patched(pl, "metrics", metrics):
        yield True


@_shim("pytorch_lightning")
def trainer_arguments() -> Iterator[bool]:
    """`Trainer(gpus, distributed_backend, flush_logs_every_n_steps, resume_from_checkpoint)`."""
    import pytorch_lightning as pl

    if "gpus" in inspect.signature(pl.Trainer.__init__).parameters:
        yield False
        return

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

    with patched(pl, "Trainer", Trainer):
        yield True


def devices_of(gpus: Any) -> dict[str, Any]:
    """Lightning 1.2's `gpus` (a number, or a string of indices) as today's arguments.

    Example:
        >>> devices_of(0), devices_of("0"), devices_of(2)
        ({'accelerator': 'cpu', 'devices': 1}, {'accelerator': 'gpu', 'devices': [0]}, \
{'accelerator': 'gpu', 'devices': 2})
    """
    if gpus is None or gpus == 0:
        return {"accelerator": "cpu", "devices": 1}
    if isinstance(gpus, str) and gpus != "-1":
        return {
            "accelerator": "gpu",
            "devices": [int(index) for index in gpus.split(",") if index.strip()],
        }
    return {"accelerator": "gpu", "devices": int(gpus) if isinstance(gpus, str) else gpus}


@_shim("pytorch_lightning")
def validation_epoch_end() -> Iterator[bool]:
    """The hook `validation_epoch_end(outputs)` (removed in Lightning 2.0).

    The baseline does not use the outputs; they are not collected, and the list is empty.
    """
    import pytorch_lightning as pl

    if hasattr(pl.LightningModule, "validation_epoch_end"):
        yield False
        return
    trainer_module = importlib.import_module("pytorch_lightning.trainer.trainer")
    verify = trainer_module._verify_loop_configurations

    def verify_without(trainer: Any) -> None:
        # The check refuses every model that has the hook; for its time, this one has not.
        model = vars(trainer.lightning_module)
        model["validation_epoch_end"] = None
        try:
            verify(trainer)
        finally:
            del model["validation_epoch_end"]

    def on_validation_epoch_end(self: Any) -> None:
        if hasattr(self, "validation_epoch_end"):
            self.validation_epoch_end([])

    with patched(trainer_module, "_verify_loop_configurations", verify_without), patched(
        pl.LightningModule, "on_validation_epoch_end", on_validation_epoch_end
    ):
        yield True


@_shim("pytorch_lightning.core.optimizer")
def custom_scheduler() -> Iterator[bool]:
    """A scheduler that is no torch `LRScheduler` (refused since Lightning 1.6)."""
    module = importlib.import_module("pytorch_lightning.core.optimizer")
    if not hasattr(module, "_validate_scheduler_api"):
        yield False
        return
    with patched(module, "_validate_scheduler_api", lambda configs, model: None):
        yield True


# --- torch and torchaudio ------------------------------------------------------------------------


@_shim("pytorch_lightning")
def checkpoint_globals() -> Iterator[bool]:
    """`torch.load` of a Lightning 1 checkpoint, where callbacks are keyed by their classes.

    Since torch 2.6 a checkpoint may name plain types only; these two classes are allowed, and
    nothing else: a file that names any other is still refused.
    """
    if not hasattr(torch.serialization, "safe_globals"):
        yield False
        return
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    with torch.serialization.safe_globals([EarlyStopping, ModelCheckpoint]):
        yield True


@_shim("torchaudio")
def torchaudio_files() -> Iterator[bool]:
    """`torchaudio.load` and `save` (since 2.9 by way of torchcodec alone), with soundfile."""
    if not _missing("torchcodec"):
        yield False
        return
    import torchaudio

    if not hasattr(torchaudio, "load_with_torchcodec"):
        yield False
        return
    import soundfile

    def load(file: Any) -> Any:
        samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate

    def save(file: Any, samples: torch.Tensor, rate: int) -> None:
        soundfile.write(str(file), samples.numpy().T, rate, subtype="FLOAT")

    with patched(torchaudio, "load", load), patched(torchaudio, "save", save):
        yield True


@_shim("librosa")
def librosa_resample() -> Iterator[bool]:
    """`librosa.resample(y, from, to)` with the rates by position (by keyword since 0.10)."""
    import librosa

    if tuple(int(part) for part in version("librosa").split(".")[:2]) < (0, 10):
        yield False
        return

    def by_position(samples: Any, orig_sr: Any, target_sr: Any, **options: Any) -> Any:
        # Found only when it is called: loading it takes seconds, and most runs never resample.
        resample = importlib.import_module("librosa.core.audio").resample
        return resample(samples, orig_sr=orig_sr, target_sr=target_sr, **options)

    with patched(librosa, "resample", by_position):
        yield True


# --- pandas and numpy ----------------------------------------------------------------------------


@_shim("pandas")
def dataframe_append() -> Iterator[bool]:
    """`DataFrame.append` (removed in pandas 2.0)."""
    import pandas as pd

    if hasattr(pd.DataFrame, "append"):
        yield False
        return

    def append(self: Any, other: Any, ignore_index: bool = False) -> Any:
        # Empty frames have no types of their own, and concat would mix object columns in.
        parts = [part for part in (self, other) if len(part)] or [other]
        return pd.concat(parts, ignore_index=ignore_index)

    with patched(pd.DataFrame, "append", append):
        yield True


@_shim("pandas")
def fillna_method() -> Iterator[bool]:
    """`fillna(method=)` (removed in pandas 3.0), which psds_eval calls."""
    import pandas as pd

    if "method" in inspect.signature(pd.DataFrame.fillna).parameters:
        yield False
        return
    fillna = pd.DataFrame.fillna

    def with_method(self: Any, value: Any = None, *, method: Any = None, **options: Any) -> Any:
        if method is None:
            return fillna(self, value, **options)
        return getattr(self, method)(**options)

    with patched(pd.DataFrame, "fillna", with_method):
        yield True


@_shim("psds_eval")
def argwhere_to_int() -> Iterator[bool]:
    """`int(np.argwhere(...))` in psds_eval (numpy 2.4 converts only arrays without dimensions)."""
    import numpy as np

    if _converts_one_element():
        yield False
        return
    module = importlib.import_module("psds_eval.psds")
    numpy_of_psds = ModuleType("numpy")
    numpy_of_psds.__dict__.update(vars(np))
    numpy_of_psds.__dict__["argwhere"] = lambda array: _OneIndex(np.argwhere(array))
    with patched(module, "np", numpy_of_psds):
        yield True


def _converts_one_element() -> bool:
    import warnings

    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            int(np.zeros((1, 1)))
        except TypeError:
            return False
    return True


class _OneIndex:
    """Indices that become a number where there is exactly one."""

    def __init__(self, indices: Any) -> None:
        self.indices = indices

    def __int__(self) -> int:
        return int(self.indices.item())
