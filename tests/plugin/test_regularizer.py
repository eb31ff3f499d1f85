import copy
import math
import multiprocessing
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

from dcase_coherence import (
    CoherenceLoss,
    CoherenceRegularizer,
    ExponentialAnnealing,
    LinearAnnealing,
    PseudoRows,
    coherence_loss,
)

VALID = torch.arange(9) < torch.tensor([[9], [5], [3]])


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
        "pulse_share": max(0.0, 1 - (z[0, 3] - z[0, 0]).pow(2).sum() / distances[0, 1]),
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
    assert regularizer.metrics == pytest.approx(whole, rel=1e-5, nan_ok=True)


STEPS = {"lags": (1, 3), "normalize": True, "center": True}


@pytest.mark.parametrize("options", [{}, {"lags": (1, 2, 4)}, STEPS])
def test_monitor_is_of_the_pairs_that_the_loss_compares(options):
    torch.manual_seed(1)
    z, labels = torch.randn(3, 9, 4), (torch.rand(3, 9, 2) > 0.6).float()
    regularizer = CoherenceRegularizer(nn.Identity(), None, loss=CoherenceLoss(0.3, 0.2, **options))
    regularizer.model(z.requires_grad_())
    term = regularizer(labels, valid=VALID)
    metrics = regularizer.metrics
    # The pairs of all lags: their count a lag, which the term's divisors are made of.
    pairs = {lag: sum(max(n - lag, 0) for n in (9, 5, 3)) for lag in regularizer.loss.lags}
    boundaries = metrics["boundary_rate"] * sum(pairs.values())
    inside = sum(pairs.values()) - boundaries
    total = -0.3 * boundaries * metrics["d_boundary"] + 0.2 * inside * metrics["d_inside"]
    assert float(term.detach()) == pytest.approx(total / len(pairs) / (17 * 2), rel=1e-5)
    assert metrics["threshold_ratio"] == pytest.approx(0.2 / 0.3 * inside / boundaries)
    assert metrics["z_norm"] == pytest.approx(float(z[VALID].norm(dim=-1).mean()))


def shape_of(values, labels, **options):
    features = torch.tensor([values], requires_grad=True).unsqueeze(-1)
    regularizer = CoherenceRegularizer(nn.Identity(), None, loss=CoherenceLoss(**options))
    regularizer.model(features)
    regularizer(torch.tensor([labels]).unsqueeze(-1))
    return regularizer.metrics["pulse_share"]


@pytest.mark.parametrize("options", [{}, {"lags": (2, 4)}, {"center": True}])
def test_pulse_share_tells_a_pulse_from_a_step(options):
    event = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert shape_of(event, event, **options) == 0
    for pulses in ([3, 7], [2, 6], [2, 7]):  # after the edges, before them, one of each
        z = [2.0 if t in pulses else 0.0 for t in range(10)]
        assert shape_of(z, event, **options) == 1
    both = [0.0, 0.0, 0.0, 2.0, 1.0, 1.0, 1.0, -1.0, 0.0, 0.0]  # a step that overshoots
    assert shape_of(both, event, **options) == pytest.approx(1 - 1 / 4)
    ramp = [0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 0.0, 0.0]
    assert shape_of(ramp, event, **options) == 0


def test_pulse_share_is_of_changes_that_stand_alone():
    quick = [0.0, 0.0, 1.0, 0.0, 0.0]
    assert math.isnan(shape_of(quick, quick))
    assert math.isnan(shape_of([0.0, 0.0, 1.0], [0.0, 0.0, 1.0]))
    # The first of two changes is too near to the beginning.
    labels = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert shape_of([0.0, 1.0, 0.0, 0.0, -1.0, -1.0], labels) == 0


@pytest.mark.parametrize(
    "rows", [slice(1, 3), torch.tensor([2, 1]), torch.tensor([False, True, True, False])]
)
def test_labels_are_of_the_rows_or_of_the_whole_batch(model, rows):
    torch.manual_seed(3)
    labels, valid = (torch.rand(4, 5, 2) > 0.5).float(), torch.rand(4, 5) > 0.1
    x = torch.randn(4, 5, 4)
    regularizer = CoherenceRegularizer(model, "1")

    def term(labels, valid):
        model(x)
        return regularizer(labels, rows=rows, valid=valid)

    expected = term(labels[rows], valid[rows])
    assert expected != 0
    for given in ((labels, valid), (labels, valid[rows]), (labels[rows], valid)):
        assert term(*given) == expected


