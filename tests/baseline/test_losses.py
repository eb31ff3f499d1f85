"""The weighted cross-entropy against a loop over frames."""

import pytest
import torch

from dcase_coherence.baseline.losses import boundary_weights, strong_loss


def by_loop(labels, weight):
    weights = torch.ones_like(labels)
    frames = labels.size(-1)
    for clip in range(labels.size(0)):
        for label in range(labels.size(1)):
            row = labels[clip, label]
            for change in range(1, frames):
                if row[change] != row[change - 1]:
                    weights[clip, label, max(change - 3, 0) : change + 3] = weight
    return weights


@pytest.mark.parametrize("frames", [1, 2, 5, 40])
def test_weights_are_those_of_the_loop(frames):
    labels = (
        torch.rand(4, 3, frames, generator=torch.Generator().manual_seed(frames)) > 0.8
    ).float()
    assert torch.equal(boundary_weights(labels, 2.0), by_loop(labels, 2.0))


def test_the_loss_is_the_weighted_mean_and_by_default_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    posteriors = torch.rand(2, 3, 20, generator=generator)
    labels = (torch.rand(2, 3, 20, generator=generator) > 0.7).float()
    each = -(labels * posteriors.log() + (1 - labels) * (1 - posteriors).log())
    assert torch.equal(strong_loss(posteriors, labels), torch.nn.BCELoss()(posteriors, labels))
    expected = (each * by_loop(labels, 2.0)).mean()
    torch.testing.assert_close(strong_loss(posteriors, labels, 2.0), expected)
