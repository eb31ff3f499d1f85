import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy as bce

from dcase_coherence import (
    CoherenceLoss,
    HeadLoss,
    TransitionLoss,
    boundary_weights,
    coherence_loss,
    transition_loss,
)


def oracle(
    z,
    y,
    alpha1,
    alpha2,
    lags=(1,),
    margin=None,
    normalize=False,
    center=False,
    tolerance=0.0,
    valid=None,
):
    """Eq. (3), frame by frame and dimension by dimension; returns the sum and each term."""
    terms = torch.zeros(z.shape[0], max(z.shape[1] - 1, 0), dtype=torch.float64)
    batch, frames, dims = z.shape
    counted = [
        (i, t) for i in range(batch) for t in range(frames) if valid is None or bool(valid[i, t])
    ]
    rows = {(i, t): z[i, t].tolist() for i, t in counted}
    if center:
        mean = [sum(row[d] for row in rows.values()) / max(len(rows), 1) for d in range(dims)]
        rows = {at: [v - m for v, m in zip(row, mean)] for at, row in rows.items()}
    if normalize:
        lengths = {at: max(math.sqrt(sum(v * v for v in row)), 1e-6) for at, row in rows.items()}
        rows = {at: [v / lengths[at] for v in row] for at, row in rows.items()}
    for lag in lags:
        for i in range(batch):
            for t in range(lag, frames):
                if any((i, between) not in rows for between in range(t - lag, t + 1)):
                    continue
                distance = sum((a - b) ** 2 for a, b in zip(rows[i, t], rows[i, t - lag]))
                changed = any(
                    abs(a - b) > tolerance for a, b in zip(y[i, t].tolist(), y[i, t - lag].tolist())
                )
                if changed:
                    distance = distance if margin is None else min(distance, margin)
                    terms[i, t - 1] -= alpha1 * distance / len(lags)
                else:
                    terms[i, t - 1] += alpha2 * distance / len(lags)
    return terms.sum(), terms


