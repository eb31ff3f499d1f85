import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

from dcase_coherence import CoherenceLoss, CoherenceRegularizer, LinearAnnealing, coherence_loss


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh())


@pytest.fixture
def labels():
    return torch.tensor([[[0.0], [0.0], [1.0], [1.0], [0.0]], [[1.0], [1.0], [1.0], [1.0], [1.0]]])


def step(model, regularizer, labels, batch=4, frames=5, **options):
    z = model(torch.randn(batch, frames, 4))
    return z.detach(), regularizer(labels, **options)


@pytest.mark.parametrize(
    "rows", [slice(0, 2), torch.tensor([0, 1]), torch.tensor([True, True, False, False])]
)
def test_term_is_the_annealed_loss_of_the_strong_rows(model, labels, rows):
    regularizer = CoherenceRegularizer(model, "0", loss=CoherenceLoss(0.5, 0.2))
    x = torch.randn(4, 5, 4)
    model(x)
    term = regularizer(labels, rows=rows, epoch=2.0)
    expected = 0.4 * coherence_loss(model[0](x)[:2], labels, 0.5, 0.2)
    torch.testing.assert_close(term, expected)
    term.backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_all_rows_and_full_weight_without_rows_and_epoch(model, labels):
    regularizer = CoherenceRegularizer(model, "1")
    z, term = step(model, regularizer, labels, batch=2)
    torch.testing.assert_close(term.detach(), coherence_loss(z, labels))


def test_monitor_against_a_plain_count(model, labels):
    regularizer = CoherenceRegularizer(model, "1", loss=CoherenceLoss(0.1, 0.03))
    z, term = step(model, regularizer, labels, batch=2)
    distances = (z[:, 1:] - z[:, :-1]).pow(2).sum(-1)
    boundary = [(0, 1), (0, 3)]
    inside = [(i, t) for i in range(2) for t in range(4) if (i, t) not in boundary]
    expected = {
        "z_norm": z.norm(dim=-1).mean(),
        "d_boundary": sum(distances[i] for i in boundary) / 2,
        "d_inside": sum(distances[i] for i in inside) / 6,
        "boundary_rate": 2 / 8,
        "threshold_ratio": (0.03 / 0.1) * (6 / 2),
        "term": term.detach(),
        "weight": 1.0,
    }
    assert regularizer.metrics == {
        key: pytest.approx(float(value), rel=1e-5) for key, value in expected.items()
    }


def test_threshold_ratio_is_where_the_loss_changes_sign(model, labels):
    regularizer = CoherenceRegularizer(model, "1", loss=CoherenceLoss(0.1, 0.03))
    signs = set()
    for seed in range(20):
        torch.manual_seed(seed)
        _, term = step(model, regularizer, labels, batch=2)
        m = regularizer.metrics
        assert (m["d_boundary"] / m["d_inside"] > m["threshold_ratio"]) == (term < 0)
        signs.add(bool(term < 0))
    assert signs == {True, False}


def test_monitor_without_boundaries_or_without_rows_is_nan_not_a_crash(model):
    regularizer = CoherenceRegularizer(model, "1")
    step(model, regularizer, torch.zeros(2, 5, 1), batch=2)
    assert math.isnan(regularizer.metrics["d_boundary"])
    assert regularizer.metrics["boundary_rate"] == 0
    _, term = step(model, regularizer, torch.zeros(0, 5, 1), batch=2, rows=slice(0, 0))
    assert term == 0


def test_monitor_ignores_padding(model, labels):
    regularizer = CoherenceRegularizer(model, "1")
    x = torch.randn(2, 5, 4)
    model(x)
    regularizer(labels)
    whole = dict(regularizer.metrics)
    model(torch.cat([x, torch.randn(2, 2, 4)], dim=1))
    padded = torch.cat([labels, torch.full((2, 2, 1), math.nan)], dim=1)
    regularizer(padded, valid=(torch.arange(7) < 5).expand(2, 7))
    assert regularizer.metrics == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("frames", [4, 6])
def test_one_frame_of_difference_is_cropped(model, labels, frames):
    regularizer = CoherenceRegularizer(model, "1")
    z, term = step(model, regularizer, labels, batch=2, frames=frames)
    kept = min(frames, 5)
    torch.testing.assert_close(term.detach(), coherence_loss(z[:, :kept], labels[:, :kept]))


def test_more_frames_of_difference_are_an_error(model, labels):
    regularizer = CoherenceRegularizer(model, "1")
    with pytest.raises(ValueError, match="features have 7 frames and labels 5"):
        step(model, regularizer, labels, batch=2, frames=7)


def test_without_a_forward(model, labels):
    with pytest.raises(RuntimeError, match="no forward"):
        CoherenceRegularizer(model, "1")(labels)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_stops_with_what_to_change(model, labels, value):
    regularizer = CoherenceRegularizer(model, "1")
    model(torch.full((2, 5, 4), value))
    with pytest.raises(FloatingPointError, match="lower alpha1, set a margin"):
        regularizer(labels)


@pytest.mark.parametrize(("factor", "word"), [(8.0, "grown"), (0.1, "shrunk")])
def test_features_that_leave_their_scale_are_warned_of_once(model, labels, factor, word):
    regularizer = CoherenceRegularizer(model, "0")
    step(model, regularizer, labels, batch=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    with pytest.warns(UserWarning, match=f"has {word} the features"):
        step(model, regularizer, labels, batch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, regularizer, labels, batch=2)


def test_annealing_starts_at_zero(model, labels):
    regularizer = CoherenceRegularizer(model, "1", annealing=LinearAnnealing(2))
    assert step(model, regularizer, labels, batch=2, epoch=0)[1] == 0
    assert regularizer.metrics["weight"] == 0


def test_a_copy_can_be_attached(model, labels):
    regularizer = CoherenceRegularizer(model, "1")
    for copied in (copy.deepcopy(regularizer), pickle.loads(pickle.dumps(regularizer))):
        assert copied.model is not model
        copied.attach()
        step(copied.model, copied, labels, batch=2)
        assert copied.metrics["weight"] == 1


def test_unreduced_loss_is_refused(model, labels):
    regularizer = CoherenceRegularizer(model, "1", loss=CoherenceLoss(reduction="none"))
    with pytest.raises(ValueError, match="a training step needs a scalar"):
        step(model, regularizer, labels, batch=2)
