"""Against a minimal stand-in of a checkout; tests/upstream runs the same against the real one."""

import importlib
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from dcase_coherence import coherence_loss, pseudo_labels
from dcase_coherence.lightning import CoherenceMixin
from dcase_coherence.official import script, shims, trainers
from dcase_coherence.system.errors import InputError

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
    "net": {"nb_filters": [4, 4]},
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


@pytest.fixture
def checkout(tmp_path):
    return write_checkout(tmp_path / "DESED_task")


def make_module(cls, checkout, **settings):
    """A trainer with a network and an optimizer; its logged values are kept in `.logged`."""
    config = {**CONFIG, "training": {**CONFIG["training"], **settings.pop("training", {})}}
    config["coherence"] = {"annealing_epochs": 0.0, **settings}
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


def test_the_subclass_puts_the_mixin_first(checkout):
    official, coherence = trainers.load_baseline(checkout)
    assert official.__name__ == "SEDTask4_2021"
    assert coherence.__mro__.index(official) > coherence.__mro__.index(CoherenceMixin)
    assert issubclass(coherence.__bases__[0], CoherenceMixin)
    assert "training_step" not in vars(coherence)


def test_nothing_stays_in_sys_modules(checkout):
    trainers.load_baseline(checkout)
    left = [name for name in sys.modules if name.split(".")[0] in ("local", "desed_task")]
    assert left == []


def test_two_checkouts_in_one_process_do_not_mix(checkout, tmp_path):
    other = write_checkout(tmp_path / "other")
    text = (other / "recipes/dcase2021_task4_baseline/local/mixup.py").read_text()
    (other / "recipes/dcase2021_task4_baseline/local/mixup.py").write_text(text + "\nOTHER = 1\n")
    first = trainers.load_baseline(checkout)
    second = trainers.load_baseline(other)
    assert first.official is not second.official
    with trainers.importable(other):
        assert importlib.import_module("local.mixup").OTHER == 1
    with trainers.importable(checkout):
        assert not hasattr(importlib.import_module("local.mixup"), "OTHER")


def test_loading_twice_gives_the_same_official_class(checkout):
    first = trainers.load_baseline(checkout).official
    assert trainers.load_baseline(checkout).official is first


def test_a_package_of_the_same_name_is_put_back(checkout, monkeypatch):
    mine = type(sys)("local")
    monkeypatch.setitem(sys.modules, "local", mine)
    trainers.load_baseline(checkout)
    assert sys.modules["local"] is mine


def test_importable_restores_after_an_error(checkout):
    with pytest.raises(ModuleNotFoundError), trainers.importable(checkout):
        importlib.import_module("local.mixup.nothing")
    assert "local" not in sys.modules
    assert "local.mixup" not in sys.modules


@pytest.mark.parametrize("mixup", [None, "soft", "hard"])
def test_labels_are_those_of_the_supervised_loss(checkout, mixup):
    module = make_module(
        trainers.load_baseline(checkout).coherence, checkout, training={"mixup": mixup}
    )
    seen, batch = [], make_batch()
    before = batch[1].clone()
    module.supervised_loss.register_forward_hook(lambda m, inputs, out: seen.append(inputs[1]))
    module.training_step(batch, 0)
    rows, labels = module.strong_labels(batch)
    assert rows == slice(0, 2)
    assert torch.equal(labels, seen[0].transpose(1, 2))
    assert torch.equal(before[:2], batch[1][:2]) == (mixup is None)


def test_the_teacher_is_not_tapped(checkout):
    module = make_module(trainers.load_baseline(checkout).coherence, checkout)
    assert len(module.sed_student.cnn._forward_hooks) == 1
    assert len(module.sed_teacher.cnn._forward_hooks) == 0
    kept = []
    module.sed_student.cnn.register_forward_hook(lambda m, inputs, output: kept.append(output))
    taken = []
    pop = module.coherence.tap.pop
    module.coherence.tap.pop = lambda: taken.append(pop()) or taken[-1]
    with torch.no_grad():
        for parameter in module.sed_teacher.parameters():
            parameter.add_(1.0)
    module.training_step(make_batch(), 0)
    assert len(kept) == 1
    assert torch.equal(taken[0], kept[0].squeeze(-1).transpose(1, 2))


