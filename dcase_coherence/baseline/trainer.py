"""The mean teacher: training, validation and test of a student and its moving average."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Subset

from dcase_coherence.baseline.augment import frequency_mask, gain, mixup, time_shift
from dcase_coherence.baseline.checkpoints import load_statistics, save_statistics
from dcase_coherence.baseline.features import MelSpectrogram, Scaler, take_log
from dcase_coherence.data.annotations import read_durations, read_strong_tsv
from dcase_coherence.data.datasets import ConcatDatasetBatchSampler, mix_seed
from dcase_coherence.data.labels import ManyHotEncoder
from dcase_coherence.data.loading import DeviceBatches, MelBatches, is_packed
from dcase_coherence.evaluation.posteriors import Posteriors, WeakScore, write_detections
from dcase_coherence.evaluation.scores import Scorer
from dcase_coherence.system.files import whole_file


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
    - `training.time_shift`, `gain` and `frequency_mask` change the clips of a batch, for student
      and teacher alike.
    - A share of 0 in `training.batch_size` leaves a set out; `training.teacher: false` trains
      the student alone (the paper's Table 1).

    As in the official trainer the moving average covers parameters only: the teacher's batch
    normalisation follows its own forward passes.

    Every random number of an epoch is a function of `training.seed`, the epoch and the rank of the
    process, so a run that was interrupted and resumed ends like one that was not.

    Under DDP each process trains on its part of each batch. Rank zero alone validates and tests,
    which the others wait for, and tells them the scores; it alone writes files.

    Args:
        hparams: the configuration, see :mod:`dcase_coherence.baseline.config`.
        encoder: gives the frames and classes of the labels.
        sed_student: maps `(batch, mels, frames)` to strong `(batch, classes, frames)` and weak
            `(batch, classes)` posteriors; it is copied for the teacher.
        opt: optimizer of the student's parameters.
        train_data: ConcatDataset of the strong, weak and unlabelled sets.
        valid_data: clips with file names; those in `data.weak_folder` count as weak, those in
            `data.synth_val_folder` as strong.
        test_data: clips with file names.
        train_sampler: gives the batches.
        scheduler: `{"scheduler": ExponentialWarmup(...), "interval": "step"}`.
        fast_dev_run: load the data in the main process.
        evaluation: test without labels; only detections are written.
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
    ) -> None:
        super().__init__()
        self.save_hyperparameters(dict(hparams))
        self.encoder = encoder
        self.sed_student = sed_student
        self.sed_teacher: nn.Module | None = None
        if hparams["training"].get("teacher", True):
            self.sed_teacher = copy.deepcopy(sed_student).requires_grad_(False)
        # Typed loosely: a module that is only tested has none of them.
        self.opt: Any = opt
        self.train_data: Any = train_data
        self.valid_data: Any = valid_data
        self.test_data: Any = test_data
        self.train_sampler: Any = train_sampler
        self.scheduler: Any = scheduler
        self.evaluation = evaluation
        self.num_workers = 0 if fast_dev_run else hparams["training"]["num_workers"]
        self.mel_spec = MelSpectrogram(**hparams["feats"])
        scaler = hparams["scaler"]
        self.scaler = Scaler(scaler["statistic"], scaler["normtype"], scaler["dims"])
        self.supervised_loss = nn.BCELoss()
        losses = {"mse": nn.MSELoss, "bce": nn.BCELoss}
        self.selfsup_loss = losses[hparams["training"]["self_sup_loss"]]()
        self.val_weak: dict[str, WeakScore] = {}
        self.val_strong: dict[str, Posteriors] = {}
        self.test_posteriors: dict[str, Posteriors] = {}
        #: Scores of the last test by their logged names.
        self.test_results: dict[str, float] = {}

    @property
    def models(self) -> dict[str, nn.Module]:
        """The student and, where there is one, the teacher."""
        teacher = {} if self.sed_teacher is None else {"teacher": self.sed_teacher}
        return {"student": self.sed_student, **teacher}

    def mels(self, sound: Tensor) -> Tensor:
        """Mel spectrograms `(batch, mels, frames)` of audio, or what is given if it is that."""
        return sound if sound.dim() == 3 else self.mel_spec(sound)

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
                mels[weak_rows], labels_weak = mixup(
                    mels[weak_rows], labels_weak, mixup_label_type=kind
                )
            mels[strong_rows], labels[strong_rows] = mixup(
                mels[strong_rows], labels[strong_rows], mixup_label_type=kind
            )
        features = self.features(mels)
        if training.get("frequency_mask"):
            features = frequency_mask(features, training["frequency_mask"])

        def supervised(name: str, strong: Tensor, weak: Tensor) -> Tensor:
            loss = self.supervised_loss(strong[strong_rows], labels[strong_rows])
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
        if self.sed_teacher is not None:
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
        trainer = self._trainer
        if trainer is not None and trainer.training and not trainer.progress_bar_callback:
            every = getattr(trainer, "log_every_n_steps", 1)
            if (trainer.global_step + 1) % max(every, 1):
                return
        super().log(name, value, *args, **kwargs)

    def labelled_rows(self) -> tuple[slice, slice]:
        """Rows of a training batch with strong labels, and those with weak labels."""
        strong, weak, _ = self.hparams["training"]["batch_size"]
        return slice(0, strong), slice(strong, strong + weak)

    @property
    def warmup(self) -> Any:
        """The scheduler itself; it counts the steps."""
        return self.scheduler["scheduler"]

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Move the teacher towards the student.

        Lightning, 1.2 as 2, calls this between the losses and the gradients of a step: the
        teacher takes in the student as the step found it, and lags by one step.
        """
        if self.sed_teacher is not None:
            factor = self.hparams["training"]["ema_factor"]
            self.update_ema(factor, self.warmup.step_num, self.sed_student, self.sed_teacher)

    @staticmethod
    @torch.no_grad()
    def update_ema(alpha: float, global_step: int, model: nn.Module, ema_model: nn.Module) -> None:
        """Move the parameters of `ema_model` towards those of `model`.

        Args:
            alpha: share that stays; less at the start, where a true average does better.
            global_step: counted from 1.
            model: the student.
            ema_model: the teacher; its buffers are left alone.
        """
        alpha = min(1 - 1 / (global_step + 1), alpha)
        for average, parameter in zip(ema_model.parameters(), model.parameters()):
            average.mul_(alpha).add_(parameter, alpha=1 - alpha)

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
        self.scaler.fit(
            take_log(self.mels(batch[0].to(self.device))) for batch in self.train_dataloader()
        )
        # Each process has seen its part of each batch.
        reduce = self.trainer.strategy.reduce
        self.scaler.set_statistics(reduce(self.scaler.mean), reduce(self.scaler.mean_squared))
        if path is not None and self.trainer.is_global_zero:
            save_statistics(path, of, self.scaler.mean, self.scaler.mean_squared)

    def on_train_epoch_start(self) -> None:
        """Make the epoch's randomness a function of the seed, the epoch and the rank."""
        self._set_epoch()
        # The zero keeps it apart from the sampler's, which ends in the number of a set.
        seed = mix_seed(self.hparams["training"]["seed"], self.current_epoch, 0, self.global_rank)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def _set_epoch(self) -> None:
        self.train_sampler.set_epoch(self.current_epoch)
        for clips in self.train_data.datasets:
            clips.epoch = self.current_epoch

    def train_dataloader(self) -> DataLoader:
        """Training batches of the strong, weak and unlabelled sets."""
        # The first epoch's iterator is made before on_train_epoch_start.
        self._set_epoch()
        return self._loader(self.train_data, batch_sampler=self.train_sampler)

    def val_dataloader(self) -> DataLoader:
        """Validation clips, strong and weak."""
        return self._scored(self.valid_data)

    def test_dataloader(self) -> DataLoader:
        """Test clips."""
        return self._scored(self.test_data)

    def _scored(self, data: Any) -> Any:
        # Lightning skips the scores where there is nothing to score: the others take one clip.
        data = data if self.trainer.is_global_zero else Subset(data, [0])
        return self._loader(data, batch_size=self.hparams["training"]["batch_size_val"])

    def _loader(self, data: Any, **batches: Any) -> Any:
        if is_packed(data):
            if self.hparams["data"].get("keep_mels"):
                return MelBatches(data, self.device, self.mel_spec, **batches)
            return DeviceBatches(data, self.device, **batches)
        # Its own generator: starting workers takes no number from the training's.
        return DataLoader(
            data, num_workers=self.num_workers, generator=torch.Generator(), **batches
        )

    # Validation

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the last epoch."""
        self.val_weak = {name: WeakScore(len(self.encoder.labels)) for name in self.models}
        self.val_strong = {name: Posteriors() for name in self.models}

    def validation_step(self, batch: Any, batch_indx: int) -> None:
        """Collect what student and teacher say about a batch."""
        audio, labels, _, filenames = batch
        features = self.features(self.mels(audio))
        weak_rows = self._rows_in(filenames, "weak_folder")
        strong_rows = self._rows_in(filenames, "synth_val_folder")
        labels_weak = (labels[weak_rows].sum(-1) >= 1).float()
        for name, model in self.models.items():
            strong, weak = model(features)
            if weak_rows:
                loss = self.supervised_loss(weak[weak_rows], labels_weak)
                self.log(f"val/weak/{name}/loss_weak", loss, batch_size=len(audio))
                self.val_weak[name].add(weak[weak_rows], labels_weak)
            if strong_rows:
                loss = self.supervised_loss(strong[strong_rows], labels[strong_rows])
                self.log(f"val/synth/{name}/loss_strong", loss, batch_size=len(audio))
                self.val_strong[name].add(
                    strong[strong_rows], [filenames[row] for row in strong_rows]
                )

    def _rows_in(self, filenames: Sequence[str], folder: str) -> list[int]:
        path = Path(self.hparams["data"][folder])
        return [row for row, name in enumerate(filenames) if Path(name).parent == path]

    def on_validation_epoch_end(self) -> None:
        """Score the epoch; `val/obj_metric` is what checkpoints are chosen by."""
        scores = self._validation_scores() if self.trainer.is_global_zero else {}
        for name, value in self.trainer.strategy.broadcast(scores).items():
            self.log(name, value, prog_bar=name == "val/obj_metric")

    def _validation_scores(self) -> dict[str, float]:
        data, training = self.hparams["data"], self.hparams["training"]
        reference = read_strong_tsv(data["synth_val_tsv"], self.encoder.labels)
        durations = read_durations(data["synth_val_dur"])
        scorer = Scorer(reference, durations, self.encoder.labels)
        scores = {}
        objective = 0.0
        for name, said in self.val_strong.items():
            events = said.decode(
                self.encoder, training["val_thresholds"], training["median_window"]
            )
            intersection = float(
                np.mean([scorer.intersection_based(found).macro_f1 for found in events.values()])
            )
            event = scorer.event_based(events[0.5]).macro_f1
            scores[f"val/synth/{name}/intersection_f1_macro"] = intersection
            scores[f"val/synth/{name}/event_f1_macro"] = event
            weak = 0.0
            if training["batch_size"][1]:
                weak = self.val_weak[name].macro_f1()
                scores[f"val/weak/{name}/macro_F1"] = weak
            if name == "student":
                by_event = training.get("obj_metric_synth_type") == "event"
                objective = weak + (event if by_event else intersection)
        return {**scores, "val/obj_metric": objective}

    # Test

    def on_test_epoch_start(self) -> None:
        """Forget the last test."""
        self.test_posteriors = {name: Posteriors() for name in self.models}
        self.test_results = {}

    def test_step(self, batch: Any, batch_indx: int) -> None:
        """Collect what student and teacher say about a batch."""
        audio, labels, _, filenames = batch
        features = self.features(self.mels(audio))
        for name, model in self.models.items():
            strong, _ = model(features)
            if not self.evaluation:
                loss = self.supervised_loss(strong, labels)
                self.log(f"test/{name}/loss_strong", loss, batch_size=len(audio))
            self.test_posteriors[name].add(strong, filenames)

    @property
    def test_thresholds(self) -> np.ndarray:
        """Operating points of the test, evenly spaced in (0, 1)."""
        count = self.hparams["training"]["n_test_thresholds"]
        return np.arange(1 / (count * 2), 1, 1 / count)

    def on_test_epoch_end(self) -> None:
        """Write posteriors and detections, score them, write and log the scores.

        Under `<log_dir>/metrics_test`: `metrics.json` and, in `student` and `teacher`,
        `posteriors.npz`, `predictions_05_<name>.tsv` and `predictions_th_<threshold>.tsv`.
        """
        results = self._write_test() if self.trainer.is_global_zero else {}
        self.test_results = self.trainer.strategy.broadcast(results)
        for key, value in self.test_results.items():
            self.log(key, value, logger=False)

    def _write_test(self) -> dict[str, float]:
        folder = Path(self._log_dir(), "metrics_test")
        window = self.hparams["training"]["median_window"]
        results: dict[str, float] = {}
        for name, said in self.test_posteriors.items():
            events = said.decode(self.encoder, [0.5], window)[0.5]
            points = said.decode(self.encoder, list(self.test_thresholds), window)
            said.save(folder / name / "posteriors.npz", self.encoder.labels)
            write_detections(folder / name, name, events, points)
            if not self.evaluation:
                scores = self._score(events, points)
                results.update({f"test/{name}/{key}": value for key, value in scores.items()})
        if self.evaluation:
            return {}
        results["hp_metric"] = max(results[f"test/student/psds_score_scenario{n}"] for n in (1, 2))
        with whole_file(folder / "metrics.json") as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n")
        if self.logger is not None:
            self.logger.log_metrics(results)
            self.logger.log_hyperparams(dict(self.hparams), results)
        return results

    def _score(
        self, events: pd.DataFrame, points: Mapping[float, pd.DataFrame]
    ) -> dict[str, float]:
        data = self.hparams["data"]
        reference = read_strong_tsv(data["test_tsv"], self.encoder.labels)
        durations = read_durations(data["test_dur"])
        scorer = Scorer(reference, durations, self.encoder.labels)
        psds1, psds2 = scorer.psds(points)
        event = scorer.event_based(events)
        segment = scorer.segment_based(events)
        intersection = scorer.intersection_based(events)
        return {
            "psds_score_scenario1": psds1,
            "psds_score_scenario2": psds2,
            "event_f1_macro": event.macro_f1,
            "event_f1_micro": event.micro_f1,
            "intersection_f1_macro": intersection.macro_f1,
            "intersection_f1_macro_strict": intersection.strict_macro_f1,
            "segment_f1_macro": segment.macro_f1,
            "segment_f1_macro_strict": segment.strict_macro_f1,
            "segment_f1_micro": segment.micro_f1,
        }

    def _log_dir(self) -> str:
        log_dir = None if self.logger is None else self.logger.log_dir
        return log_dir or self.hparams.get("log_dir") or self.trainer.default_root_dir

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the networks under the names that the official checkpoints have."""
        for name, model in self.models.items():
            checkpoint[f"sed_{name}"] = model.state_dict()
