"""From a configuration to a trained and tested model."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any, Mapping

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import ConcatDataset

from dcase_coherence import CoherenceRegularizer
from dcase_coherence.lightning import HEADS, CoherenceMixin
from lab.baseline.checkpoints import (
    MovableCheckpoint,
    OwnPatience,
    WholeFileIO,
    bare_weights,
    classes_in,
    load_checkpoint,
)
from lab.baseline.controls import READINGS, Reading
from lab.baseline.crnn import CRNN
from lab.baseline.messages import one_sentence, quiet
from lab.baseline.results import validation_thresholds
from lab.baseline.schedule import CosineDecay, ExponentialWarmup, Schedule, StepDecay
from lab.baseline.trainer import MeanTeacher, seed_everything
from lab.data.classes import refuse_other_classes, settle_classes
from lab.data.datasets import ConcatDatasetBatchSampler
from lab.data.labels import make_encoder
from lab.data.splits import make_test_set, training_sets
from lab.devices import Processes, choose_processes, cores, keep_memory
from lab.errors import InputError
from lab.files import PathLike

#: Optimizer steps below which a training is said to be short.
FEW_STEPS = 1000


class CoherenceMeanTeacher(CoherenceMixin, MeanTeacher):
    """The baseline with the coherence term on the strongly labelled rows."""

    def configure_coherence(self) -> Any:
        """Build the terms of the configuration.

        Raises:
            InputError: `coherence.path` is no submodule of the network.
        """
        try:
            terms: Any = super().configure_coherence()
        except ValueError as error:
            raise InputError(f"coherence: {error}") from None
        for name, weight in (self.hparams["training"].get("control") or {}).items():
            if name in READINGS:
                terms.append(CoherenceRegularizer(self.sed_student, loss=Reading(name, weight)))
        return terms


class Experiment:
    """A model with its data, its trainer and the folder of what it writes; see :func:`build`."""

    def __init__(
        self, module: MeanTeacher, trainer: pl.Trainer, folder: Path, resume: Path | None
    ) -> None:
        self.module = module
        self.trainer = trainer
        self.folder = folder
        self.resume = resume

    def fit(self) -> Path:
        """Train, or go on with the training; return the path of the best checkpoint."""
        with quiet(), one_sentence():
            self.trainer.fit(self.module, ckpt_path=self.resume)
        return self.best

    @property
    def validation(self) -> float:
        """The best `val/obj_metric` of an epoch."""
        return float(self.trainer.checkpoint_callback.best_model_score)  # type: ignore[union-attr]

    @property
    def best(self) -> Path:
        """Checkpoint of the epoch with the best `val/obj_metric`."""
        return Path(self.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]

    def test(self, checkpoint: PathLike | None = None) -> dict[str, float]:
        """Test a checkpoint, by default the best one; return the scores by their logged names.

        Raises:
            InputError: the checkpoint cannot be loaded, or is of another network or other classes.
        """
        path = self.best if checkpoint is None else Path(checkpoint)
        content = load_own(path, self.module.encoder.labels)
        state = content["state_dict"]
        try:
            if hasattr(self.module, HEADS):
                state.update(content.get(HEADS, {}))
            self.module.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"the checkpoint {path} does not fit the network of the configuration ({reason}); "
                "give the configuration that it was trained with"
            ) from None
        with quiet(), one_sentence():
            if self.module.valid_data is not None:
                self._choose_thresholds()
            self.trainer.test(self.module, verbose=False)
        return self.module.test_results

    def _choose_thresholds(self) -> None:
        module, thresholds = self.module, {}
        self.trainer.validate(module, verbose=False)
        if self.trainer.is_global_zero:
            thresholds = validation_thresholds(module.hparams, module.encoder, module.val_strong)
            for name, clips in module.val_strong.items():
                path = self.folder / "metrics_validation" / name / "posteriors.npz"
                clips.save(path, module.encoder, module.hparams["training"]["median_window"])
        module.thresholds = self.trainer.strategy.broadcast(thresholds)


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
    verify_psds: bool = False,
    fast_dev_run: bool = False,
    progress: bool = True,
) -> Experiment:
    """Make everything that training and testing need.

    Args:
        config: see :func:`lab.baseline.config.load_config`.
        coherence: add the coherence term to the baseline's loss.
        log_dir: results go to this folder, or to that of `resume`.
        trial: added to the seed.
        gpus: the official flag, see :func:`lab.devices.choose_processes`.
        resume: checkpoint of an interrupted training (`last.ckpt`) to go on with.
        train: False when only a checkpoint is tested; the training data are not needed then.
        evaluation: test on `data.eval_folder`, which has no labels.
        verify_psds: hold the PSDS of a test against psds_eval too, which takes minutes.
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
    settle_classes(settings)
    encoder = make_encoder(settings)
    if resume is not None:
        # Before any work: a run that cannot go on should say so at once.
        load_own(resume, encoder.labels)
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
        sampler.passes = passes(training, len(sampler))
        if processes.rank == 0 and resume is None and not fast_dev_run:
            tell_few_steps(training, len(sampler), folder)
        optimizer = torch.optim.Adam(
            student.parameters(), 1e-3, betas=(0.9, 0.999), fused=processes.accelerator == "cpu"
        )
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
        verify_psds=verify_psds,
        **parts,
    )
    limit = 2 if fast_dev_run else None
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
            limit_train_batches=limit,
            limit_val_batches=limit,
            limit_test_batches=limit,
        )
    return Experiment(module, trainer, folder, resume)


