"""The real code: DESED_TASK is a checkout at 63d8b3b, DESED_TASK_HEAD one at c6bcb45.

Each yearly recipe runs in its own environment (recipes/envs), told by its Lightning: run these
tests in each of them. Without a checkout they are skipped. The checkouts of other systems have
variables of their own, named in test_systems.py.
"""

import copy
import importlib
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, Tuple

import numpy as np
import pytest
import torch

from dcase_coherence.official import shims, trainers

try:
    LIGHTNING = version("pytorch-lightning")
except PackageNotFoundError:
    LIGHTNING = ""


PATCHES = Path(__file__).resolve().parents[3] / "patches"


class Case(NamedTuple):
    recipe: str
    trainer: str
    checkout: str  # pinned, head, or mixed: recipes of head with the pinned desed_task
    lightning: Tuple[str, ...]

    @property
    def year(self):
        return self.recipe[5:9]


def _case(year, trainer, checkout, *lightning):
    return Case(f"dcase{year}_task4_baseline", trainer, checkout, lightning)


CASES = {
    "2021": _case(2021, "sed_trainer", "pinned", "1.2.", "2."),
    "2022": _case(2022, "sed_trainer", "mixed", "1.5."),
    "2022-pretrained": _case(2022, "sed_trainer_pretrained", "head", "1.5."),
    "2023": _case(2023, "sed_trainer", "head", "1.9."),
    "2023-pretrained": _case(2023, "sed_trainer_pretrained", "head", "1.9."),
    "2024": _case(2024, "sed_trainer_pretrained", "head", "1.9."),
}


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(str(item.fspath)).parents:
            item.add_marker(pytest.mark.upstream)


def _checkout(variable):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"set {variable} to a checkout of DESED_task")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def checkouts(tmp_path_factory):
    """Name of a kind of checkout -> its folder."""

    def find(kind):
        if kind != "mixed":
            return _checkout("DESED_TASK" if kind == "pinned" else "DESED_TASK_HEAD")
        pinned, head = _checkout("DESED_TASK"), _checkout("DESED_TASK_HEAD")
        folder = tmp_path_factory.getbasetemp() / "mixed"
        if not folder.exists():
            folder.mkdir()
            (folder / "recipes").symlink_to(head / "recipes")
            (folder / "desed_task").symlink_to(pinned / "desed_task")
        return folder

    return find


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        runnable = {
            name: case for name, case in CASES.items() if LIGHTNING.startswith(case.lightning)
        }
        metafunc.parametrize("case", list(runnable.values()), ids=list(runnable))


@pytest.fixture
def checkout(case, checkouts):
    return checkouts(case.checkout)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A small generated data set; the 2023 scores need every class in what they are scored on."""
    pd = pytest.importorskip("pandas")
    from lab.soundscapes import generate

    counts = {"strong": 4, "weak": 10, "unlabelled": 4, "validation": 24, "test": 24}
    for seed in range(30):
        out = tmp_path_factory.mktemp("data")
        generate(out, **counts, seed=seed, processes=1, progress=False)
        tables = (
            "validation/synthetic21_validation/soundscapes.tsv",
            "validation/validation.tsv",
        )
        frames = [pd.read_csv(out / "metadata" / table, sep="\t") for table in tables]
        if all(frame["event_label"].nunique() == 10 for frame in frames):
            return out
    raise AssertionError("no seed gives all ten classes")


@pytest.fixture
def patched(case, checkout, tmp_path):
    """A copy of the checkout with the year's patch."""
    folder = tmp_path / "patched"
    shutil.copytree(str(checkout / "recipes" / case.recipe), str(folder / "recipes" / case.recipe))
    shutil.copytree(str(checkout / "desed_task"), str(folder / "desed_task"))
    patch = PATCHES / f"{case.recipe}.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
    return folder