@st.composite
def problems(draw):
    batch, frames = draw(st.integers(0, 3)), draw(st.integers(0, 6))
    dims, classes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    z = torch.randn(batch, frames, dims, generator=generator, dtype=torch.float64)
    y = torch.rand(batch, frames, classes, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        y = y.round()
    valid = None
    if draw(st.booleans()):
        valid = torch.rand(batch, frames, generator=generator) > 0.3
    return z, y, valid


@settings(max_examples=200, deadline=None)
@given(
    problems(),
    st.floats(0, 2),
    st.floats(0, 2),
    st.sampled_from([None, 0.5, 4.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.2]),
    st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True),
)
def test_equals_the_double_loop(
    problem, alpha1, alpha2, margin, normalize, center, tolerance, lags
):
    z, y, valid = problem
    options = {
        **{"lags": lags, "margin": margin, "normalize": normalize, "center": center},
        **{"tolerance": tolerance, "valid": valid},
    }
    total, terms = oracle(z, y, alpha1, alpha2, **options)
    ours = {
        reduction: coherence_loss(z, y, alpha1, alpha2, reduction=reduction, **options)
        for reduction in ("sum", "mean", "none")
    }
    torch.testing.assert_close(ours["none"], terms)
    torch.testing.assert_close(ours["sum"], total)
    frames = z.shape[0] * z.shape[1] if valid is None else int(valid.sum())
    torch.testing.assert_close(ours["mean"], total / max(frames * y.shape[2], 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    torch.manual_seed(0)
    z, y = 40 * torch.randn(2, 9, 80).to(dtype), torch.rand(2, 9, 3).round()
    ours = coherence_loss(z, y, reduction="sum")
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = oracle(z.double(), y, 0.1, 0.03)[0]  # more than float16 can hold
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no CPU autocast")
def test_float32_under_autocast():
    layer = torch.nn.Linear(4, 4)
    x, y = torch.randn(2, 6, 4), torch.rand(2, 6, 4).round()
    term = TransitionLoss(boundary_weight=2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(x)
        p = torch.sigmoid(z)
        losses = coherence_loss(z, y), term(p, y)
    assert z.dtype == torch.bfloat16
    torch.testing.assert_close(losses, (coherence_loss(z.float(), y), term(p.float(), y)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"margin": 2.0},
        {"normalize": True, "center": True, "lags": (3, 1)},
        {"margin": 2.0, "center": True, "lags": [2, 9], "tolerance": 0.5},
    ],
)
def test_gradient(options):
    torch.manual_seed(1)
    z = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 5, 2, dtype=torch.float64).round().requires_grad_()
    valid = torch.tensor([[True] * 5, [True, True, True, False, False]])
    assert torch.autograd.gradcheck(
        lambda features: coherence_loss(features, y, 0.4, 0.2, valid=valid, **options), (z,)
    )
    coherence_loss(z, y).backward()
    assert y.grad is None


def test_mean_is_the_papers_sum_beside_a_mean_cross_entropy():
    # (sum BCE + sum L_coh) / (N T C) must be mean BCE + our mean: so alphas keep their meaning.
    z, y = torch.randn(3, 8, 4), torch.rand(3, 8, 10).round()
    posteriors = torch.rand(3, 8, 10)
    paper = bce(posteriors, y, reduction="sum") + coherence_loss(z, y, reduction="sum")
    torch.testing.assert_close(bce(posteriors, y) + coherence_loss(z, y), paper / (3 * 8 * 10))


@pytest.mark.parametrize("loss", [CoherenceLoss.exact(), TransitionLoss(dim=1)])
@pytest.mark.parametrize("shape", [(0, 5), (2, 1), (2, 0)])
def test_no_pair_is_zero_with_a_gradient(shape, loss):
    z = torch.rand(*shape, 3, requires_grad=True)
    value = loss(z, torch.zeros(*shape, 3))
    value.backward()
    assert value == 0
    assert not z.grad.any()


def test_nan_in_padding_reaches_neither_loss_nor_gradient():
    torch.manual_seed(2)
    z, y = torch.randn(1, 4, 3), torch.tensor([[[0.0], [1.0], [1.0], [1.0]]])
    padded_z = torch.cat([z, torch.full((1, 3, 3), math.nan)], dim=1).requires_grad_()
    padded_y = torch.cat([y, torch.full((1, 3, 1), math.nan)], dim=1)
    loss = coherence_loss(padded_z, padded_y, valid=torch.arange(7).view(1, 7) < 4)
    loss.backward()
    torch.testing.assert_close(loss, coherence_loss(z, y))
    assert torch.isfinite(padded_z.grad).all()
    assert torch.all(padded_z.grad[:, 4:] == 0)


def test_one_lag_of_one_is_the_exact_loss_to_the_bit():
    torch.manual_seed(4)
    z, y = torch.randn(3, 40, 16), torch.rand(3, 40, 4).round()
    changed = (y[:, 1:] != y[:, :-1]).any(-1)
    distances = (z[:, 1:] - z[:, :-1]).pow(2).sum(-1)
    exact = torch.where(changed, -0.1 * distances, 0.03 * distances)
    assert torch.equal(coherence_loss(z, y, reduction="none"), exact)
    assert torch.equal(coherence_loss(z, y), exact.sum() / y.numel())


LAGS = (1, 2, 4, 8)


def shapes(step, pulse):
    """An event of 12 frames that z marks by a step, and by a pulse after each of its edges."""
    event, edges = torch.zeros(2, 1, 36, 1)
    event[:, 10:22] = 1.0
    edges[:, [10, 22]] = 1.0
    return torch.cat([step * event, pulse * edges], dim=-1), event


@pytest.mark.parametrize(
    ("settings", "pulse_grows"),
    [
        ({"alpha1": 0.1, "alpha2": 0.03}, 1),
        ({"alpha1": 0.1, "alpha2": 0.03, "lags": LAGS}, 1),
        ({"alpha1": 0.1, "alpha2": 0.1, "lags": LAGS}, 0),
        ({"alpha1": 0.1, "alpha2": 0.11, "lags": LAGS}, -1),
    ],
)
def test_which_shape_a_gradient_step_makes_grow(settings, pulse_grows):
    step, pulse = (torch.tensor(0.5, requires_grad=True) for _ in "12")
    coherence_loss(*shapes(step, pulse), reduction="sum", **settings).backward()
    assert -step.grad > 0.1
    if pulse_grows:
        assert torch.sign(-pulse.grad) == pulse_grows
    else:
        assert pulse.grad == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("z", "y", "options", "message"),
    [
        ((2, 3), (2, 3, 1), {}, r"features have shape \(2, 3\)"),
        ((2, 3, 1), (2, 3), {}, r"labels have shape \(2, 3\)"),
        ((2, 3, 1), (3, 3, 1), {}, r"\(2, 3\) but labels have \(3, 3\)"),
        ((2, 30, 8), (2, 10, 30), {}, r"give labels.transpose\(1, 2\)"),
        ((2, 8, 30), (2, 30, 10), {}, r"give features.transpose\(1, 2\)"),
        ((2, 30, 8), (2, 28, 3), {}, "the pooling over time"),
        ((1, 2, 1), (1, 2, 1), {"alpha1": -0.1}, "alpha1 is -0.1"),
        ((1, 2, 1), (1, 2, 1), {"alpha2": math.nan}, "alpha2 is nan"),
        ((1, 2, 1), (1, 2, 1), {"tolerance": -1}, "tolerance is -1"),
        ((1, 2, 1), (1, 2, 1), {"margin": 0}, "margin is 0"),
        ((1, 2, 1), (1, 2, 1), {"reduction": "avg"}, "'avg'"),
        *(
            ((1, 2, 1), (1, 2, 1), {"lags": lags}, "lags is .* whole")
            for lags in (2, (), (0,), (1.0,), (True,), "12", (2, 2))
        ),
        ((1, 2, 1), (1, 2, 1), {"valid": torch.ones(1, 3) > 0}, r"valid is torch.bool of .*1, 3"),
        ((1, 2, 1), (1, 2, 1), {"valid": torch.ones(1, 2)}, "valid is torch.float32"),
    ],
)
def test_bad_input_is_named(z, y, options, message):
    with pytest.raises(ValueError, match=message):
        coherence_loss(torch.zeros(z), torch.zeros(y), **options)