def test_with_both_alphas_zero_every_logged_loss_is_the_official_one(checkout):
    official, coherence = trainers.load_baseline(checkout)
    expected, last = steps(make_module(official, checkout))
    logged, last_too = steps(make_module(coherence, checkout, alpha1=0.0, alpha2=0.0))
    assert {name: logged[name] for name in expected} == expected
    assert last_too == last


def test_the_term_changes_the_training(checkout):
    official, coherence = trainers.load_baseline(checkout)
    expected, _ = steps(make_module(official, checkout))
    logged, _ = steps(make_module(coherence, checkout))
    assert logged["train/student/loss_strong"][0] == expected["train/student/loss_strong"][0]
    assert logged["train/student/loss_strong"][2] != expected["train/student/loss_strong"][2]
    assert logged["train/coherence/term"][0] != 0.0


PSEUDO = {"threshold": 0.5, "band": 0.005, "rows": ["unlabelled"]}
WARM = {"n_epochs_warmup": 2, "median_window": 3}


def test_pseudo_labels_are_of_the_teachers_one_forward(checkout):
    cls = trainers.load_baseline(checkout).coherence
    alone, _ = steps(make_module(cls, checkout), 1)
    module = make_module(cls, checkout, training=WARM, pseudo=PSEUDO)
    outputs, z = [], []
    module.sed_teacher.register_forward_hook(lambda m, inputs, output: outputs.append(output))
    module.sed_student.cnn.register_forward_hook(lambda m, inputs, output: z.append(output))
    logged, _ = steps(module, 1)
    assert len(outputs) == 1
    for name, values in alone.items():
        assert logged[name] == values, name
    labels, valid = pseudo_labels(
        outputs[0][0][4:].transpose(1, 2), threshold=0.5, band=0.005, median_window=3
    )
    assert 0 < labels.mean() < 1
    assert logged["train/coherence/pseudo_frames"] == [float(valid.float().mean())]
    features = z[0].squeeze(-1).transpose(1, 2)[4:]
    expected = float(coherence_loss(features, labels, valid=valid))
    assert expected != 0
    assert logged["train/coherence/pseudo_term"] == [pytest.approx(expected, rel=1e-5)]
    assert module.hparams["coherence"]["pseudo"] == PSEUDO


@pytest.mark.parametrize(
    ("training", "pseudo", "words"),
    [
        ({}, {}, "coherence.pseudo needs training.n_epochs_warmup"),
        (WARM, {"rows": ["strong"]}, r"coherence.pseudo.rows is \['strong'\]"),
        (WARM, 0.5, "coherence.pseudo is 0.5; give keys and values"),
    ],
)
def test_pseudo_labels_that_cannot_be_are_one_sentence(checkout, training, pseudo, words):
    cls = trainers.load_baseline(checkout).coherence
    with pytest.raises(InputError, match=words):
        make_module(cls, checkout, training=training, pseudo=pseudo)


def test_the_state_dict_is_the_official_one(checkout):
    official, coherence = trainers.load_baseline(checkout)
    assert set(make_module(coherence, checkout).state_dict()) == set(
        make_module(official, checkout).state_dict()
    )


def test_the_settings_are_kept_with_the_checkpoint(checkout):
    module = make_module(trainers.load_baseline(checkout).coherence, checkout, alpha1=0.3)
    assert module.hparams["coherence"]["alpha1"] == 0.3
    assert module.hparams["coherence"]["alpha2"] == 0.03


@pytest.mark.parametrize(
    ("strong", "rows"),
    [(["synthetic"], [2, 3]), (["real", "maestro"], [0, 1, 4, 5]), (["maestro"], [0, 1])],
)
def test_2024_takes_the_named_sets_and_masks_their_labels(checkout, strong, rows):
    cls = trainers.load_baseline(checkout, "dcase2024_task4_baseline", allow_drift=True).coherence
    with trainers.importable(checkout):
        student = importlib.import_module("desed_task.nnet.CRNN").CRNN()
    config = {
        **CONFIG,
        "training": {"batch_size": [2, 2, 2, 1, 1]},
        "coherence": {"strong": strong, "tolerance": 0.05},
    }
    module = cls(config, None, student, None)
    module.log = lambda *args, **kwargs: None
    mask = torch.ones(8, 10).bool()
    mask[:2, 4:] = False
    mask[2:, 8:] = False
    batch = [torch.rand(8, 8, 64), torch.rand(8, 10, 16), torch.ones(8), torch.rand(8, 3), mask]
    module.training_step(batch, 0)
    got, labels = module.strong_labels(batch)
    assert got.tolist() == rows
    assert torch.equal(labels, module.seen[rows].transpose(1, 2))
    assert module.coherence.loss.tolerance == 0.05