@pytest.fixture
def submission(tmp_path, monkeypatch):
    """Make a patched copy of a system whose modules are importable for one test.

    Skips where there is no checkout, and where a package is missing that the system imports.
    """
    before = dict(sys.modules)

    def make(variable, name, paths=(".",), needs=()):
        if not os.environ.get(variable):
            pytest.skip(f"set {variable} to a checkout of the system")
        checkout = Path(os.environ[variable]).resolve()
        for package in needs:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{checkout.name} needs the package {package}, see docs/upstream.md")
        folder = tmp_path / name
        shutil.copytree(str(checkout), str(folder), ignore=shutil.ignore_patterns(".git"))
        patch = PATCHES / "submissions" / f"{name}.patch"
        subprocess.run(["git", "apply", str(patch)], cwd=str(folder), check=True)
        monkeypatch.chdir(folder)
        for path in paths:
            monkeypatch.syspath_prepend(str(folder / path))
        return folder

    yield make
    # All of them before the first is taken away: a namespace package asks its parent for its path.
    places = {
        name: [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        for name, module in sys.modules.items()
        if name not in before
    }
    for name, files in places.items():
        if any(str(tmp_path) in str(file) for file in files):
            del sys.modules[name]


@pytest.fixture
def tiny_config(case, checkout):
    """The recipe's own yaml with a small network and small batches."""

    def make(data=None, **training):
        folder = trainers.recipe_folder(checkout, case.recipe)
        config = trainers.default_config(folder, case.trainer)
        for name, value in config["data"].items():
            if data is not None and isinstance(value, str):
                config["data"][name] = re.sub(r"^.*dataset/(dcase_synth/)?", f"{data}/", value)
        config["training"].update(
            batch_size=[2] * len(config["training"]["batch_size"]),
            batch_size_val=12,
            num_workers=0,
            n_epochs_warmup=1,
            n_test_thresholds=3,
            weak_split=0.8,
            backend=None,
            **training,
        )
        config["net"].update(nb_filters=[4, 4, 8, 8, 8, 8, 8], n_RNN_cell=8)
        if "pretrained" in config:
            # Without it the CRNN of HEAD stops in forward: the 2022 yaml does not name one.
            config["net"].update(aggregation_type="pool1d", embedding_size=5)
        config["log_dir"] = "unused"
        return config

    return make


@pytest.fixture
def make_module(case, checkout):
    """A recipe's trainer with its network and optimizer; what it logs is kept in `.logged`."""

    def make(cls, config, section=(), **coherence):
        config = copy.deepcopy(config)
        settings = {"preset": "exact", "annealing_epochs": 0.0, **coherence}
        config["coherence"] = settings if section == () else section
        torch.manual_seed(0)
        with shims.shims(), trainers.importable(checkout, case.recipe):
            student = importlib.import_module("desed_task.nnet.CRNN").CRNN(**config["net"])
            warmup = importlib.import_module("desed_task.utils.schedulers").ExponentialWarmup
            opt = torch.optim.Adam(student.parameters(), 1e-3)
            more = {"pretrained_model": None} if "pretrained" in config else {}
            module = cls(
                config,
                encoder=types.SimpleNamespace(labels=list(range(config["net"]["nclass"]))),
                sed_student=student,
                opt=opt,
                scheduler={"scheduler": warmup(opt, 1e-3, 4)},
                **more,
            )
        module.logged = {}
        module.log = lambda name, value, **_: module.logged.setdefault(name, []).append(
            torch.as_tensor(value).detach().clone()
        )
        return module

    return make


@pytest.fixture
def make_batch(case):
    """A batch of random clips and labels as the recipe's data loader gives it."""

    def make(config, seed=0):
        generator = torch.Generator().manual_seed(seed)
        rows, classes = sum(config["training"]["batch_size"]), config["net"]["nclass"]
        audio = 0.1 * torch.randn(rows, 16000 * 10, generator=generator)
        events = torch.rand(rows, classes, 12, generator=generator) > 0.7
        labels = events.repeat_interleave(13, dim=-1).float()
        batch = [audio, labels, torch.ones(rows, 1)]
        if case.year == "2023" and case.trainer == "sed_trainer":
            batch.append(torch.ones(rows, classes).bool())
        if case.trainer == "sed_trainer_pretrained":
            batch.append(torch.randn(rows, 5, 496, generator=generator))
        if case.year == "2024":
            known = torch.ones(rows, classes).bool()
            known[:2, :8] = False  # MAESTRO knows classes that DESED does not, and the reverse
            known[2:, 10:] = False
            batch.append(known)
        return batch

    return make


@pytest.fixture
def train_steps(make_batch):
    """Some steps as Lightning makes them, from fixed seeds; the losses, with their gradients."""

    def train(module, count=3):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        losses = []
        for index in range(count):
            loss = module.training_step(make_batch(module.hparams, index), index)
            module.on_before_zero_grad()
            module.opt.zero_grad()
            loss.backward()
            module.opt.step()
            module.scheduler["scheduler"].step()
            losses.append(loss.detach())
        return losses

    return train
