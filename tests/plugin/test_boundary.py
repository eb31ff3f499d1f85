"""The weights against a loop over the label changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcase_coherence import boundary_weights


def by_loop(labels, weight, frames):
    weights = torch.ones_like(labels)
    for clip in range(labels.size(0)):
        for label in range(labels.size(2)):
            row = labels[clip, :, label]
            for change in range(1, labels.size(1)):
                if row[change] != row[change - 1]:
                    weights[clip, max(change - frames, 0) : change + frames, label] = weight
    return weights


def random_labels(frames, seed=0, share=0.2, clips=4):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(clips, frames, 3, generator=generator) < share).float()


@given(
    st.integers(0, 40),
    st.integers(1, 6),
    st.sampled_from([0.5, 1.0, 2.0, 3.7]),
    st.integers(0, 99),
    st.integers(0, 4),
)
def test_weights_are_those_of_the_loop(length, frames, weight, seed, clips):
    labels = random_labels(length, seed, clips=clips)
    weights = boundary_weights(labels, weight, frames=frames)
    torch.testing.assert_close(weights, by_loop(labels, weight, frames))
    turned = boundary_weights(labels.transpose(1, 2), weight, frames=frames, dim=-1)
    assert torch.equal(turned.transpose(1, 2), weights)


def test_a_class_does_not_weigh_another_nor_a_clip_the_next():
    labels = torch.zeros(2, 20, 2)
    labels[0, 10:, 0] = 1
    weights = boundary_weights(labels, 2.0)
    assert weights.sum() == labels.numel() + 6
    assert (weights[0, 7:13, 0] == 2).all()
    assert torch.equal(boundary_weights(labels.bool(), 2.0), weights)


def test_a_change_of_soft_labels_counts_and_no_gradient_reaches_them():
    labels = torch.full((1, 12, 1), 0.25, dtype=torch.float64)
    labels[0, 6:] = 0.5
    weights = boundary_weights(labels.requires_grad_(), 3.0, frames=1)
    assert weights.flatten().tolist() == [1.0] * 5 + [3.0, 3.0] + [1.0] * 5
    assert weights.dtype == torch.float64
    assert not weights.requires_grad


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": 0.0}, "weight is 0.0; it must be a finite number above 0"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"frames": 0}, "frames is 0; it must be a whole number of at least 1"),
        ({"frames": 1.5}, "frames is 1.5"),
        (
            {"labels": torch.zeros(4, 20)},
            r"shape \(4, 20\); they must be \(batch, frames, classes\)",
        ),
    ],
)
def test_what_makes_no_weights_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        boundary_weights(**{"labels": random_labels(20), **change})