def test_2024_has_no_pseudo_labels(checkout):
    cls = trainers.load_baseline(checkout, "dcase2024_task4_baseline", allow_drift=True).coherence
    with trainers.importable(checkout):
        student = importlib.import_module("desed_task.nnet.CRNN").CRNN()
    config = {**CONFIG, "training": {"batch_size": [2, 2, 2, 1, 1]}, "coherence": {"pseudo": {}}}
    with pytest.raises(InputError, match="pseudo is for the recipes of 2021 to 2023"):
        cls(config, None, student, None)


def test_2024_takes_the_synthetic_rows_by_default():
    assert trainers.check_strong_sets(["synthetic"]) == ("synthetic",)
    with pytest.raises(InputError, match=r"strong holds 'synth'.*maestro, synthetic, real"):
        trainers.check_strong_sets(["synth"])
    with pytest.raises(InputError, match="strong is 'synthetic'"):
        trainers.check_strong_sets("synthetic")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rescale": "* 2 - 1"}, r"ends in \[-1, 1\] instead of \[0, 1\]"),
        ({"masks": True}, "SpecAugment"),
    ],
)
def test_drift_is_refused_with_the_two_ways_out(tmp_path, options, reason):
    drifted = write_checkout(tmp_path / "head", **options)
    with pytest.raises(InputError, match=reason) as error:
        trainers.load_baseline(drifted)
    assert "git checkout 63d8b3b -- desed_task" in str(error.value)
    assert "--allow-drift" in str(error.value)
    assert trainers.load_baseline(drifted, allow_drift=True).official.__name__ == "SEDTask4_2021"


def test_augmentation_that_the_yaml_turns_off_is_no_drift(tmp_path):
    drifted = write_checkout(tmp_path / "head", masks=True)
    with trainers.importable(drifted):
        assert trainers.find_drift(CONFIG) != []
        assert trainers.find_drift({**CONFIG, "net": {"masks": False}}) == []


def test_looking_for_drift_leaves_the_random_state_alone(checkout):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with trainers.importable(checkout):
        trainers.find_drift(CONFIG)
    assert torch.equal(torch.rand(1), expected)


