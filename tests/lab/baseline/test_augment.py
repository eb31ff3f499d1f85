"""Mixup against the official baseline's; shift, gain and mask."""

import pytest
import torch

from lab.baseline.augment import frequency_mask, gain, mixup, time_shift


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_same_seeds_give_the_official_mix(golden, golden_inputs, kind):
    golden_inputs.seed_all(11)
    data, target = mixup(golden["mixup_data"], golden["mixup_target"], kind)
    torch.testing.assert_close(data, golden[f"mixup_{kind}_data"], rtol=0, atol=1e-6)
    torch.testing.assert_close(target, golden[f"mixup_{kind}_target"], rtol=0, atol=1e-6)


def test_inputs_are_left_alone(golden, golden_inputs):
    data, target = golden["mixup_data"].clone(), golden["mixup_target"].clone()
    golden_inputs.seed_all(11)
    mixed, _ = mixup(data, target, "soft")
    assert torch.equal(data, golden["mixup_data"])
    assert torch.equal(target, golden["mixup_target"])
    assert not torch.equal(mixed, data)


@pytest.fixture
def clips():
    """Features whose value is their time in label frames, and labels that say the same."""
    torch.manual_seed(0)
    times = torch.arange(5.0)
    labels = times.expand(4, 3, 5).clone()
    return torch.cat([times.repeat_interleave(2), torch.tensor([9.0])]).repeat(4, 2, 1), labels


def test_labels_move_with_the_features(clips):
    mels, labels = clips
    turned, moved = time_shift(mels, labels, 4)
    assert len({int(row[0, 0]) for row in moved}) > 1
    assert torch.equal(turned[:, 0, :10:2], moved[:, 0])
    assert torch.equal(turned[:, 1, 1:10:2], moved[:, 1])
    assert torch.equal(turned[..., 10], mels[..., 10])
    # Of rows without strong labels the labels stay.
    turned, moved = time_shift(mels, labels, 4, slice(0, 2))
    assert torch.equal(moved[2:], labels[2:])
    assert not torch.equal(moved[:2], labels[:2])
    assert not torch.equal(turned[2:], mels[2:])
    assert set((moved[:, 0].diff() % 5).flatten().tolist()) == {1.0}


def test_gain_is_in_decibels_and_one_a_clip():
    torch.manual_seed(0)
    louder = gain(torch.ones(2000, 2, 3), 6.0)
    assert torch.equal(louder, louder[:, :1, :1].expand_as(louder))
    decibels = 20 * louder[:, 0, 0].log10()
    assert decibels.mean() == pytest.approx(0, abs=0.5)
    assert decibels.std() == pytest.approx(6, rel=0.05)


def test_neighbouring_bands_take_the_mean():
    torch.manual_seed(0)
    features = torch.rand(300, 6, 4)
    masked = frequency_mask(features, 3)
    changed = (masked != features).any(-1)
    assert set(changed.sum(1).tolist()) == {0, 1, 2, 3}
    assert (changed.int().diff(dim=1).abs().sum(1) <= 2).all()
    assert changed.any(0).all()
    mean = features.mean((1, 2))[:, None, None].expand_as(features)
    torch.testing.assert_close(masked[changed], mean[changed])


@pytest.mark.parametrize("kind", ["time_shift", "gain", "frequency_mask"])
def test_the_same_seed_gives_the_same_clips(clips, kind):
    mels, labels = clips
    change = {
        "time_shift": lambda: time_shift(mels, labels, 4)[0],
        "gain": lambda: gain(mels, 3.0),
        "frequency_mask": lambda: frequency_mask(mels, 1),
    }[kind]
    before = mels.clone(), labels.clone()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(torch.stack([change() for _ in range(5)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(mels, before[0])
    assert torch.equal(labels, before[1])