def test_labels_of_neither_are_named_with_rows(model):
    regularizer = CoherenceRegularizer(model, "1")
    with pytest.raises(ValueError, match="labels are of 3 clips; rows selects 2 of the 4 in"):
        step(model, regularizer, torch.zeros(3, 5, 1), rows=slice(0, 2))
    valid = torch.ones(3, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="valid are of 3 clips"):
        step(model, regularizer, torch.zeros(2, 5, 1), rows=slice(0, 2), valid=valid)
    with pytest.raises(ValueError, match=r"of 2 clips and the batch has 4; .*rows=slice\(0, 2\)"):
        step(model, regularizer, torch.zeros(2, 5, 1))
    with pytest.raises(ValueError, match=r"labels have shape \(5, 1\)"):
        step(model, regularizer, torch.zeros(5, 1))


def test_the_axis_to_transpose_is_named(model):
    regularizer = CoherenceRegularizer(model, "1")
    with pytest.raises(ValueError, match=r"give labels.transpose\(1, 2\)"):
        step(model, regularizer, torch.zeros(4, 10, 29), frames=30)
    with pytest.raises(ValueError, match=r"give features.transpose\(1, 2\).*layout='bdt'"):
        step(model, regularizer, torch.zeros(4, 3, 2), frames=9)


def test_the_layout_of_the_output(model, labels):
    turned = nn.Sequential(nn.Conv1d(4, 3, 1), nn.Tanh())
    regularizer = CoherenceRegularizer(turned, "1", layout="bdt")
    for regularized in (regularizer, copy.deepcopy(regularizer)):
        regularized.attach()
        z = regularized.model(torch.randn(2, 4, 5))
        torch.testing.assert_close(regularized(labels), coherence_loss(z.transpose(1, 2), labels))


def frozen(model, x):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model(x)


def without_gradient(model, x):
    with torch.no_grad():
        model(x)


def checkpointed(model, x):
    checkpoint.checkpoint(model, x.requires_grad_(), **REENTRANT)


REENTRANT = {"use_reentrant": True} if hasattr(torch, "compile") else {}  # the only way before


