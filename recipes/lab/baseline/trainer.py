"""The mean teacher: training, validation and test of a student and its moving average."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Subset

from dcase_coherence.lightning import rows_of
from lab.baseline.augment import frequency_mask, gain, mixup, time_shift
from lab.baseline.checkpoints import load_statistics, save_statistics
from lab.baseline.controls import strong_loss
from lab.baseline.features import MelSpectrogram, Scaler, take_log
from lab.baseline.results import validation_scores, write_test
from lab.data.datasets import (
    Clips,
    ConcatDatasetBatchSampler,
    LengthBatchSampler,
    mix_seed,
    name_in,
    sets_of,
)
from lab.data.labels import ManyHotEncoder
from lab.data.mels import MelCache
from lab.evaluation.posteriors import Posteriors, WeakScore
from lab.evaluation.thresholds import Thresholds


def seed_everything(seed: int) -> None:
    """Seed the global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class MeanTeacher(pl.LightningModule):
    """The DCASE 2021 Task 4 baseline's trainer (Tarvainen & Valpola, NIPS 2017).

    The student learns from strong and weak labels and from agreement with the teacher, whose
    parameters are the moving average of the student's. The batch holds strongly labelled, weakly
    labelled and unlabelled clips, in this order. Mixup rewrites `batch[1]` in place.

    Losses, rates, averages and the names under which they are logged are the official trainer's,
    with these differences:

    - `train/student/tot_supervised` is the supervised loss; the official trainer logs the
      consistency loss under this name.
    - In evaluation the folder `teacher` gets the teacher's detections; the official trainer
      writes the student's into both.
    - A scaler fitted on the data set is kept in the checkpoint.
    - A share of 0 in `training.batch_size` leaves a set out; `training.teacher: false` trains
      the student alone (the paper's Table 1), and `average` does, but tests the moving average of
      the student, statistics of the batch normalisation included. The official teacher averages
      parameters only: its batch normalisation follows its own forward passes.

    Every random number of an epoch is a function of `training.seed`, the epoch and the rank of the
    process, so a run that was interrupted and resumed ends like one that was not. Under DDP rank
    zero alone validates, tests and writes, and tells the others the scores.

    Args:
        hparams: the configuration, see :mod:`lab.baseline.config`.
        encoder: gives the frames and classes of the labels.
        sed_student: maps `(batch, mels, frames)` to strong `(batch, classes, frames)` and weak
            `(batch, classes)` posteriors; it is copied for the teacher.
        opt: optimizer of the student's parameters.
        train_data: ConcatDataset of the strong, weak and unlabelled sets.
        valid_data: clips with file names; those in `data.weak_folder` count as weak, those in
            `data.synth_val_folder` as strong.
        evaluation: test without labels; only detections are written.
        verify_psds: hold the PSDS of a test against psds_eval too, which takes minutes.
    """

    def __init__(
        self,
        hparams: Mapping[str, Any],
        encoder: ManyHotEncoder,
        sed_student: nn.Module,
        opt: Optimizer | None = None,
        train_data: Dataset | None = None,
        valid_data: Dataset | None = None,
        test_data: Dataset | None = None,
        train_sampler: ConcatDatasetBatchSampler | None = None,
        scheduler: dict[str, Any] | None = None,
        fast_dev_run: bool = False,
        evaluation: bool = False,
        verify_psds: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(dict(hparams))
        self.encoder = encoder
        self.sed_student = sed_student
        teacher = hparams["training"].get("teacher", True)
        #: Whether the teacher only averages: it sees no batch and the student does not follow it.
        self.averages = teacher == "average"
        copied = copy.deepcopy(sed_student).requires_grad_(False) if teacher else None
        self.sed_teacher: nn.Module | None = copied
        # Typed loosely: a module that is only tested has none of them.
        self.opt: Any = opt
        self.train_data: Any = train_data
        self.valid_data: Any = valid_data
        self.test_data: Any = test_data
        self.train_sampler: Any = train_sampler
        self.scheduler: Any = scheduler
        self.evaluation = evaluation
        self.verify_psds = verify_psds
        if hparams["data"].get("keep_mels") and train_data is not None:
            self.train_data = MelCache(sets_of(train_data), self.mels)
            self.valid_data = MelCache(sets_of(valid_data), self.mels)
        self.num_workers = 0 if fast_dev_run else hparams["training"]["num_workers"]
        self.mel_spec = MelSpectrogram(**hparams["feats"])
        scaler = hparams["scaler"]
        self.scaler = Scaler(scaler["statistic"], scaler["normtype"], scaler["dims"])
        self.supervised_loss = nn.BCELoss()
        mse = hparams["training"]["self_sup_loss"] == "mse"
        self.selfsup_loss = nn.MSELoss() if mse else nn.BCELoss()
        self.val_weak: dict[str, WeakScore] = {}
        self.val_strong: dict[str, Posteriors] = {}
        self.test_posteriors: dict[str, Posteriors] = {}
        #: Thresholds that the validation clips chose, by model; a test scores at them, too.
        self.thresholds: dict[str, Thresholds] = {}
        #: Scores of the last test by their logged names.
        self.test_results: dict[str, float] = {}

    @property
    def models(self) -> dict[str, nn.Module]:
        """The student and, where there is one, the teacher."""
        teacher = {} if self.sed_teacher is None else {"teacher": self.sed_teacher}
        return {"student": self.sed_student, **teacher}

    def mels(self, sound: Tensor) -> Tensor:
        """Mel spectrograms `(batch, mels, frames)` of audio, or what is given if it is that."""
        return sound if sound.dim() == 3 else self.mel_spec(sound.to(self.device))

    def features(self, mels: Tensor) -> Tensor:
        """Log and normalise mel spectrograms `(batch, mels, frames)`."""
        return self.scaler(take_log(mels))

    # Training

    def training_step(self, batch: Any, batch_indx: int) -> Tensor:
        """Compute the loss of a batch: supervised plus weighted consistency."""
        audio, labels = batch[0], batch[1]
        training = self.hparams["training"]
        strong_rows, weak_rows = self.labelled_rows()
        mels = self.mels(audio)
        labels_weak = (labels[weak_rows].sum(-1) > 0).float()
        if training.get("time_shift"):
            most = round(training["time_shift"] / self.encoder.frame_seconds)
            mels, labels[:] = time_shift(mels, labels, most, strong_rows)
        if training.get("gain"):
            mels = gain(mels, training["gain"])
        kind = training.get("mixup")
        if kind is not None and random.random() < 0.5:
            if len(labels_weak):
                mels[weak_rows], labels_weak = mixup(mels[weak_rows], labels_weak, kind)
            rows = strong_rows
            mels[rows], labels[rows] = mixup(mels[rows], labels[rows], kind)
        features = self.features(mels)
        if training.get("frequency_mask"):
            features = frequency_mask(features, training["frequency_mask"])

        def supervised(name: str, strong: Tensor, weak: Tensor) -> Tensor:
            control = training.get("control")
            loss = strong_loss(strong[strong_rows], labels[strong_rows], control)
            self.log(f"train/{name}/loss_strong", loss)
            if len(labels_weak):
                loss_weak = self.supervised_loss(weak[weak_rows], labels_weak)
                self.log(f"train/{name}/loss_weak", loss_weak)
                loss = loss + training.get("weak_weight", 1) * loss_weak
            return loss

        strong, weak = self.sed_student(features)
        loss = supervised("student", strong, weak)
        self.log("train/student/tot_supervised", loss, prog_bar=True)
        scheduler = self.warmup
        if self.sed_teacher is not None and not self.averages:
            with torch.no_grad():
                strong_teacher, weak_teacher = self.sed_teacher(features)
                supervised("teacher", strong_teacher, weak_teacher)
            weight = training["const_max"] * scheduler.scaling_factor()
            strong_consistency = self.selfsup_loss(strong, strong_teacher)
            weak_consistency = self.selfsup_loss(weak, weak_teacher)
            consistency = (strong_consistency + weak_consistency) * weight
            self.log("train/weight", weight)
            self.log("train/student/tot_self_loss", consistency, prog_bar=True)
            self.log("train/student/weak_self_sup_loss", weak_consistency)
            self.log("train/student/strong_self_sup_loss", strong_consistency)
            loss = loss + consistency
        self.log("train/step", float(scheduler.step_num), prog_bar=True)
        self.log("train/lr", self.opt.param_groups[-1]["lr"], prog_bar=True)
        return loss

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log a value; a training's only where it is shown or written.

        Of a small network Lightning's bookkeeping would take a tenth of each step.
        """
        trainer: Any = self._trainer
        shown = trainer is None or not trainer.training or trainer.progress_bar_callback
        if shown or not (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1):
            super().log(name, value, *args, **kwargs)

    def labelled_rows(self) -> tuple[slice, slice]:
        """Rows of a training batch with strong labels, and those with weak labels."""
        strong, weak, _ = rows_of(self.hparams["training"]["batch_size"])
        return strong, weak

    @property
    def warmup(self) -> Any:
        """The scheduler itself; it counts the steps."""
        return self.scheduler["scheduler"]

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Move the teacher towards the student.

        Lightning, 1.2 as 2, calls this between the losses and the gradients of a step: the
        teacher takes in the student as the step found it, and lags by one step.
        """
        student, teacher = self.sed_student, self.sed_teacher
        if teacher is None:
            return
        # Less stays at the start, where a true average does better.
        kept = min(1 - 1 / (self.warmup.step_num + 1), self.hparams["training"]["ema_factor"])
        pairs: list[tuple[Tensor, Tensor]] = [*zip(teacher.parameters(), student.parameters())]
        if self.averages:
            pairs += zip(teacher.buffers(), student.buffers())
        with torch.no_grad():
            for average, value in pairs:
                if value.is_floating_point():
                    average.mul_(kept).add_(value, alpha=1 - kept)
                else:
                    average.copy_(value)

    def configure_optimizers(self) -> Any:
        """Give Lightning the optimizer and the scheduler."""
        return [self.opt], [self.scheduler]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Count a step; Lightning asks for this method where a scheduler is not torch's own."""
        scheduler.step()

    # Randomness and data

    def on_fit_start(self) -> None:
        """Fit the scaler on the training set, unless a checkpoint or a file has its statistics."""
        if not self.scaler.needs_fit:
            return
        path = self.hparams["scaler"]["savepath"]
        of = {"feats": dict(self.hparams["feats"]), "dims": list(self.scaler.dims)}
        if path is not None and os.path.exists(path):
            self.scaler.set_statistics(*(t.to(self.device) for t in load_statistics(path, of)))
            return
        self.scaler.fit(take_log(self.mels(batch[0])) for batch in self.train_dataloader())
        # Each process has seen its part of each batch.
        reduce = self.trainer.strategy.reduce
        self.scaler.set_statistics(reduce(self.scaler.mean), reduce(self.scaler.mean_squared))
        if path is not None and self.trainer.is_global_zero:
            save_statistics(path, of, self.scaler.mean, self.scaler.mean_squared)

    def on_train_epoch_start(self) -> None:
        """Make the epoch's randomness a function of the seed, the epoch and the rank."""
        self.train_sampler.set_epoch(self.current_epoch)
        # The zero keeps it apart from the sampler's, which ends in the number of a set.
        seed = mix_seed(self.hparams["training"]["seed"], self.current_epoch, 0, self.global_rank)
        seed_everything(seed)

    def train_dataloader(self) -> DataLoader:
        """Training batches of the strong, weak and unlabelled sets."""
        # The first epoch's iterator is made before on_train_epoch_start.
        self.train_sampler.set_epoch(self.current_epoch)
        return self._loader(self.train_data, batch_sampler=self.train_sampler)

    def val_dataloader(self) -> DataLoader:
        """Validation clips, strong and weak."""
        return self._scored(self.valid_data)

    def test_dataloader(self) -> DataLoader:
        """Test clips."""
        return self._scored(self.test_data)

    def _scored(self, data: Any) -> DataLoader:
        # Lightning skips the scores where there is nothing to score: the others take one clip.
        if not self.trainer.is_global_zero:
            return self._loader(Subset(sets_of(data)[0], [0]), batch_size=1)
        size = self.hparams["training"]["batch_size_val"]
        if not all(isinstance(clips, Clips) for clips in sets_of(data)):
            return self._loader(data, batch_size=size)
        samples = round(self.encoder.audio_len * self.encoder.fs)
        return self._loader(data, batch_sampler=LengthBatchSampler(data, size, samples))

    def _loader(self, data: Any, **batches: Any) -> DataLoader:
        workers = 0 if isinstance(data, MelCache) else self.num_workers
        # Its own generator: starting workers takes no number from the training's.
        return DataLoader(data, num_workers=workers, generator=torch.Generator(), **batches)

    # Validation

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the last epoch."""
        self.val_weak = {name: WeakScore(len(self.encoder.labels)) for name in self.models}
        self.val_strong = {name: Posteriors() for name in self.models}

    def validation_step(self, batch: Any, batch_indx: int) -> None:
        """Collect what student and teacher say about a batch."""
        audio, labels, _, filenames = batch
        features = self.features(self.mels(audio))
        weak_rows = list(self._names_in(filenames, "weak_folder", "synth_val_folder"))
        names = self._names_in(filenames, "synth_val_folder", "weak_folder")
        strong_rows = list(names)
        labels_weak = (labels[weak_rows].sum(-1) >= 1).float()
        for name, model in self.models.items():
            strong, weak = model(features)
            if weak_rows:
                loss = self.supervised_loss(weak[weak_rows], labels_weak)
                self.log(f"val/weak/{name}/loss_weak", loss, batch_size=len(audio))
                self.val_weak[name].add(weak[weak_rows], labels_weak)
            if strong_rows:
                loss = self._strong_loss(strong[strong_rows], labels[strong_rows])
                self.log(f"val/synth/{name}/loss_strong", loss, batch_size=len(audio))
                self.val_strong[name].add(
                    strong[strong_rows], list(names.values()), self._seconds(audio)
                )

    def _names_in(self, paths: Sequence[str], folder: str, other: str) -> dict[int, str]:
        """Names of the clips of a folder by their rows; one folder may lie in the other."""
        data = self.hparams["data"]
        names = {}
        for row, path in enumerate(paths):
            name, nearer = name_in(data[folder], path), name_in(data[other], path)
            if name is not None and (nearer is None or len(nearer) >= len(name)):
                names[row] = name
        return names

    def _strong_loss(self, strong: Tensor, labels: Tensor) -> Tensor:
        # Of a clip of any length the network may give a frame more than the labels have.
        frames = min(strong.shape[-1], labels.shape[-1])
        return self.supervised_loss(strong[..., :frames], labels[..., :frames])

    def _seconds(self, audio: Tensor) -> float:
        if audio.dim() == 3:  # a spectrogram
            return float(self.encoder.audio_len)
        return audio.shape[-1] / self.encoder.fs

    def on_validation_epoch_end(self) -> None:
        """Score the epoch; `val/obj_metric` is what checkpoints are chosen by."""
        scores = {}
        if self.trainer.is_global_zero:
            scores = validation_scores(self.hparams, self.encoder, self.val_strong, self.val_weak)
        for name, value in self.trainer.strategy.broadcast(scores).items():
            self.log(name, value, prog_bar=name == "val/obj_metric")

    # Test

    def on_test_epoch_start(self) -> None:
        """Forget the last test."""
        self.test_posteriors = {name: Posteriors() for name in self.models}
        self.test_results = {}

    def test_step(self, batch: Any, batch_indx: int) -> None:
        """Collect what student and teacher say about a batch."""
        audio, labels, _, filenames = batch
        folder = self.hparams["data"]["eval_folder" if self.evaluation else "test_folder"]
        names = [name_in(folder, path) or path for path in filenames]
        features = self.features(self.mels(audio))
        for name, model in self.models.items():
            strong, _ = model(features)
            if not self.evaluation:
                loss = self._strong_loss(strong, labels)
                self.log(f"test/{name}/loss_strong", loss, batch_size=len(audio))
            self.test_posteriors[name].add(strong, names, self._seconds(audio))

    def on_test_epoch_end(self) -> None:
        """Write posteriors and detections, score them, write and log the scores."""
        results: dict[str, float] = {}
        if self.trainer.is_global_zero:
            results = write_test(
                Path(self.hparams["log_dir"], "metrics_test"),
                self.hparams,
                self.encoder,
                self.test_posteriors,
                labelled=not self.evaluation,
                verify_psds=self.verify_psds,
                thresholds=self.thresholds,
            )
            if results and self.logger is not None:
                self.logger.log_metrics(results)
                self.logger.log_hyperparams(dict(self.hparams), results)
        self.test_results = self.trainer.strategy.broadcast(results)
        for key, value in self.test_results.items():
            self.log(key, value, logger=False)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the networks under the names that the official checkpoints have."""
        for name, model in self.models.items():
            checkpoint[f"sed_{name}"] = model.state_dict()
