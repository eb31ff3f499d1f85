"""Packed batches are the DataLoader's, and a training from them is the same training."""

import multiprocessing
import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader

from lab.baseline.config import load_config
from lab.baseline.experiment import build
from lab.data.annotations import read_strong_tsv, read_weak_tsv
from lab.data.datasets import (
    ConcatDatasetBatchSampler,
    LengthBatchSampler,
    StronglyAnnotatedSet,
    UnlabeledSet,
    WeakSet,
)
from lab.data.desed import CLASSES, official_layout
from lab.data.labels import ManyHotEncoder
from lab.data.loading import DeviceBatches, MelBatches, is_packed, pack_sets

CPU = torch.device("cpu")


def make_sets(dataset, seconds, return_filename=False, whole=False):
    data = official_layout(dataset)
    encoder = ManyHotEncoder(CLASSES, seconds, 2048, 256, 4, 16000)
    common = {"pad_to": seconds, "return_filename": return_filename, "whole": whole}
    strong, weak = read_strong_tsv(data["synth_tsv"]), read_weak_tsv(data["weak_tsv"])
    return [
        StronglyAnnotatedSet(data["synth_folder"], strong, encoder, **common),
        WeakSet(data["weak_folder"], weak, encoder, **common),
        UnlabeledSet(data["unlabeled_folder"], encoder, **common),
    ]


@pytest.fixture
def packed(dataset, tmp_path):
    """Make packed sets."""

    def make(*arguments):
        sets = make_sets(dataset, *arguments)
        pack_sets(sets, tmp_path / "stores")
        return sets

    return make