@pytest.mark.parametrize("forward", [frozen, without_gradient, checkpointed])
def test_a_term_without_gradient_is_warned_of_once(model, labels, forward):
    regularizer = CoherenceRegularizer(model, "0")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, regularizer, labels, batch=2)
    forward(model, torch.randn(2, 5, 4))
    with pytest.warns(UserWarning, match="the features of '0' carry no gradient.*use_reentrant"):
        regularizer(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward(model, torch.randn(2, 5, 4))
        regularizer(labels)


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


def guess(epoch=math.inf, rows=slice(2, 4)):
    torch.manual_seed(5)
    labels = (torch.rand(2, 5, 3) > 0.5).float().requires_grad_()
    valid = torch.tensor([[True, True, True, False, True], [True] * 5])
    return PseudoRows(labels, rows, valid, epoch)


@pytest.mark.parametrize("options", [{}, {"center": True, "normalize": True, "lags": (1, 2)}])
def test_pseudo_rows_have_a_term_of_their_own_beside_the_strong_ones(model, labels, options):
    loss = CoherenceLoss(0.3, 0.1, **options)
    x = torch.randn(4, 5, 4)

    def term(**options):
        regularizer = CoherenceRegularizer(model, "1", loss=loss)
        model(x)
        return regularizer(labels, rows=slice(0, 2), epoch=2.0, **options), regularizer.metrics

    alone, monitor = term()
    pseudo = guess(epoch=1.0)
    both, metrics = term(pseudo=pseudo)
    expected = 0.2 * loss(model(x)[2:4], pseudo.labels, pseudo.valid)
    assert abs(expected) > 1e-4
    torch.testing.assert_close(both, alone + expected)
    # The strong rows' own numbers are the same to the bit.
    assert {name: metrics[name] for name in monitor} == monitor
    boundaries = (pseudo.labels[:, 1:] != pseudo.labels[:, :-1]).any(-1)
    boundaries[0, 2:] = False
    added = {name: metrics[name] for name in set(metrics) - set(monitor)}
    rate = added.pop("pseudo_boundary_rate")
    assert added == {
        "pseudo_term": pytest.approx(float(expected.detach())),
        "pseudo_weight": 0.2,
        "pseudo_frames": 0.9,
    }
    if not options:
        assert rate == pytest.approx(float(boundaries.sum() / 6))
    both.backward()
    assert pseudo.labels.grad is None


@pytest.mark.parametrize("annealing", [LinearAnnealing(2), ExponentialAnnealing(2)])
def test_pseudo_rows_weigh_nothing_before_their_epoch(model, labels, annealing):
    regularizer = CoherenceRegularizer(model, "1", annealing=annealing)
    for epoch, weight in ((-3.0, 0), (-0.1, 0), (0.0, annealing(0)), (1.0, annealing(1)), (5, 1)):
        options = {"rows": slice(0, 2), "pseudo": guess(epoch)}
        _, term = step(model, regularizer, labels, **options)
        assert regularizer.metrics["pseudo_weight"] == weight
        # Not 0 by chance; the term is then what the strong rows give.
        assert (regularizer.metrics["pseudo_term"] != 0) == (weight > 0)
        if not weight:
            assert term == regularizer.metrics["term"]
            assert regularizer.metrics["pseudo_frames"] == 0.9


def test_pseudo_rows_none_of_which_count(model, labels):
    regularizer = CoherenceRegularizer(model, "1")
    pseudo = guess()._replace(valid=torch.zeros(2, 5, dtype=torch.bool))
    _, term = step(model, regularizer, labels, rows=slice(0, 2), pseudo=pseudo)
    assert regularizer.metrics["pseudo_term"] == regularizer.metrics["pseudo_frames"] == 0
    assert math.isnan(regularizer.metrics["pseudo_boundary_rate"])
    assert term.detach() == pytest.approx(regularizer.metrics["term"])


def test_pseudo_rows_that_diverge_stop_the_run(model, labels):
    regularizer = CoherenceRegularizer(model, "1")
    model(torch.cat([torch.zeros(3, 5, 4), torch.full((1, 5, 4), math.nan)]))
    with pytest.raises(FloatingPointError, match="coherence term of pseudo-labels is nan"):
        regularizer(labels, rows=slice(0, 2), pseudo=guess())


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


def monitor(rows, valid, options):
    """A regularizer that has seen these rows of a batch of three clips, two partly padding."""
    torch.manual_seed(0)
    features, labels = torch.randn(3, 9, 4), (torch.rand(3, 9, 2) > 0.6).float()
    labels[0, 3:7] = labels[0, 3]
    labels[0, 5:7] = 1 - labels[0, 4]
    loss = CoherenceLoss(0.1, 0.03, **options)
    regularizer = CoherenceRegularizer(nn.Linear(4, 4), None, loss=loss)
    regularizer.model(features[rows])
    # The same rows, a frame later, in the place of pseudo-labelled ones.
    pseudo = PseudoRows(labels[rows].roll(1, 1), None, valid[rows].roll(1, 1))
    term = regularizer(labels[rows], valid=valid[rows], pseudo=pseudo)
    if options:
        term.backward()
    return regularizer


def one_of_two(rank, folder, options):
    torch.set_num_threads(1)
    address = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    regularizer = monitor([slice(0, 1), slice(1, 3)][rank], VALID, options)
    said = dict(regularizer.metrics)
    gradient = regularizer.model.weight.grad
    if options:
        torch.distributed.all_reduce(gradient)  # the sum over the losses of both
    # In one process NaN posteriors have stopped the trainer before there was a term.
    regularizer.model(torch.full((1, 9, 4), math.nan if rank else 1.0))
    with pytest.raises(FloatingPointError, match="lower alpha1"):
        regularizer.check_features() if rank else regularizer(torch.zeros(1, 9, 2))
    torch.save((said, gradient), folder / str(rank))


NO_FORK = pytest.mark.skipif(
    not hasattr(torch, "autocast"), reason="this torch makes no backward pass after a fork"
)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({**STEPS, "reduction": "sum"}, marks=NO_FORK)]
)
def test_processes_share_one_monitor_and_stop_together(tmp_path, options):
    context = multiprocessing.get_context("fork")
    arguments = [(rank, tmp_path, options) for rank in (0, 1)]
    processes = [context.Process(target=one_of_two, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    (zero, gradient), (one, same) = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    assert zero == one
    joined = monitor(slice(0, 3), VALID, options)
    expected = joined.metrics
    if options:
        # Summed losses: the processes' are one process's, the common centre included.
        torch.testing.assert_close(gradient, joined.model.weight.grad)
        assert torch.equal(gradient, same)
        expected.update({name: expected[name] / 2 for name in ("term", "pseudo_term")})
    else:
        # Of the joined batch, but for the term: its parts' mean, whatever their sizes.
        parts = [monitor(rows, VALID, {}).metrics for rows in (slice(0, 1), slice(1, 3))]
        for name in ("term", "pseudo_term"):
            expected[name] = sum(part[name] for part in parts) / 2
    assert zero == pytest.approx(expected, rel=1e-5)
