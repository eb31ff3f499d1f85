"""Each function against a loop over clips, frames and classes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcase_coherence import boundary_weights, label_transitions, transition_loss


def oracle(p, y, lags, valid=None):
    """The transition loss, pair by pair and class by class."""
    batch, frames, classes = p.shape
    total = 0.0
    for lag in lags:
        for i in range(batch):
            for t in range(lag, frames):
                if valid is not None and not all(valid[i, t - lag : t + 1].tolist()):
                    continue
                for c in range(classes):
                    step = p[i, t, c] - p[i, t - lag, c]
                    total = total + (step - (y[i, t, c] - y[i, t - lag, c])) ** 2
    counted = batch * frames if valid is None else int(valid.sum())
    return total / len(lags) / max(counted * classes, 1)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 7),
    st.integers(1, 3),
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_transitions_equal_the_loop(batch, frames, classes, lags, soft, padded, seed):
    generator = torch.Generator().manual_seed(seed)
    p, y = (
        torch.rand(batch, frames, classes, generator=generator, dtype=torch.float64) for _ in "py"
    )
    y = y if soft else y.round()
    valid = torch.rand(batch, frames, generator=generator) > 0.3 if padded else None
    ours = transition_loss(p, y, lags=lags, valid=valid, dim=1)
    assert float(ours) == pytest.approx(float(oracle(p, y, lags, valid)), rel=1e-7, abs=1e-7)
    if valid is None:
        turned = transition_loss(p.transpose(1, 2), y.transpose(1, 2), lags=lags, dim=-1)
        torch.testing.assert_close(turned, ours)


@pytest.mark.parametrize("lags", [(1,), (1, 2, 4), (2, 99)])
def test_gradient_of_transitions(lags):
    torch.manual_seed(1)
    p = torch.rand(2, 6, 2, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 6, 2, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True] * 6, [True, True, True, True, False, False]])
    assert torch.autograd.gradcheck(
        lambda posteriors: transition_loss(posteriors, y.detach(), lags=lags, valid=valid), (p,)
    )
    transition_loss(p, y).backward()
    assert y.grad is None


def test_the_optimum_is_the_labels_up_to_a_constant():
    y = (torch.arange(12) % 5 > 2).float().view(1, 12, 1)
    assert transition_loss(y, y) == 0
    assert transition_loss(0.25 + y, y) == pytest.approx(0, abs=1e-12)
    assert transition_loss(0.9 * y, y) > 0
    assert transition_loss(torch.zeros_like(y), y) < transition_loss(1 - y, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_of_posteriors(dtype):
    torch.manual_seed(0)
    p, y = torch.rand(2, 9, 3).to(dtype), torch.rand(2, 9, 3).round()
    ours = transition_loss(p, y)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = oracle(p.double(), y.double(), (1, 2, 4))
    assert float(ours) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    assert transition_loss(p, y.to(torch.int64)) == transition_loss(p, y.bool()) == ours


def test_nan_in_padding_reaches_neither_loss_nor_gradient():
    torch.manual_seed(2)
    p, y = torch.rand(1, 4, 3), torch.rand(1, 4, 3).round()
    padding = torch.full((1, 3, 3), math.nan)
    padded_p = torch.cat([p, padding], dim=1).requires_grad_()
    padded_y = torch.cat([y, padding], dim=1)
    loss = transition_loss(padded_p, padded_y, valid=torch.arange(7).view(1, 7) < 4)
    loss.backward()
    torch.testing.assert_close(loss, transition_loss(p, y))
    assert torch.isfinite(padded_p.grad).all()


@pytest.mark.parametrize(
    ("p", "y", "options", "message"),
    [
        ((2, 9), (2, 9, 1), {}, r"posteriors have shape \(2, 9\)"),
        ((2, 9, 1), (2, 9), {}, r"labels have shape \(2, 9\)"),
        ((2, 9, 1), (2, 9, 2), {}, r"\(2, 9, 1\) but labels have \(2, 9, 2\)"),
        ((2, 9, 1), (2, 8, 1), {}, r"\(2, 9, 1\) but labels have \(2, 8, 1\)"),
        ((2, 9, 1), (2, 9, 1), {"lags": ()}, "lags is"),
        ((2, 9, 1), (2, 9, 1), {"valid": torch.ones(2, 9)}, "valid is"),
        ((2, 9, 1), (2, 9, 1), {"dim": 3}, "dim is 3"),
        ((2, 10, 156), (2, 10, 156), {}, "10 frames of 156 classes.*dim=-1"),
    ],
)
def test_posteriors_and_labels_that_do_not_fit(p, y, options, message):
    with pytest.raises(ValueError, match=message):
        transition_loss(torch.zeros(p), torch.zeros(y), **options)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_integer_labels(dtype):
    hard = torch.tensor([[[1, 0], [0, 0], [0, 1], [0, 1]]])
    assert label_transitions(hard.to(dtype)).tolist() == [[True, True, False]]


def test_any_class_makes_a_boundary_and_tolerance_forgives_small_changes():
    soft = torch.tensor([[[0.9, 0.0], [0.9, 0.1], [0.8, 0.1], [0.2, 0.1]]])
    assert label_transitions(soft).tolist() == [[True, True, True]]
    assert label_transitions(soft, tolerance=0.3).tolist() == [[False, False, True]]
    assert label_transitions(soft, lag=2, tolerance=0.3).tolist() == [[False, True]]
    assert label_transitions(soft, lag=9).shape == (1, 0)


def by_loop(labels, weight, frames):
    weights = torch.ones_like(labels)
    for clip in range(labels.size(0)):
        for label in range(labels.size(2)):
            row = labels[clip, :, label]
            for change in range(1, labels.size(1)):
                if row[change] != row[change - 1]:
                    weights[clip, max(change - frames, 0) : change + frames, label] = weight
    return weights


@given(
    st.integers(0, 40),
    st.integers(1, 6),
    st.sampled_from([0.5, 1.0, 2.0, 3.7]),
    st.integers(0, 99),
    st.integers(0, 4),
)
def test_weights_are_those_of_the_loop(length, frames, weight, seed, clips):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(clips, length, 3, generator=generator) < 0.2).float()
    weights = boundary_weights(labels, weight, frames=frames, dim=1)
    torch.testing.assert_close(weights, by_loop(labels, weight, frames))
    turned = boundary_weights(labels.transpose(1, 2), weight, frames=frames, dim=-1)
    assert torch.equal(turned.transpose(1, 2), weights)
    assert torch.equal(boundary_weights(labels.bool(), weight, frames=frames, dim=1), weights)


def test_a_change_of_soft_labels_counts_and_no_gradient_reaches_them():
    labels = torch.full((1, 12, 1), 0.25, dtype=torch.float64)
    labels[0, 6:] = 0.5
    weights = boundary_weights(labels.requires_grad_(), 3.0, frames=1)
    assert weights.flatten().tolist() == [1.0] * 5 + [3.0, 3.0] + [1.0] * 5
    assert weights.dtype == torch.float64
    assert not weights.requires_grad


def test_no_weight_at_a_change_into_padding():
    labels = torch.ones(1, 8, 1)
    labels[0, 5:] = 0
    valid = torch.arange(8).view(1, 8) < 5
    assert torch.equal(boundary_weights(labels, valid=valid), torch.ones(1, 8, 1))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 20, 3), {"weight": 0.0}, "weight is 0.0"),
        ((4, 20, 3), {"weight": math.nan}, "weight is nan"),
        ((4, 20, 3), {"frames": 0}, "frames is 0"),
        ((4, 20, 3), {"frames": 1.5}, "frames is 1.5"),
        ((4, 20), {}, r"shape \(4, 20\)"),
        ((4, 10, 156), {}, "10 frames of 156 classes; give dim=-1"),
    ],
)
def test_what_makes_no_weights_is_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        boundary_weights(torch.zeros(shape), **options)
