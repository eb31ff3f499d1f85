"""A small stand-in for DESED_task: what the trainers and the script of 2021 and 2024 ask of it."""

import importlib
from pathlib import Path

import pytest
import torch

from dcase_coherence.official import shims, trainers

pytest.importorskip("pytorch_lightning")
yaml = pytest.importorskip("yaml")

CRNN = """
import torch

class CRNN(torch.nn.Module):
    def __init__(self, nb_filters=(4, 4), masks=False, **kwargs):
        super().__init__()
        self.masks = masks
        self.cnn = torch.nn.Sequential(
            torch.nn.Conv2d(1, nb_filters[-1], 3, padding=1), torch.nn.AvgPool2d((4, 8))
        )
        self.dense = torch.nn.Linear(nb_filters[-1], 10)

    def forward(self, x):
        if self.masks and self.training:
            x = x * (torch.rand(x.shape) > 0.5)
        x = self.cnn(x.transpose(1, 2).unsqueeze(1)).squeeze(-1).transpose(1, 2)
        strong = torch.sigmoid(self.dense(x))
        return strong.transpose(1, 2), strong.mean(1)
"""

SCALER = """
import torch

class TorchScaler(torch.nn.Module):
    def __init__(self, statistic, normtype, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        low, high = torch.amin(x, self.dims, keepdim=True), torch.amax(x, self.dims, keepdim=True)
        return (x - low) / (high - low + 1e-8) {rescale}
"""

SCHEDULERS = """
from asteroid.engine.schedulers import *

class ExponentialWarmup(BaseScheduler):
    def __init__(self, optimizer, max_lr, rampup_length):
        super().__init__(optimizer)
        self.max_lr, self.rampup_len = max_lr, rampup_length

    def _get_lr(self):
        return self.max_lr * min(1.0, self.step_num / self.rampup_len)
"""

TRAINER = """
import random
from copy import deepcopy

import pandas as pd
import pytorch_lightning as pl
import torch
from desed_task.utils.scaler import TorchScaler

from .mixup import mixup


class SEDTask4_2021(pl.LightningModule):
    def __init__(self, hparams, encoder, sed_student, opt=None, train_data=None, scheduler=None,
                 valid_data=None, test_data=None):
        super(SEDTask4_2021, self).__init__()
        self.hparams = hparams
        self.sed_student = sed_student
        self.sed_teacher = deepcopy(sed_student)
        self.opt, self.scheduler = opt, scheduler
        self.train_data, self.valid_data, self.test_data = train_data, valid_data, test_data
        self.supervised_loss = torch.nn.BCELoss()
        self.f1 = pl.metrics.classification.F1(
            10, average="macro", multilabel=True, compute_on_step=False
        )
        scaler = self.hparams["scaler"]
        self.scaler = TorchScaler(scaler["statistic"], scaler["normtype"], scaler["dims"])
        self.buffer = pd.DataFrame()

    def training_step(self, batch, batch_indx):
        features, labels, _ = batch
        n_strong = self.hparams["training"]["batch_size"][0]
        strong = torch.zeros(len(features)).bool()
        strong[:n_strong] = True
        if self.hparams["training"]["mixup"]:
            features[strong], labels[strong] = mixup(
                features[strong], labels[strong], self.hparams["training"]["mixup"]
            )
        student, _ = self.sed_student(self.scaler(features))
        loss = self.supervised_loss(student[strong], labels[strong])
        with torch.no_grad():
            teacher, _ = self.sed_teacher(self.scaler(features))
        consistency = ((student - teacher) ** 2).mean()
        self.log("train/student/loss_strong", loss)
        self.log("train/student/tot_self_loss", consistency)
        return loss + consistency

    def on_before_zero_grad(self, *args, **kwargs):
        for teacher, student in zip(self.sed_teacher.parameters(), self.sed_student.parameters()):
            teacher.data.mul_(0.9).add_(student.data, alpha=0.1)

    def validation_step(self, batch, batch_indx):
        features, labels, _ = batch
        _, weak = self.sed_student(self.scaler(features))
        self.f1(weak, (labels.sum(-1) > 0).float())
        self.buffer = self.buffer.append(pd.DataFrame({"weak": weak[:, 0].tolist()}))

    def validation_epoch_end(self, outputs):
        self.log("val/obj_metric", self.f1.compute() + len(self.buffer))
        self.f1.reset()

    def test_step(self, batch, batch_indx):
        self.mean = self.sed_teacher(self.scaler(batch[0]))[0].mean()

    def on_test_epoch_end(self):
        self.log("test/teacher/mean", self.mean, prog_bar=True, logger=False)

    def configure_optimizers(self):
        return [self.opt], [self.scheduler]

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.train_data, batch_size=6)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.valid_data, batch_size=6)

    def test_dataloader(self):
        return torch.utils.data.DataLoader(self.test_data, batch_size=6)
"""

MIXUP = """
import torch

def mixup(data, target, kind):
    order = torch.randperm(len(data))
    mixed = (0.7 * target + 0.3 * target[order] if kind == "soft" else
             torch.clamp(target + target[order], max=1))
    return 0.7 * data + 0.3 * data[order], mixed
"""

