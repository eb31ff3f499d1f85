"""The cross-entropy of strong labels against its formula."""

import torch

from dcase_coherence import boundary_weights
from lab.baseline.losses import strong_loss


def test_the_loss_is_the_weighted_mean_and_by_default_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    posteriors = torch.rand(2, 3, 20, generator=generator)
    labels = (torch.rand(2, 3, 20, generator=generator) > 0.7).float()
    each = -(labels * posteriors.log() + (1 - labels) * (1 - posteriors).log())
    assert torch.equal(strong_loss(posteriors, labels), torch.nn.BCELoss()(posteriors, labels))
    weights = boundary_weights(labels.transpose(1, 2), 2.0).transpose(1, 2)
    assert 0 < (weights == 2).float().mean() < 1
    torch.testing.assert_close(strong_loss(posteriors, labels, 2.0), (each * weights).mean())