def load_own(path: PathLike, classes: list[str]) -> dict[str, Any]:
    """Load a checkpoint of a network of these classes, without a wrapper's prefixes.

    Raises:
        InputError: it cannot be loaded, is of other classes, or holds weights that are not finite.
    """
    content = load_checkpoint(path)
    refuse_other_classes(f"the checkpoint {path}", classes_in(content), classes)
    return {**content, "state_dict": bare_weights(content.get("state_dict"), path)}


def passes(training: Mapping[str, Any], batches: int) -> int:
    """How often an epoch goes through its clips, in so many batches, for `training.min_steps`.

    Example:
        >>> passes({"min_steps": 100, "n_epochs": 10, "accumulate_batches": 1}, batches=3)
        4
    """
    wanted = training["min_steps"] * training["accumulate_batches"]
    return max(math.ceil(wanted / (training["n_epochs"] * batches)), 1)


def tell_few_steps(training: Mapping[str, Any], batches: int, folder: Path) -> None:
    """Say in one line where a training has few optimizer steps; `batches` are those of an epoch."""
    each = math.ceil(batches / training["accumulate_batches"])
    steps = training["n_epochs"] * each
    if steps < FEW_STEPS:
        print(
            f"{folder}: {steps} optimizer steps in all, {each} an epoch, are few to learn from; "
            f"training.min_steps={FEW_STEPS} goes through the clips more often",
            file=sys.stderr,
        )


def make_strategy(config: Mapping[str, Any], processes: Processes) -> DDPStrategy | str:
    """Make the strategy of several processes; "auto" for one."""
    training = config["training"]
    if processes.total == 1 and training["backend"] != "ddp":
        return "auto"
    weak_outputs_learn = training["batch_size"][1] or training["teacher"] is True
    return DDPStrategy(
        # Rank zero alone uses the statistics of the batch normalisation, and keeps its own.
        broadcast_buffers=False,
        find_unused_parameters=config["net"]["attention"] and not weak_outputs_learn,
    )


def make_scheduler(
    config: Mapping[str, Any], optimizer: torch.optim.Optimizer, batches: int
) -> Schedule:
    """Warm-up over `n_epochs_warmup`, or what `opt` says; `batches` are those of an epoch."""
    opt, training = config["opt"], config["training"]
    steps = max(batches // training["accumulate_batches"], 1)
    if opt["decay_factor"] is not None:
        return StepDecay(optimizer, opt["lr"], opt["decay_epochs"] * steps, opt["decay_factor"])
    warmup = training["n_epochs_warmup"] * steps
    if opt["schedule"] == "cosine":
        return CosineDecay(optimizer, opt["lr"], warmup, training["n_epochs"] * steps)
    return ExponentialWarmup(optimizer, opt["lr"], warmup)


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
    stopping = OwnPatience(
        "val/obj_metric", patience=training["early_stop_patience"], mode="max", strict=False
    )
    return [stopping, best, last]
