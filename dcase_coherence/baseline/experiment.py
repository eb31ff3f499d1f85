"""From a configuration to a trained and tested model."""

from __future__ import annotations

import copy
import ctypes
import errno
import logging
import os
import random
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Union

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import ConcatDataset

from dcase_coherence.annotations import read_durations, read_strong_tsv, read_weak_tsv
from dcase_coherence.baseline.checkpoints import MovableCheckpoint, WholeFileIO, load_checkpoint
from dcase_coherence.baseline.crnn import CRNN
from dcase_coherence.baseline.datasets import (
    Clips,
    ConcatDatasetBatchSampler,
    StronglyAnnotatedSet,
    UnlabeledSet,
    WeakSet,
)
from dcase_coherence.baseline.labels import ManyHotEncoder, make_encoder
from dcase_coherence.baseline.loading import pack_sets
from dcase_coherence.baseline.schedule import ExponentialWarmup, StepDecay
from dcase_coherence.baseline.trainer import MeanTeacher
from dcase_coherence.errors import InputError, Stopped
from dcase_coherence.lightning import CoherenceMixin
from dcase_coherence.regularizer import CoherenceRegularizer

PathLike = Union[str, "os.PathLike[str]"]
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


class CoherenceMeanTeacher(CoherenceMixin, MeanTeacher):
    """The baseline with the coherence term on the strongly labelled rows."""

    def configure_coherence(self) -> CoherenceRegularizer:
        """Build the regularizer of the configuration.

        Raises:
            InputError: `coherence.path` or `coherence.then` is no submodule of the network.
        """
        try:
            return super().configure_coherence()
        except ValueError as error:
            raise InputError(f"coherence: {error}") from None


class Experiment:
    """A model with its data, its trainer and its folder; made by :func:`build`.

    Attributes:
        module: the LightningModule.
        trainer: the Lightning trainer.
        folder: checkpoints, TensorBoard logs and `metrics_test` are written there.
    """

    def __init__(
        self, module: MeanTeacher, trainer: pl.Trainer, folder: Path, resume: Path | None
    ) -> None:
        self.module = module
        self.trainer = trainer
        self.folder = folder
        self.resume = resume

    def fit(self) -> Path:
        """Train, or go on with the training; return the path of the best checkpoint."""
        with quiet(), sentences():
            self.trainer.fit(self.module, ckpt_path=self.resume)
        return self.best

    @property
    def best(self) -> Path:
        """Checkpoint of the epoch with the best `val/obj_metric`."""
        return Path(self.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]

    def test(self, checkpoint: PathLike | None = None) -> dict[str, float]:
        """Test a checkpoint, by default the best one; return the scores by their logged names.

        Raises:
            InputError: the checkpoint cannot be loaded or is of another network.
        """
        path = self.best if checkpoint is None else Path(checkpoint)
        state = load_checkpoint(path).get("state_dict")
        try:
            self.module.load_state_dict(state)  # type: ignore[arg-type]
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"the checkpoint {path} does not fit the network of the configuration ({reason}); "
                "give the configuration that it was trained with"
            ) from None
        with quiet(), sentences():
            self.trainer.test(self.module, verbose=False)
        return self.module.test_results