def test_values_that_cannot_be():
    with pytest.raises(ValueError, match=r"features are torch\.int64"):
        coherence_loss(torch.zeros(2, 3, 1).long(), torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match="labels hold NaN"):
        coherence_loss(torch.zeros(1, 2, 1), torch.full((1, 2, 1), math.nan))


def test_each_set_of_weights_has_to_be_named():
    with pytest.raises(TypeError, match="alpha1"):
        CoherenceLoss()
    assert "alpha1=0.1, alpha2=0.03, lags=(1,)" in repr(CoherenceLoss.exact())
    steps = CoherenceLoss.steps(alpha2=0.1)
    assert (steps.alpha1, steps.alpha2, steps.lags) == (0.3, 0.1, (1, 2, 4, 8))
    assert (steps.normalize, steps.center) == (True, True)


@pytest.mark.parametrize("weight", [0.0, 3.0])
@pytest.mark.parametrize("valid", [None, torch.arange(9) < torch.tensor([[9], [5], [3]])])
def test_beside_a_cross_entropy_it_is_the_weighted_one_with_transitions(valid, weight):
    torch.manual_seed(0)
    p, y = torch.rand(3, 9, 2).double(), torch.rand(3, 9, 2).double().round()
    counted = torch.ones(3, 9, dtype=torch.bool) if valid is None else valid
    p[~counted], y[~counted] = math.nan, math.nan
    term = TransitionLoss(weight, (1, 4), boundary_weight=2.5, boundary_frames=2)
    weights = boundary_weights(y, 2.5, frames=2, valid=valid)
    expected = bce(p[counted], y[counted], weight=weights[counted])
    expected = expected + weight * transition_loss(p, y, lags=(1, 4), valid=valid)
    loss = term(p.requires_grad_(), y, valid)
    torch.testing.assert_close(bce(p[counted], y[counted]) + loss, expected)
    loss.backward()
    assert torch.isfinite(p.grad).all()
    turned = TransitionLoss(weight, (1, 4), boundary_weight=2.5, boundary_frames=2, dim=-1)
    if valid is None:
        torch.testing.assert_close(turned(p.transpose(1, 2), y.transpose(1, 2)), loss)