def test_what_is_no_checkout_is_said(tmp_path, checkout):
    with pytest.raises(InputError, match="git clone"):
        trainers.load_baseline(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no recipe 'dcase1999'; it has: dcase2021_task4_baseline"):
        trainers.load_baseline(checkout, "dcase1999")
    with pytest.raises(InputError, match=r"no trainer 'sed_trainer_pretrained'.*has: sed_trainer"):
        trainers.load_baseline(checkout, trainer="sed_trainer_pretrained")


def test_a_trainer_without_a_class_is_said(checkout):
    file = checkout / "recipes/dcase2021_task4_baseline/local/sed_trainer.py"
    file.write_text("import torch\n")
    with pytest.raises(InputError, match=r"sed_trainer\.py must define one trainer class.*none"):
        trainers.load_baseline(checkout)


# --- the official script -------------------------------------------------------------------------


@pytest.fixture
def run(checkout, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)

    def run(*argv, **options):
        return script.run_official(checkout, argv=argv, **options)

    return run


def test_both_arms_train_test_and_keep_their_checkpoint(run, tmp_path, capsys):
    result = run()
    assert result.checkpoint.is_file()
    assert result.checkpoint.parent == result.log_dir
    assert tmp_path / "exp/dcase2021_task4_baseline_coherence" in result.log_dir.parents
    assert 0.0 < result.metrics["test/teacher/mean"] < 1.0
    baseline = run("--log_dir", "logs/base", arm="baseline")
    assert tmp_path / "logs/base" in baseline.log_dir.parents
    kept = torch.load(result.checkpoint)
    assert kept["hyper_parameters"]["coherence"]["alpha1"] == 0.1
    assert "coherence" not in torch.load(baseline.checkpoint)["hyper_parameters"]
    if not torch.cuda.is_available():
        assert "no GPU found" in capsys.readouterr().out


def test_a_coherence_checkpoint_gives_the_same_in_the_untouched_script(run, tmp_path):
    trained = run()
    again = run("--test_from_checkpoint", str(trained.checkpoint), arm="baseline")
    assert again.metrics["test/teacher/mean"] == trained.metrics["test/teacher/mean"]


def test_a_run_is_resumed_from_its_last_checkpoint(run, checkout):
    trained = run()
    script = checkout / "recipes/dcase2021_task4_baseline/train_sed.py"
    script.write_text(script.read_text().replace("max_epochs=2", "max_epochs=3"))
    last = trained.checkpoint.parent / "last.ckpt"
    resumed = run("--resume_from_checkpoint", str(last), "--log_dir", "resumed")
    kept = torch.load(resumed.checkpoint.parent / "last.ckpt")
    assert torch.load(last)["global_step"] == 4  # two epochs of two batches
    assert kept["global_step"] == 6
    assert kept["lr_schedulers"][0]["step_num"] == 6


def test_with_both_alphas_zero_the_two_arms_end_equal(run, tmp_path):
    config = {**CONFIG, "coherence": {"alpha1": 0.0, "alpha2": 0.0}}
    (tmp_path / "zero.yaml").write_text(yaml.safe_dump(config))
    weights = []
    for arm in script.ARMS:
        result = run("--conf_file", "zero.yaml", "--log_dir", arm, arm=arm)
        weights.append(torch.load(result.checkpoint)["state_dict"])
    assert set(weights[0]) == set(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_with_pseudo_labels(run, tmp_path):
    training = {**CONFIG["training"], "n_epochs_warmup": 1, "median_window": 3}
    config = {**CONFIG, "training": training, "coherence": {"annealing_epochs": 0}}
    ends = []
    for name, pseudo in (("plain", None), ("pseudo", {**PSEUDO, "band": 0.0})):
        config["coherence"]["pseudo"] = pseudo
        (tmp_path / "pseudo.yaml").write_text(yaml.safe_dump(config))
        result = run("--conf_file", "pseudo.yaml", "--log_dir", name)
        ends.append(torch.load(result.checkpoint.parent / "last.ckpt")["state_dict"])
    assert set(ends[0]) == set(ends[1])
    assert not torch.equal(ends[0]["sed_student.cnn.0.weight"], ends[1]["sed_student.cnn.0.weight"])


def test_the_run_leaves_the_process_as_it_was(run, tmp_path):
    import pytorch_lightning

    before = (sys.argv, list(sys.path), os.getcwd(), pytorch_lightning.Trainer)
    run("--fast_dev_run")
    assert (sys.argv, sys.path, os.getcwd(), pytorch_lightning.Trainer) == before
    assert "local" not in sys.modules


def test_the_settings_and_the_test_scores_are_printed_once(run, capsys):
    result = run()
    out = capsys.readouterr().out
    assert out.count("coherence: alpha1=0.1, alpha2=0.03, ") == 1
    assert out.index("coherence: alpha1") < out.index("preparing the data")
    mean = result.metrics["test/teacher/mean"]
    assert out.endswith(f"test/teacher/mean: {mean:.4f}\n")
    assert out.count("test/teacher/mean:") == 1
    assert result.scores == {"test/teacher/mean": mean}
    run("--fast_dev_run", arm="baseline")
    assert "alpha1" not in capsys.readouterr().out


def test_both_arms_are_compared(checkout, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "train_sed_coherence.py"
    main = runpy.run_path(str(recipe))["main"]
    strong_term = {**CONFIG, "coherence": {"alpha1": 90.0, "annealing_epochs": 0}}
    Path("conf.yaml").write_text(yaml.safe_dump(strong_term))
    options = ["--arm", "both", "--log_dir", "logs", "--conf_file", "conf.yaml"]
    main(["--baseline", str(checkout), *options])
    out = capsys.readouterr().out
    values = [float(line.split()[1]) for line in out.splitlines() if line.startswith("test/")]
    (row,) = [line.split() for line in out.splitlines() if line.startswith("test/teacher/mean  ")]
    assert row[1:3] == [f"{value:.4f}" for value in values[:2]]
    assert float(row[3]) == pytest.approx(values[1] - values[0], abs=1.5e-4)
    assert values[0] != values[1]
    assert out.count("coherence: alpha1=90.0") == 1


@pytest.mark.parametrize("arm", script.ARMS)
@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"alpha": 1.0}, "unknown key 'alpha'"),
        ({"alpha1": -1.0}, "alpha1"),
        ({"strong": ["synthetic"]}, "unknown key 'strong'"),
        ({"path": "conv"}, "no submodule 'conv'; its children are: cnn, dense"),
        (0.1, r"coherence: is 0\.1; give a section of keys"),
        ({"pseudo": {"band": 2}}, r"coherence\.pseudo\.band is 2"),
    ],
)
def test_a_wrong_section_is_said_before_the_data_are_prepared(
    run, tmp_path, capsys, section, reason, arm
):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**CONFIG, "coherence": section}))
    with pytest.raises(InputError, match=reason):
        run("--conf_file", "bad.yaml", arm=arm)
    assert "preparing" not in capsys.readouterr().out