def build(
    config: Mapping[str, Mapping[str, Any]],
    *,
    coherence: bool,
    log_dir: PathLike,
    trial: int = 0,
    gpus: str | None = None,
    resume: PathLike | None = None,
    train: bool = True,
    evaluation: bool = False,
    fast_dev_run: bool = False,
    progress: bool = True,
) -> Experiment:
    """Make everything that training and testing need.

    Args:
        config: see :func:`dcase_coherence.baseline.config.load_config`.
        coherence: add the coherence term to the baseline's loss.
        log_dir: results go to this folder, or to that of `resume`.
        trial: added to the seed.
        gpus: "0" takes the GPU of this index (the CPU where there is no GPU), "cpu" none, "0,1"
            two, a process each, where `training.backend` is ddp. By default one GPU where there
            is one; under torchrun or srun one for each of their processes.
        resume: checkpoint of an interrupted training (`last.ckpt`) to go on with.
        train: False when only a checkpoint is tested; the training data are not needed then.
        evaluation: test on `data.eval_folder`, which has no labels.
        fast_dev_run: three epochs of two batches.
        progress: show Lightning's progress bars, on a terminal.

    Raises:
        InputError: a file or folder of the configuration, or an argument, cannot be used.
    """
    settings: dict[str, Any] = copy.deepcopy({s: dict(keys) for s, keys in config.items()})
    training = settings["training"]
    processes = choose_processes(gpus, training["backend"])
    if processes.accelerator == "cpu":
        keep_memory()
    training["seed"] += trial
    if fast_dev_run:
        # Three epochs may be fewer than the interval, and a checkpoint needs a validation.
        training["validation_interval"] = 1
    training["num_workers"] = min(training["num_workers"], cores() - 1)
    if training["select_on"] == "test":
        data = settings["data"]
        data.update(
            {f"synth_val_{part}": data[f"test_{part}"] for part in ("folder", "tsv", "dur")}
        )
    if resume is not None:
        # Before any work: a run that cannot go on should say so at once.
        load_checkpoint(resume)
        resume = Path(resume).resolve()
        logger = TensorBoardLogger(str(resume.parent), name="", version="")
    elif train and Path(log_dir, "last.ckpt").exists():
        raise InputError(
            f"{log_dir} holds a training already; resume it from {Path(log_dir, 'last.ckpt')} "
            "or give another folder"
        )
    else:
        logger = TensorBoardLogger(str(log_dir), name="", version="")
    folder = Path(logger.log_dir)

    seed_everything(training["seed"])
    encoder = make_encoder(settings)
    # Lightning would not call it, and it freezes what is frozen.
    student = CRNN(**settings["net"]).train()
    parts: dict[str, Any] = {}
    callbacks: list[Callback] = []
    if train:
        train_sets, valid_sets = training_sets(settings, encoder)
        sampler = ConcatDatasetBatchSampler(
            [len(clips) if clips else 0 for clips in train_sets],
            training["batch_size"],
            seed=training["seed"],
            rank=processes.rank,
            processes=processes.total,
        )
        optimizer = torch.optim.Adam(student.parameters(), 1e-3, betas=(0.9, 0.999))
        scheduler = make_scheduler(settings, optimizer, len(sampler))
        parts = {
            "opt": optimizer,
            "train_data": ConcatDataset([clips for clips in train_sets if clips]),
            "valid_data": ConcatDataset(valid_sets),
            "train_sampler": sampler,
            "scheduler": {"scheduler": scheduler, "interval": "step"},
        }
        callbacks = make_callbacks(settings, folder)
    module = (CoherenceMeanTeacher if coherence else MeanTeacher)(
        {**settings, "log_dir": str(folder)},
        encoder,
        student,
        test_data=make_test_set(settings, encoder, evaluation),
        fast_dev_run=fast_dev_run,
        evaluation=evaluation,
        **parts,
    )
    limits = (
        {}
        if not fast_dev_run
        else dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches"), 2)
    )
    with quiet():
        trainer = pl.Trainer(
            accelerator=processes.accelerator,
            devices=processes.devices,
            num_nodes=processes.machines,
            strategy=make_strategy(settings, processes),
            # As one process with the joined batch; torch has it for GPUs only. What is frozen
            # would come back to life.
            sync_batchnorm=processes.accelerator == "gpu"
            and processes.total > 1
            and not settings["net"]["freeze_bn"],
            use_distributed_sampler=False,
            max_epochs=3 if fast_dev_run else training["n_epochs"],
            callbacks=callbacks,
            plugins=[WholeFileIO()],
            accumulate_grad_batches=training["accumulate_batches"],
            gradient_clip_val=training["gradient_clip"] or None,
            check_val_every_n_epoch=training["validation_interval"],
            num_sanity_val_steps=0,
            log_every_n_steps=1 if fast_dev_run else 40,
            logger=logger,
            enable_progress_bar=progress and sys.stderr.isatty(),
            enable_model_summary=False,
            enable_checkpointing=train,
            **limits,  # type: ignore[arg-type]
        )
    return Experiment(module, trainer, folder, resume)


def seed_everything(seed: int) -> None:
    """Seed what initialises the network."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def keep_memory(keep: bool = True) -> None:
    """Let the C library keep freed memory for the next allocation, where it is glibc.

    By default it hands each large block back to the system, and a training step on the CPU spends
    much of its time on having the same pages cleared again.

    Args:
        keep: False restores the default.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_max, 0 if keep else 65536)
    mallopt(trim_threshold, -1 if keep else 128 * 1024)  # -1: never


