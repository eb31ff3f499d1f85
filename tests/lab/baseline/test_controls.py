"""Each control against its definition, class by class and frame by frame."""

import pytest
import torch
from torch.nn import functional

from dcase_coherence import boundary_weights
from lab.baseline.controls import CONTROLS, READINGS, Reading, event_weights, strong_loss


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(3, 4, 30), (torch.rand(3, 4, 30) > 0.7).float()


def test_the_mean_cross_entropy_and_weights_of_it(pair):
    p, y = pair
    assert torch.equal(strong_loss(p, y, None), torch.nn.BCELoss()(p, y))
    each = functional.binary_cross_entropy(p, y, reduction="none")
    torch.testing.assert_close(strong_loss(p, y, {"positive": 2}), (each * (1 + y)).mean())
    scaled = strong_loss(p, y, {"scale": 1.3})
    torch.testing.assert_close(scaled, 1.3 * each.mean())


def test_by_class_the_mean_weight_is_that_of_the_boundaries(pair):
    p, y = pair
    half = torch.full_like(p, 0.5)  # the cross-entropy of each frame is then log 2
    mean_weight = boundary_weights(y, 2.0, dim=-1).mean()
    loss = strong_loss(half, y, {"positive_by_class": 2})
    torch.testing.assert_close(loss, mean_weight * torch.log(torch.tensor(2.0)))


def test_events_count_by_their_length():
    y = torch.zeros(2, 1, 30)
    y[0, 0, 2:5], y[0, 0, 10:28] = 1, 1
    y[1, 0, 0:6] = 1
    weights = event_weights(y, 3.0)
    assert weights[0, 0, 2:5].tolist() == [3.0] * 3  # 12 / 3 is above the largest
    assert weights[0, 0, 10:28].tolist() == [1.0] * 18
    assert weights[1, 0, :6].tolist() == [2.0] * 6
    assert (weights[y == 0] == 1).all()


def test_what_is_added(pair):
    p, y = pair
    entropy = functional.binary_cross_entropy(p, y)
    squares = strong_loss(p, y, {"squared_error": 5}) - entropy
    torch.testing.assert_close(squares, 5 * (p - y).pow(2).mean())
    assert strong_loss(y, y, {"tversky": 1}) == pytest.approx(0, abs=1e-6)
    none = strong_loss(p, torch.zeros_like(y), {"tversky": 1})
    torch.testing.assert_close(none, functional.binary_cross_entropy(p, torch.zeros_like(y)))
    focal = strong_loss(p, y, {"focal": 0.0625})
    assert 0 < focal < entropy


@pytest.mark.parametrize("name", CONTROLS)
def test_each_has_a_gradient(pair, name):
    p, y = pair
    p.requires_grad_()
    strong_loss(p, y, {name: 2}).backward()
    assert torch.isfinite(p.grad).all()
    assert p.grad.abs().sum() > 0


@pytest.mark.parametrize("name", READINGS)
def test_readings_of_the_paper_s_loss(name):
    torch.manual_seed(0)
    z, y = torch.randn(2, 9, 4, dtype=torch.double), (torch.rand(2, 9, 3) > 0.7).double()
    z.requires_grad_()
    expected = 0.0
    for clip, labels in zip(z.tanh() if name == "tanh" else z, y):
        for before, after in zip(range(8), range(1, 9)):
            distance = (clip[after] - clip[before]).square().sum()
            distance = distance if name == "tanh" else distance.sqrt()
            changed = bool((labels[after] != labels[before]).any())
            expected += (-0.1 if changed else 0.03) * distance / y.numel()
    loss = Reading(name, 2)(z, y)
    torch.testing.assert_close(loss, 2 * expected)
    torch.autograd.gradcheck(lambda z: Reading(name, 2)(z, y), z)
    p, labels = torch.rand(3, 4, 30), (torch.rand(3, 4, 30) > 0.7).float()
    assert strong_loss(p, labels, {name: 2}) == functional.binary_cross_entropy(p, labels)