def test_an_empty_section_is_the_paper_s(checkout, tmp_path):
    with trainers.importable(checkout):
        settings = trainers.check_section("dcase2021_task4_baseline", {**CONFIG, "coherence": None})
    assert (settings["alpha1"], settings["alpha2"]) == (0.1, 0.03)
    assert "strong" not in settings


def test_the_strong_sets_of_2024_are_checked_with_the_section(checkout):
    config = {**CONFIG, "coherence": {"strong": ["synth"]}}
    with trainers.importable(checkout):
        with pytest.raises(InputError, match="strong holds 'synth'"):
            trainers.check_section("dcase2024_task4_baseline", config)
        config["coherence"]["strong"] = ["real"]
        settings = trainers.check_section("dcase2024_task4_baseline", config)
    assert settings["strong"] == ["real"]


def test_a_network_that_cannot_be_is_said(run, tmp_path):
    config = {**CONFIG, "net": {"nb_filters": 4}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="the section `net:` cannot be used"):
        run("--conf_file", "bad.yaml", allow_drift=True)


def test_a_recipe_of_lightning_1_is_refused_before_anything_is_imported(checkout, tmp_path):
    import pytorch_lightning

    if pytorch_lightning.__version__.startswith("1."):
        pytest.skip("this environment may be the recipe's own")
    conf = tmp_path / "conf.yaml"
    conf.write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(InputError, match=r"requirements-dcase2024\.txt, built with: python3\.8"):
        script.run_official(checkout, "dcase2024_task4_baseline", ["--conf_file", str(conf)])


def test_a_package_that_is_missing_is_said_with_the_environment(checkout):
    file = checkout / "recipes/dcase2021_task4_baseline/local/sed_trainer.py"
    file.write_text("import no_such_package.inside\n" + file.read_text())
    with pytest.raises(InputError, match=r"'no_such_package'.*requirements-dcase2021\.txt"):
        trainers.load_baseline(checkout)


def test_without_a_gpu_no_backend_is_named(capsys):
    later = {"strategy": None, "accelerator": "gpu", "devices": 1}
    assert script.on_cpu(later) == {"accelerator": "cpu", "devices": 1}
    assert script.on_cpu({"strategy": "dp", "distributed_backend": "ddp"}) == {}


def test_processes_that_would_train_without_the_term_are_refused():
    for name in ("strategy", "distributed_backend"):
        with pytest.raises(InputError, match="backend is 'ddp'"):
            script.refuse_ddp({name: "ddp"})
        script.refuse_ddp({name: None})


def test_a_yaml_of_settings_that_cannot_be_is_refused(run, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InputError, match=r"empty\.yaml holds no sections"):
        run("--conf_file", "empty.yaml")
    with pytest.raises(InputError, match=r"cannot read the configuration .*nowhere.yaml"):
        run("--conf_file", "nowhere.yaml")
    with pytest.raises(InputError, match=r"--test_from_checkpoint .*no.ckpt is not a file"):
        run("--test_from_checkpoint", "no.ckpt")
    with pytest.raises(InputError, match="arm is 'both'"):
        run(arm="both")


def test_training_beside_a_drifted_desed_task_is_refused(tmp_path, monkeypatch):
    drifted = write_checkout(tmp_path / "head", rescale="* 2 - 1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        script.run_official(drifted)
    assert not (tmp_path / "exp").exists()