def cores() -> int:
    """Number of CPU cores that this process may use; those of torchrun share the machine's."""
    affinity = getattr(os, "sched_getaffinity", None)
    found = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(found // started_together()[0], 1) if "LOCAL_WORLD_SIZE" in os.environ else found


def choose_devices(gpus: str | None) -> tuple[str, Union[int, list[int]]]:
    """Read the official `--gpus` flag into Lightning's accelerator and devices.

    Raises:
        InputError: it is no list of numbers, or there is no such GPU.

    Example:
        >>> choose_devices("cpu")
        ('cpu', 1)
    """
    found = torch.cuda.device_count()
    if gpus == "cpu" or (gpus in (None, "0") and not found):
        return "cpu", 1
    if gpus is None:
        return "gpu", [0]
    try:
        indices = [int(part) for part in gpus.split(",")]
    except ValueError:
        raise InputError(f"--gpus is {gpus!r}; give indices such as 0 or 0,1, -1, or cpu") from None
    if indices == [-1]:
        indices = list(range(found))
    if not indices or not all(0 <= index < found for index in indices):
        raise InputError(f"--gpus is {gpus!r} and there are {found} GPUs here; give cpu or fewer")
    return "gpu", indices


class Processes(NamedTuple):
    """The processes that train one model.

    Attributes:
        accelerator: "cpu" or "gpu".
        devices: how many processes on each machine; for GPUs their indices, a process each.
        machines: how many.
    """

    accelerator: str
    devices: Union[int, list[int]]
    machines: int = 1

    @property
    def total(self) -> int:
        """How many processes there are on all machines."""
        here = self.devices if isinstance(self.devices, int) else len(self.devices)
        return here * self.machines

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        return own_rank() if self.total > 1 else 0


def own_rank() -> int:
    """Which of the processes of one training this is, from 0, as its launcher says."""
    return rank_zero_only.rank  # type: ignore[attr-defined]


def started_together() -> tuple[int, int]:
    """Processes a machine, and machines, of the torchrun or srun that started this process.

    `(1, 1)` without one of them.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    machines = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) // machines, machines


def choose_processes(gpus: str | None, backend: str | None) -> Processes:
    """Choose the processes that train one model, and their devices.

    Those that torchrun or srun started; else one, or with `backend` "ddp" one for each GPU.

    Args:
        gpus: the official flag.
        backend: `training.backend` of the configuration.

    Raises:
        InputError: there are not as many GPUs as processes, or several without "ddp".
    """
    accelerator, devices = choose_devices(gpus)
    here, machines = started_together()
    if here * machines > 1 and accelerator == "cpu":
        return Processes("cpu", here, machines)
    if here * machines > 1:
        named = gpus is not None and isinstance(devices, list)
        found: Any = devices if named else list(range(torch.cuda.device_count()))
        if len(found) < here or (named and len(found) > here):
            raise InputError(
                f"{here} processes were started on this machine for {len(found)} GPUs; start one "
                "for each GPU, or give --gpus cpu"
            )
        return Processes("gpu", found[:here], machines)
    if isinstance(devices, list) and len(devices) > 1 and backend != "ddp":
        raise InputError(
            f"--gpus is {gpus!r}; one training runs on one GPU, give one index, or set "
            "training.backend to ddp"
        )
    return Processes(accelerator, devices)


def make_strategy(config: Mapping[str, Any], processes: Processes) -> DDPStrategy | str:
    """Make the strategy of several processes; "auto" for one."""
    training = config["training"]
    if processes.total == 1 and training["backend"] != "ddp":
        return "auto"
    weak_outputs_learn = training["batch_size"][1] or training["teacher"]
    return DDPStrategy(
        # Rank zero alone uses the statistics of the batch normalisation, and keeps its own.
        broadcast_buffers=False,
        find_unused_parameters=config["net"]["attention"] and not weak_outputs_learn,
    )


def training_sets(
    config: Mapping[str, Any], encoder: ManyHotEncoder
) -> tuple[list[Clips | None], list[Clips]]:
    """Strong, weak and unlabelled sets (None where the share of the batch is 0), validation sets.

    Raises:
        InputError: a table, folder or file is missing or wrong.
    """
    data, training = config["data"], config["training"]
    seed = training["seed"]
    common: dict[str, Any] = {"pad_to": data["audio_max_len"], "fs": data["fs"], "seed": seed}
    _, weak_size, unlabelled_size = training["batch_size"]
    strong_table = read_strong_tsv(data["synth_tsv"], encoder.labels)
    strong = StronglyAnnotatedSet(data["synth_folder"], strong_table, encoder, **common)
    valid_table = read_strong_tsv(data["synth_val_tsv"], encoder.labels)
    read_durations(data["synth_val_dur"])
    valid: list[Clips] = [
        StronglyAnnotatedSet(
            data["synth_val_folder"], valid_table, encoder, return_filename=True, **common
        )
    ]
    weak, unlabelled = None, None
    if weak_size:
        table = read_weak_tsv(data["weak_tsv"], encoder.labels)
        chosen = table.sample(frac=training["weak_split"], random_state=seed)
        rest = table.drop(chosen.index)
        weak = WeakSet(data["weak_folder"], chosen, encoder, **common)
        if len(rest):
            valid.append(
                WeakSet(data["weak_folder"], rest, encoder, return_filename=True, **common)
            )
    if unlabelled_size:
        unlabelled = UnlabeledSet(data["unlabeled_folder"], encoder, **common)
    if data["packed"]:
        pack_sets(filter(None, [strong, weak, unlabelled, *valid]), data["packed_folder"])
    return [strong, weak, unlabelled], valid


def make_test_set(config: Mapping[str, Any], encoder: ManyHotEncoder, evaluation: bool) -> Any:
    """Test clips with file names: labelled ones, or the whole length of the evaluation's."""
    data = config["data"]
    if evaluation:
        return UnlabeledSet(
            data["eval_folder"], encoder, pad_to=None, fs=data["fs"], return_filename=True
        )
    read_durations(data["test_dur"])
    return StronglyAnnotatedSet(
        data["test_folder"],
        read_strong_tsv(data["test_tsv"], encoder.labels),
        encoder,
        pad_to=data["audio_max_len"],
        fs=data["fs"],
        return_filename=True,
        seed=config["training"]["seed"],
    )


def make_scheduler(
    config: Mapping[str, Any], optimizer: torch.optim.Optimizer, batches: int
) -> ExponentialWarmup:
    """Warm-up over `n_epochs_warmup`, or the decay of `opt`; `batches` are those of an epoch."""
    opt, training = config["opt"], config["training"]
    steps = max(batches // training["accumulate_batches"], 1)
    if opt["decay_factor"] is not None:
        return StepDecay(optimizer, opt["lr"], opt["decay_epochs"] * steps, opt["decay_factor"])
    return ExponentialWarmup(optimizer, opt["lr"], training["n_epochs_warmup"] * steps)


def make_callbacks(config: Mapping[str, Any], folder: Path) -> list[Callback]:
    """Early stopping, the best checkpoint, and the last one after every epoch."""
    training = config["training"]
    best = MovableCheckpoint(
        folder,
        monitor="val/obj_metric",
        mode="max",
        save_top_k=1,
        every_n_epochs=training["validation_interval"],
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = MovableCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    stopping = EarlyStopping(
        "val/obj_metric", patience=training["early_stop_patience"], mode="max", strict=False
    )
    return [stopping, best, last]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's banners, and its advice that does not apply here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for advice in (
            ".*does not have many workers.*",
            # A worker that lived on would not see the epoch of its clips change.
            ".*persistent_workers=True.*",
            ".*is smaller than the logging interval.*",
            ".*exists and is not empty.*",
            ".*isinstance.treespec, LeafSpec.*",
            # Rank zero alone scores.
            ".*sync_dist=True.*",
            # Frozen batch normalisation is.
            ".*in eval mode at the start of training.*",
        ):
            warnings.filterwarnings("ignore", advice)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextmanager
def sentences() -> Iterator[None]:
    """Pass on an InputError as it was raised; a loader's worker wraps it in its traceback.

    A worker that was killed and a disk that TensorBoard finds full are told as one, too.
    """
    try:
        yield
    except InputError as error:
        raise InputError(str(error).split("InputError: ")[-1].strip()) from None
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise InputError(
            f"the logs of the run cannot be written ({error.strerror}); make room, and run the "
            "same command again to go on"
        ) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if "Terminated" in str(error):
            # A scheduler may stop it before it stops this process.
            raise Stopped("a process that loads clips was told to stop") from None
        raise InputError(
            "a process that loads clips was killed, for want of memory perhaps; lower "
            "training.num_workers, and run the same command again to go on"
        ) from None