SCRIPT = """
import argparse
import os

import pytorch_lightning as pl
import torch
import yaml
from desed_task.nnet.CRNN import CRNN
from desed_task.utils.schedulers import ExponentialWarmup
from local.sed_trainer import SEDTask4_2021
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        labels = (torch.rand(10, 16, generator=generator) > 0.7).float()
        return torch.rand(8, 64, generator=generator), labels, 1.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser("stand-in")
    parser.add_argument("--conf_file", default="./confs/sed.yaml")
    parser.add_argument("--log_dir", default="./exp/2021_baseline")
    parser.add_argument("--resume_from_checkpoint")
    parser.add_argument("--test_from_checkpoint")
    parser.add_argument("--gpus", default="0")
    parser.add_argument("--fast_dev_run", action="store_true")
    args = parser.parse_args()
    assert os.path.isfile("./confs/sed.yaml"), "not in the recipe's folder"
    with open(args.conf_file) as file:
        config = yaml.safe_load(file)
    print("preparing the data")
    torch.manual_seed(config["training"]["seed"])
    student = CRNN(**config["net"])
    opt = torch.optim.Adam(student.parameters(), 1e-3)
    scheduler = {"scheduler": ExponentialWarmup(opt, 1e-3, 2), "interval": "step"}
    state, logger, callbacks = None, True, None
    if args.test_from_checkpoint:
        state = torch.load(args.test_from_checkpoint)["state_dict"]
    else:
        logger = TensorBoardLogger(os.path.dirname(args.log_dir), args.log_dir.split("/")[-1])
        callbacks = [
            EarlyStopping(monitor="val/obj_metric", patience=9, mode="max"),
            ModelCheckpoint(logger.log_dir, monitor="val/obj_metric", mode="max", save_last=True),
        ]
    model = SEDTask4_2021(config, None, student, opt, Clips(), scheduler, Clips(), Clips())
    trainer = pl.Trainer(
        max_epochs=2, callbacks=callbacks, gpus=args.gpus, logger=logger,
        distributed_backend=config["training"].get("backend"),
        resume_from_checkpoint=args.resume_from_checkpoint,
        flush_logs_every_n_steps=1, log_every_n_steps=1, num_sanity_val_steps=0,
    )
    if state is None:
        trainer.fit(model)
        state = torch.load(trainer.checkpoint_callback.best_model_path)["state_dict"]
    model.load_state_dict(state)
    trainer.test(model)
"""

CONFIG = {
    "training": {"batch_size": [2, 2, 2], "mixup": "soft", "seed": 1, "backend": None},
    "data": {},
    "feats": {"n_mels": 8},
    "scaler": {"statistic": "instance", "normtype": "minmax", "dims": [1, 2]},
    "net": {"nb_filters": [4, 4], "nclass": 10},
}

TRAINER_2024 = """
import pytorch_lightning as pl
import torch


class SEDTask4(pl.LightningModule):
    def __init__(self, hparams, encoder, sed_student, pretrained_model, **kwargs):
        super(SEDTask4, self).__init__()
        self.hparams.update(hparams)
        self.sed_student = sed_student

    def training_step(self, batch, batch_indx):
        audio, labels, padded, embeddings, valid_class_mask = batch
        labels[:2] = 0.5 * labels[:2] + 0.5 * labels[:2].flip(0)
        labels = labels.masked_fill(~valid_class_mask[:, :, None].expand_as(labels), 0.0)
        self.seen = labels
        strong, _ = self.sed_student(audio)
        return ((strong - labels) ** 2).mean()
"""


def write_checkout(folder: Path, *, rescale="", masks=False) -> Path:
    recipe = folder / "recipes" / "dcase2021_task4_baseline"
    files = {
        folder / "desed_task/nnet/CRNN.py": CRNN.replace("masks=False", f"masks={masks}"),
        folder / "desed_task/nnet/__init__.py": "",
        folder / "desed_task/utils/__init__.py": "",
        folder / "desed_task/utils/scaler.py": SCALER.format(rescale=rescale),
        folder / "desed_task/utils/schedulers.py": SCHEDULERS,
        recipe / "local/sed_trainer.py": TRAINER,
        recipe / "local/mixup.py": MIXUP,
        recipe / "train_sed.py": SCRIPT,
        recipe / "confs/sed.yaml": yaml.safe_dump(CONFIG),
        folder / "recipes/dcase2024_task4_baseline/local/sed_trainer_pretrained.py": TRAINER_2024,
    }
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def make_module(cls, checkout, **settings):
    """A trainer with a network and an optimizer; its logged values are kept in `.logged`."""
    config = {**CONFIG, "training": {**CONFIG["training"], **settings.pop("training", {})}}
    config["coherence"] = {"preset": "exact", "annealing_epochs": 0.0, **settings}
    torch.manual_seed(0)
    with trainers.importable(checkout):
        student = importlib.import_module("desed_task.nnet.CRNN").CRNN(**config["net"])
    opt = torch.optim.Adam(student.parameters(), 1e-2)
    with shims.shims():
        module = cls(config, None, student, opt)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.setdefault(name, []).append(
        float(torch.as_tensor(value).detach())
    )
    return module


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(6, 10, 16, generator=generator) > 0.8).float()
    return [torch.rand(6, 8, 64, generator=generator), labels, torch.ones(6)]


def steps(module, count=3):
    torch.manual_seed(1)
    for index in range(count):
        loss = module.training_step(make_batch(index), index)
        module.opt.zero_grad()
        loss.backward()
        module.opt.step()
        module.on_before_zero_grad()
    return module.logged, [float(loss)]