def test_weight_zero_makes_no_transitions_and_still_checks_the_shapes(monkeypatch):
    monkeypatch.delattr("dcase_coherence.loss.transition_loss")
    p, y = torch.rand(2, 9, 2, requires_grad=True), torch.rand(2, 9, 2).round()
    loss = TransitionLoss(0.0)(p, y)
    loss.backward()
    assert loss == 0
    assert not p.grad.any()
    with pytest.raises(ValueError, match=r"\(2, 9, 2\) but labels have \(2, 8, 2\)"):
        TransitionLoss(0.0, boundary_weight=2.0)(p, y[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_posteriors_in_half_precision_that_have_reached_0_and_1(dtype):
    y = torch.tensor([[[0.0], [1.0], [1.0], [0.0]]])
    p = (1 - y).to(dtype).requires_grad_()
    loss = TransitionLoss(1.0, boundary_weight=2.0)(p, y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(p.grad).all()


def test_the_monitor_of_posteriors():
    y = torch.zeros(1, 12, 2)
    y[0, 4:8, 0] = 1
    p = torch.full((1, 12, 2), 0.1)
    p[0, 4:8, 0] = 0.7
    term = TransitionLoss(5.0, (1, 2), boundary_weight=2.0)
    loss, sums = term.monitored(p, y, None)
    numbers = term.monitor([float(value) for value in sums])
    assert numbers["step_onset"] == pytest.approx(0.6)
    assert numbers["step_offset"] == pytest.approx(-0.6)
    assert numbers["transitions"] == pytest.approx(float(5 * transition_loss(p, y, lags=(1, 2))))
    together = numbers["transitions"] + numbers["boundaries"]
    assert together == pytest.approx(float(loss))
    assert numbers["share"] == pytest.approx(together / float(bce(p, y)))
    quiet = term.monitor([float(v) for v in term.monitored(p, torch.zeros_like(y), None)[1]])
    assert math.isnan(quiet["step_onset"])
    assert math.isnan(quiet["step_offset"])


def test_a_head_is_the_cross_entropy_and_the_loss_of_its_posteriors():
    torch.manual_seed(0)
    loss = HeadLoss(4, 2, TransitionLoss(2.0, boundary_weight=2.0))
    z, y = torch.randn(3, 9, 4, requires_grad=True), torch.rand(3, 9, 2).round()
    p = torch.sigmoid(loss.head(z))
    torch.testing.assert_close(loss(z, y), bce(p, y) + loss.loss(p, y))
    loss(z, y).backward()
    assert z.grad.abs().sum() > 0
    assert loss.head.weight.grad.abs().sum() > 0
    assert {name[:5] for name in loss.monitor(loss.monitored(z, y, None)[1])} == {"head_"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1}, "weight is -1"),
        ({"weight": math.nan}, "weight is nan"),
        ({"lags": (0,)}, "lags is"),
        ({"boundary_weight": 0.5}, "boundary_weight is 0.5"),
        ({"boundary_weight": math.inf}, "boundary_weight is inf"),
        ({"boundary_frames": 0}, "frames is 0"),
    ],
)
def test_settings_of_transitions_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        TransitionLoss(**settings)