def assert_same(ours, theirs):
    """Equal to the bit and of equal types."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.stride()) == (
            theirs.dtype,
            theirs.shape,
            theirs.stride(),
        )
        assert torch.equal(ours, theirs)
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_same(one, other)
    else:
        assert ours == theirs


# At half a second clips are cut into windows; at 1.2 s nearly all are padded.
@pytest.mark.parametrize("seconds", [0.5, 1, 1.2])
def test_training_batches_are_the_same(dataset, packed, seconds):
    ours, theirs = packed(seconds), make_sets(dataset, seconds)
    sampler = ConcatDatasetBatchSampler([len(clips) for clips in theirs], [2, 3, 3], seed=5)
    fast = DeviceBatches(ConcatDataset(ours), CPU, batch_sampler=sampler)
    slow = DataLoader(ConcatDataset(theirs), batch_sampler=sampler)
    assert len(fast) == len(slow) == (5 if seconds == 0.5 else 2)
    seen = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(fast)
        assert_same(batches, list(slow))
        seen.append(batches[0][0].clone())
        # What the training does to a batch stays in the batch.
        for batch in batches:
            batch[0].zero_()
            batch[1].zero_()
        assert_same(list(fast), list(slow))
    assert not torch.equal(*seen)


@pytest.mark.parametrize("confidence", [0.25, 1.0])
def test_soft_labels_are_packed_as_they_are(dataset, tmp_path, confidence):
    data = official_layout(dataset)
    encoder = ManyHotEncoder(CLASSES, 1, 2048, 256, 4, 16000)
    table = read_strong_tsv(data["synth_tsv"]).assign(confidence=confidence)
    sets = [StronglyAnnotatedSet(data["synth_folder"], table, encoder, pad_to=1) for _ in (0, 1)]
    pack_sets(sets[:1], tmp_path / "stores")
    ours = DeviceBatches(ConcatDataset(sets[:1]), CPU, batch_size=6)
    assert ours.labels.dtype == (torch.uint8 if confidence == 1 else torch.float32)
    (batch,) = ours
    assert torch.equal(batch[1], torch.stack([sets[1][item][1] for item in range(6)]))
    assert batch[1].max() == confidence


def test_validation_batches_are_the_same(dataset, packed):
    ours = ConcatDataset(packed(1, True))
    theirs = ConcatDataset(make_sets(dataset, 1, True))
    fast = DeviceBatches(ours, CPU, batch_size=5)
    slow = DataLoader(theirs, batch_size=5)
    assert len(fast) == len(slow) == 5
    assert_same(list(fast), list(slow))


@pytest.mark.parametrize("seconds", [0.5, 1.2])
def test_kept_mels_are_those_of_the_audio_made_once(packed, seconds):
    data = ConcatDataset(packed(seconds, True))
    made = []

    def mel_spec(audio):
        made.append(len(audio))
        return audio.unflatten(-1, (8, -1))

    plain = DeviceBatches(data, CPU, batch_size=5)
    mels = MelBatches(data, CPU, mel_spec, batch_size=5)
    for _ in range(2):
        for ours, theirs in zip(mels, plain):
            assert torch.equal(ours[0].flatten(1), theirs[0])
            assert_same(ours[1:], theirs[1:])
            ours[0].zero_()
    # At half a second most clips are two windows.
    assert (len(data) > 40) == (seconds == 0.5)
    assert made == [1] * len(data)


def test_batches_of_whole_clips_are_the_same(dataset, packed):
    # The clips of a second are longer than usual here, and those of the folder of three lengths.
    ours = ConcatDataset(packed(0.5, True, True))
    theirs = ConcatDataset(make_sets(dataset, 0.5, True, True))
    sampler = LengthBatchSampler(theirs, 5, 8000)
    assert list(sampler) == list(LengthBatchSampler(ours, 5, 8000))
    fast = list(DeviceBatches(ours, CPU, batch_sampler=sampler))
    assert_same(fast, list(DataLoader(theirs, batch_sampler=sampler)))
    assert {batch[0].shape[1] for batch in fast} == {8000, 16000, 24000}


def test_items_are_the_same(dataset, packed):
    for ours, theirs in zip(packed(0.5, True), make_sets(dataset, 0.5, True)):
        for item in range(len(theirs)):
            assert_same(ours[item], theirs[item])


def test_packed_or_not(dataset, packed):
    assert is_packed(ConcatDataset(packed(1)))
    assert not is_packed(ConcatDataset(make_sets(dataset, 1)))
    assert not is_packed(ConcatDataset([*packed(1), *make_sets(dataset, 1)]))
    assert not is_packed(make_sets(dataset, 1)[0])


# Trainings

# A fitted scaler reads the batches once more.
OVERRIDES = {
    "scaler.statistic": "dataset",
    "scaler.normtype": "standard",
    "scaler.savepath": None,
}


class Die(pl.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)


class HoldBiases(pl.Callback):
    # Before a batch normalisation a bias has no gradient but rounding, and Adam makes steps of it.
    def on_fit_start(self, trainer, module):
        for name, parameter in module.named_parameters():
            if ".conv" in name and name.endswith("bias"):
                parameter.requires_grad_(False)


def fit(config, folder, *callbacks, **arguments):
    torch.set_num_threads(1)
    experiment = build(config, coherence=True, log_dir=folder, gpus="cpu", **arguments)
    experiment.trainer.callbacks[:0] = callbacks
    experiment.fit()
    return torch.load(folder / "last.ckpt", weights_only=True), experiment.test()


def assert_same_training(ours, theirs):
    for part in ("state_dict", "sed_student", "sed_teacher"):
        assert list(ours[0][part]) == list(theirs[0][part])
        for name, value in theirs[0][part].items():
            assert torch.equal(ours[0][part][name], value), name
    assert ours[0]["epoch"] == theirs[0]["epoch"]
    assert ours[1] == theirs[1]


@pytest.mark.slow
def test_a_packed_training_is_the_same_killed_or_not(config_file, tmp_path, capfd):
    config = load_config(config_file, OVERRIDES)
    theirs = fit(config, tmp_path / "wav")
    config["data"].update(packed=True, packed_folder=str(tmp_path / "stores"))
    assert_same_training(fit(config, tmp_path / "packed"), theirs)
    assert capfd.readouterr().err.count("packing ") == 4
    process = multiprocessing.get_context("fork").Process(
        target=fit, args=(config, tmp_path / "killed", Die())
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    last = tmp_path / "killed" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] < 2
    assert_same_training(fit(config, tmp_path / "killed", resume=last), theirs)


def test_a_training_from_kept_mels_ends_with_the_same_scores(config_file, tmp_path):
    # Each clip is transformed alone, which may round differently.
    stores = {"data.packed": True, "data.packed_folder": str(tmp_path / "stores")}
    common = {**OVERRIDES, **stores, "training.n_epochs": 1}
    theirs = fit(load_config(config_file, common), tmp_path / "audio", HoldBiases())
    mels = load_config(config_file, {**common, "data.keep_mels": True})
    ours = fit(mels, tmp_path / "mels", HoldBiases())
    for name, value in theirs[0]["state_dict"].items():
        torch.testing.assert_close(ours[0]["state_dict"][name], value, rtol=1e-3, atol=1e-4)
    assert ours[1] == pytest.approx(theirs[1], abs=1e-3)
