"""The network, against the official baseline's."""

import numpy as np
import pytest
import torch

from lab.baseline.crnn import CRNN, Dropout, dropout_mask


@pytest.fixture
def spectrogram():
    return torch.tensor(np.random.RandomState(6).rand(3, 128, 31), dtype=torch.float32)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_state_dict_has_the_official_keys_and_shapes(golden_inputs, golden_json):
    state = CRNN(**golden_inputs.OFFICIAL_NET).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == golden_json["state_dict"]
    assert list(state) == list(golden_json["state_dict"])


@pytest.mark.parametrize("attention", [True, False])
def test_outputs_are_the_official_ones(golden, golden_inputs, spectrogram, attention):
    name = "attention" if attention else "mean"
    model = golden_inputs.fill(CRNN(**{**golden_inputs.NET, "attention": attention}))
    with torch.no_grad():
        strong, weak = model.eval()(spectrogram)
    close(strong, golden[f"eval_strong_{name}"])
    close(weak, golden[f"eval_weak_{name}"])
    strong, weak = model.train()(spectrogram)
    close(strong.detach(), golden[f"train_strong_{name}"])
    close(weak.detach(), golden[f"train_weak_{name}"])


def test_gradients_and_batch_statistics_are_the_official_ones(golden, golden_inputs, spectrogram):
    model = golden_inputs.fill(CRNN(**golden_inputs.NET)).train()
    strong, weak = model(spectrogram)
    (strong.square().mean() + weak.square().mean()).backward()
    for name, parameter in model.named_parameters():
        # A bias before batch normalisation has no gradient but rounding.
        if not (".conv" in name and name.endswith("bias")):
            close(parameter.grad.norm(), golden[f"gradient/{name}"])
    for key in ("running_mean", "running_var"):
        for block in (0, 6):
            buffer = model.state_dict()[f"cnn.cnn.batchnorm{block}.{key}"]
            close(buffer, golden[f"train_{key}_{block}"])


def test_the_papers_five_layers():
    model = CRNN(
        nb_filters=[16, 32, 64, 128, 128],
        pooling=[[2, 2], [2, 2], [2, 2], [1, 4], [1, 4]],
        kernel_size=[3] * 5,
        padding=[1] * 5,
        stride=[1] * 5,
        attention=False,
    ).eval()
    strong, weak = model(torch.rand(1, 128, 200))
    assert strong.shape == (1, 10, 25)
    torch.testing.assert_close(weak, strong.mean(-1))
    # What is tapped is batch, channels, frames, bins.
    assert model.cnn(torch.rand(1, 1, 200, 128)).shape == (1, 128, 25, 1)


def test_what_is_frozen_stays_as_it_is(golden_inputs, spectrogram):
    model = CRNN(**golden_inputs.NET, freeze_bn=True, train_cnn=False).train()
    before = model.cnn.cnn.batchnorm0.running_mean.clone()
    model(spectrogram)[0].sum().backward()
    assert torch.equal(model.cnn.cnn.batchnorm0.running_mean, before)
    assert all(parameter.grad is None for parameter in model.cnn.parameters())
    assert model.dense.weight.grad is not None


@pytest.mark.parametrize("activation", ["relu", "leakyrelu"])
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_other_blocks(golden_inputs, spectrogram, activation, normalization):
    net = {**golden_inputs.NET, "activation": activation, "normalization": normalization}
    names = list(CRNN(**net).state_dict())
    assert f"cnn.cnn.{normalization}norm0.weight" in names
    assert CRNN(**net)(spectrogram)[1].shape == (3, 10)


@pytest.mark.parametrize("p", [0.2, 0.25, 0.5, 0.75])
def test_dropout_drops_each_place_alike_and_keeps_the_mean(p):
    torch.manual_seed(0)
    count = 80_000
    masks = dropout_mask(count, p)
    assert masks.shape == (count,)
    assert masks.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    sigma = (p * (1 - p) / count) ** 0.5
    assert (masks == 0).float().mean() == pytest.approx(p, abs=5 * sigma)
    # The elements that share a random word: each as likely as the others, and independent.
    dropped = (masks.view(-1, 16) == 0).float()
    assert (dropped.mean(0) - p).abs().max() < 5 * sigma * 4
    assert (torch.corrcoef(dropped.T) - torch.eye(16)).abs().max() < 5 / len(dropped) ** 0.5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout_applies_one_mask_forward_and_backward(memory_format):
    x = torch.rand(2, 3, 5, 7).add(1).contiguous(memory_format=memory_format).requires_grad_()
    drop = Dropout(0.5).train()
    y = drop(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, x * x.grad)
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(drop(x), y)
    assert torch.equal(drop.eval()(x), x)
    assert Dropout(1.0).train()(x).sum() == 0


def test_channels_stay_innermost_in_memory(golden_inputs, spectrogram):
    x = spectrogram.transpose(1, 2).unsqueeze(1)
    for module in CRNN(**{**golden_inputs.NET, "dropout": 0.5}).cnn.cnn:
        x = module(x)
        assert x.is_contiguous(memory_format=torch.channels_last), module
