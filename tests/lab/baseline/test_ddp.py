"""Two processes that train one model are one process with the joined batch."""

import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lab.baseline.config import load_config
from lab.baseline.experiment import build, make_strategy
from lab.data.datasets import ConcatDatasetBatchSampler
from lab.devices import Processes

ROOT = Path(__file__).parents[3]


def in_two_processes(function, folder, *arguments):
    """Call `function(*arguments)` in two processes that torchrun might have started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def work(rank):
        os.environ.update(
            TORCHELASTIC_RUN_ID="test",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            GROUP_RANK="0",
        )
        rank_zero_only.rank = rank  # what an import after torchrun's start would find
        torch.set_num_threads(1)
        with open(folder / f"said_{rank}", "wb") as file:
            pickle.dump(function(*arguments), file)

    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank,)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung
    assert [process.exitcode for process in processes] == [0, 0]
    return [pickle.loads((folder / f"said_{rank}").read_bytes()) for rank in (0, 1)]


class Recorder(pl.Callback):
    """Keeps what a training does."""

    def __init__(self):
        self.losses, self.gradients, self.monitor, self.seeds, self.objective = [], [], [], [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.seeds.append(torch.initial_seed())

    def on_before_optimizer_step(self, trainer, module, optimizer):
        # Not references: the next step writes over them.
        named = module.sed_student.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses.append(float(outputs["loss"]))
        self.monitor.append(dict(module.coherence.metrics))

    def on_train_epoch_end(self, trainer, module):
        self.objective.append(float(trainer.callback_metrics["val/obj_metric"]))
        folder = Path(trainer.logger.log_dir)
        trainer.save_checkpoint(folder / f"epoch_{trainer.current_epoch}.ckpt")


def fit(config, folder, shares, resume=None, test=False):
    config["training"]["batch_size"] = shares
    experiment = build(config, coherence=True, log_dir=folder, gpus="cpu", resume=resume)
    recorder = Recorder()
    experiment.trainer.callbacks.insert(0, recorder)
    experiment.fit()
    output = dict(vars(recorder), state=experiment.module.state_dict())
    output["best"] = experiment.best
    output["tested"] = experiment.test() if test else None
    return output


@pytest.fixture
def config(config_file):
    """Two epochs of two batches, without what differs between processes."""
    config = load_config(config_file, {"data.keep_mels": True})
    config["training"].update(mixup=None, n_epochs=2)
    config["net"].update(dropout=0.0, normalization="layer")
    config["scaler"].update(statistic="dataset", normtype="standard", savepath=None)
    config["coherence"].update(alpha1=1.0, alpha2=0.5, annealing_epochs=0)
    return config


JOINED, SHARE = [2, 2, 4], [1, 1, 2]


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        difference = (ours[name].double() - theirs[name].double()).abs().max()
        assert difference <= tolerance, name


@pytest.mark.slow
def test_two_processes_are_one_with_the_joined_batch(config, tmp_path):
    alone = fit(config, tmp_path / "alone", JOINED)
    zero, one = in_two_processes(fit, tmp_path / "two", config, tmp_path / "two", SHARE, None, True)
    assert len(alone["losses"]) == 4
    # Rank zero draws as one alone does, the other does not.
    assert zero["seeds"] == alone["seeds"]
    assert set(one["seeds"]).isdisjoint(zero["seeds"])
    for step in range(4):
        mean = (zero["losses"][step] + one["losses"][step]) / 2
        assert mean == pytest.approx(alone["losses"][step], abs=1e-6)
        assert zero["losses"][step] != pytest.approx(mean, abs=1e-4)
        # The first gradients are of the same weights; then roundings grow.
        assert_close(zero["gradients"][step], alone["gradients"][step], 1e-6 if not step else 1e-5)
        assert_close(one["gradients"][step], zero["gradients"][step], 0)
        assert zero["monitor"][step] == pytest.approx(alone["monitor"][step], rel=1e-4)
        assert one["monitor"][step] == zero["monitor"][step]
    # Not compared with one process: Adam makes a whole step of a gradient that is all rounding.
    assert_close(one["state"], zero["state"], 0)
    assert zero["state"].keys() == alone["state"].keys()
    # Scores are the same in all processes, and are one process's.
    for name in ("best", "objective", "tested"):
        assert one[name] == zero[name]
    tested = build(config, coherence=True, log_dir=tmp_path / "test", train=False, gpus="cpu")
    again = tested.test(zero["best"])  # without the thresholds, which validation clips choose
    assert again == {name: zero["tested"][name] for name in again}


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_any_number_of_processes(config, tmp_path):
    whole = fit(config, tmp_path / "alone", JOINED)
    in_two_processes(fit, tmp_path / "two", config, tmp_path / "two", SHARE)

    def go_on(origin, folder, shares, start):
        folder.mkdir()
        last = shutil.copy(origin / "epoch_0.ckpt", folder / "last.ckpt")
        return start(fit, config, folder, shares, last)

    alone = go_on(tmp_path / "two", tmp_path / "a", JOINED, lambda function, *rest: function(*rest))
    zero, _ = go_on(
        tmp_path / "alone",
        tmp_path / "b",
        SHARE,
        lambda function, *rest: in_two_processes(function, tmp_path / "b", *rest),
    )
    for resumed in (alone, zero):
        assert len(resumed["losses"]) == 2
        for step in (0, 1):
            assert_close(resumed["gradients"][step], whole["gradients"][2 + step], 1e-5)
        assert resumed["state"].keys() == whole["state"].keys()


def fail(config, folder):
    """Train with a term in the second process that is not finite."""

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_index):
            if trainer.global_rank == 1:
                module.coherence[0].annealing = lambda epoch: float("nan")

    config["training"]["batch_size"] = SHARE
    experiment = build(config, coherence=True, log_dir=folder, gpus="cpu")
    experiment.trainer.callbacks.append(Poison())
    try:
        experiment.fit()
    except FloatingPointError as error:
        return str(error)


@pytest.mark.slow
def test_a_term_that_is_not_finite_in_one_process_stops_both_with_the_sentence(config, tmp_path):
    config["scaler"]["statistic"] = "instance"
    for output in in_two_processes(fail, tmp_path / "two", config, tmp_path / "two"):
        assert "the features have diverged; lower alpha1" in output


@pytest.mark.slow
def test_the_recipe_under_torchrun_leaves_the_files_of_one_process(config_file, tmp_path):
    config = yaml.safe_load(config_file.read_text())
    config["training"].update(batch_size=SHARE, n_epochs=2)
    config["scaler"] = {"savepath": None}
    config_file.write_text(yaml.safe_dump(config))
    recipe = str(ROOT / "recipes" / "train_sed_coherence.py")
    options = ["--conf_file", config_file, "--log_dir", tmp_path / "exp", "--gpus", "cpu"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node=2", recipe, *map(str, options), "--arm", "coherence"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,  # a machine under load is slow
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("comparison.md, checkpoints, logs and detections in") == 1
    folder = tmp_path / "exp" / "coherence" / "trial_0"
    names = sorted(path.name.split(".1")[0] for path in folder.rglob("*") if path.is_file())
    best = next(folder.glob("epoch=*.ckpt")).name
    detections = [
        f"predictions_{point}.tsv" for point in ("th_0.25", "th_0.75", "05_student", "05_teacher")
    ]
    assert (
        names
        == sorted(
            [
                *("trial.json", "epochs.tsv", "hparams.yaml", "metrics.json", "last.ckpt", best),
                *["events.out.tfevents"] * 3,  # of the training, the thresholds and the test
                *["posteriors.npz"] * 4,  # of both models, of the validation and of the test
                *(*detections, *detections[:2]),
            ]
        )
    )
    assert yaml.safe_load((folder / "trial.json").read_text())["processes"] == 2
    assert pd.read_csv(folder / "epochs.tsv", sep="\t")["epoch"].tolist() == [0, 1]


def test_settings_of_ddp(config):
    def settings(**training):
        config["training"].update(training)
        return make_strategy(config, Processes("gpu", [0, 1]))._ddp_kwargs

    # A validation on rank zero alone cannot wait for the others' buffers.
    assert settings() == {"broadcast_buffers": False, "find_unused_parameters": False}
    # The weak outputs learn nothing.
    assert settings(batch_size=[2, 0, 0], teacher=False)["find_unused_parameters"]
    config["net"]["attention"] = False
    assert not settings()["find_unused_parameters"]
    assert make_strategy(config, Processes("gpu", [0])) == "auto"


def test_processes_share_each_batch_without_overlap_and_in_order():
    lengths = [21, 14, 60]
    whole = ConcatDatasetBatchSampler(lengths, [6, 3, 9], seed=4)
    parts = [
        ConcatDatasetBatchSampler(lengths, [2, 1, 3], seed=4, rank=rank, processes=3)
        for rank in range(3)
    ]
    for sampler in (whole, *parts):
        sampler.set_epoch(2)
    batches = [list(part) for part in parts]
    assert {len(part) for part in parts} == {len(whole)} == {3}
    for number, joined in enumerate(whole):
        shares = [[batch[number][rows] for batch in batches] for rows in (slice(2), slice(2, 3))]
        shares.append([batch[number][3:] for batch in batches])
        assert [clip for share in shares for part in share for clip in part] == joined
        assert len(set(joined)) == len(joined)
