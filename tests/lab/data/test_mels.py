"""The cache gives the spectrograms of the audio, and a training from it is the same training."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader

from lab.baseline.config import load_config
from lab.baseline.experiment import build
from lab.data.annotations import read_strong_tsv, read_weak_tsv
from lab.data.datasets import LengthBatchSampler, StronglyAnnotatedSet, UnlabeledSet, WeakSet
from lab.data.desed import CLASSES, official_layout
from lab.data.labels import ManyHotEncoder
from lab.data.mels import MelCache


def make_sets(dataset, seconds, whole=False):
    data = official_layout(dataset)
    encoder = ManyHotEncoder(CLASSES, seconds, 2048, 256, 4, 16000)
    common = {"pad_to": seconds, "return_filename": True, "whole": whole}
    strong, weak = read_strong_tsv(data["synth_tsv"]), read_weak_tsv(data["weak_tsv"])
    return [
        StronglyAnnotatedSet(data["synth_folder"], strong, encoder, **common),
        WeakSet(data["weak_folder"], weak, encoder, **common),
        UnlabeledSet(data["unlabeled_folder"], encoder, **common),
    ]


class MelSpec:
    """Audio in another shape, and how often it was asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, audio):
        self.calls += 1
        return audio.unflatten(-1, (8, -1))


# At half a second nearly all clips are two windows or more; at 1.2 s all but one are padded.
@pytest.mark.parametrize("seconds", [0.5, 1.2])
def test_spectrograms_are_those_of_the_audio_made_once(dataset, seconds):
    sets, mel_spec = make_sets(dataset, seconds), MelSpec()
    audio = DataLoader(ConcatDataset(sets), batch_size=5)
    mels = DataLoader(MelCache(sets, mel_spec), batch_size=5)
    assert (len(audio.dataset) > 40) == (seconds == 0.5)
    for _ in range(3):
        for ours, theirs in zip(mels, audio):
            assert torch.equal(ours[0].flatten(1), theirs[0])
            assert torch.equal(ours[1], theirs[1])
            assert ours[3] == theirs[3]
            # What the training does to a batch stays in the batch.
            ours[0].zero_()
            ours[1].zero_()
    assert mel_spec.calls == len(audio.dataset)


def test_longer_clips_that_stay_whole_stay_audio(dataset):
    sets, mel_spec = make_sets(dataset, 1, whole=True), MelSpec()
    data = MelCache(sets, mel_spec)
    batches = list(DataLoader(data, batch_sampler=LengthBatchSampler(data, 5, 16000)))
    assert {batch[0].shape[1:] for batch in batches} == {(8, 2000), (24000,)}
    assert mel_spec.calls == 23


# A fitted scaler reads the batches once more.
OVERRIDES = {
    "scaler.statistic": "dataset",
    "scaler.normtype": "standard",
    "scaler.savepath": None,
}


class HoldBiases(pl.Callback):
    # Before a batch normalisation a bias has no gradient but rounding, and Adam makes steps of it.
    def on_fit_start(self, trainer, module):
        for name, parameter in module.named_parameters():
            if ".conv" in name and name.endswith("bias"):
                parameter.requires_grad_(False)


def fit(config, folder):
    experiment = build(config, coherence=True, log_dir=folder, gpus="cpu")
    experiment.trainer.callbacks.insert(0, HoldBiases())
    experiment.fit()
    return torch.load(folder / "last.ckpt", weights_only=True), experiment.test()


def test_a_training_from_the_cache_ends_with_the_same_scores(config_file, tmp_path):
    # Each clip is transformed alone, which may round differently.
    common = {**OVERRIDES, "training.n_epochs": 1}
    audio = fit(load_config(config_file, common), tmp_path / "audio")
    config = load_config(config_file, {**common, "data.keep_mels": True})
    mels = fit(config, tmp_path / "mels")
    for name, value in audio[0]["state_dict"].items():
        torch.testing.assert_close(mels[0]["state_dict"][name], value, rtol=1e-3, atol=1e-4)
    assert mels[1] == pytest.approx(audio[1], abs=1e-3)
