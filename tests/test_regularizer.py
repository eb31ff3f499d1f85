import copy
import math
import multiprocessing
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


@pytest.mark.parametrize(("factor", "word"), [(30.0, "grown"), (0.01, "shrunk")])
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


def monitor(rows, valid):
    """A regularizer that has seen these rows of a batch of three clips, two partly padding."""
    torch.manual_seed(0)
    features, labels = torch.randn(3, 9, 4), (torch.rand(3, 9, 2) > 0.6).float()
    regularizer = CoherenceRegularizer(nn.Identity(), None, loss=CoherenceLoss(0.1, 0.03))
    regularizer.model(features[rows])
    regularizer(labels[rows], valid=valid[rows])
    return regularizer


VALID = torch.arange(9) < torch.tensor([[9], [5], [3]])


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    address = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    regularizer = monitor([slice(0, 1), slice(1, 3)][rank], VALID)
    said = dict(regularizer.metrics)
    # In one process NaN posteriors have stopped the trainer before there was a term.
    regularizer.model(torch.full((1, 9, 4), math.nan if rank else 1.0))
    with pytest.raises(FloatingPointError, match="lower alpha1"):
        regularizer.check_features() if rank else regularizer(torch.zeros(1, 9, 2))
    torch.save(said, folder / str(rank))


def test_processes_share_one_monitor_and_stop_together(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_of_two, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    zero, one = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    assert zero == one
    # Of the joined batch, but for the term: its parts' mean, whatever their sizes.
    expected = monitor(slice(0, 3), VALID).metrics
    parts = [monitor(rows, VALID).metrics["term"] for rows in (slice(0, 1), slice(1, 3))]
    expected["term"] = sum(parts) / 2
    assert zero == pytest.approx(expected, rel=1e-5)
