"""Features and scalers, against the official baseline's."""

import pytest
import torch

from lab.baseline.features import MelSpectrogram, Scaler, take_log


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_mel_spectrogram_is_the_official_one(golden, golden_inputs):
    mels = MelSpectrogram(**golden_inputs.FEATS)(golden_inputs.audio(2, 0.5, seed=0))
    close(mels, golden["mels"])
    close(take_log(golden["mels"]), golden["log"])
    # The rounding of a transform shows in the decibels of near-silent bands; the network sees
    # them divided by their range.
    close(take_log(mels), golden["log"], 2e-4)
    close(Scaler("instance", "minmax")(take_log(mels))[:1, :, ::4], golden["instance_minmax"])


def test_log_is_floored_and_clamped():
    log = take_log(torch.tensor([0.0, 1e-9, 1.0, 10.0, 1e9]))
    close(log, torch.tensor([-50.0, -50.0, 0.0, 20.0, 80.0]))


@pytest.mark.parametrize("normtype", ["minmax", "standard", "mean"])
def test_instance_scaler_is_the_official_one(golden, normtype):
    scaled = Scaler("instance", normtype, [1, 2])(golden["log"])
    close(scaled[:1, :, ::4], golden[f"instance_{normtype}"])


@pytest.mark.parametrize(("normtype", "dims"), [("standard", [1, 2]), ("mean", [2])])
def test_dataset_scaler_is_the_official_one(golden, normtype, dims):
    scaler = Scaler("dataset", normtype, dims)
    log = golden["log"]
    scaler.fit([log[:1], log[1:] * 0.5])
    close(scaler.mean, golden[f"dataset_{normtype}_mean"])
    close(scaler.mean_squared, golden[f"dataset_{normtype}_squares"])
    close(scaler(log)[:1, :, ::4], golden[f"dataset_{normtype}"])


def test_fitted_statistics_travel_in_the_state_dict(golden):
    fitted = Scaler("dataset", "standard", [1, 2])
    fitted.fit([golden["log"]])
    fresh = Scaler("dataset", "standard", [1, 2])
    assert fresh.needs_fit
    fresh.load_state_dict(fitted.state_dict())
    assert not fresh.needs_fit
    assert torch.equal(fresh(golden["log"]), fitted(golden["log"]))
