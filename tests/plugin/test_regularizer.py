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
    TransitionLoss,
    coherence_loss,
    transition_loss,
)

EXACT = CoherenceLoss.exact()
VALID = torch.arange(9) < torch.tensor([[9], [5], [3]])
STEPS = {"lags": (1, 3), "normalize": True, "center": True}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh())


@pytest.fixture
def labels():
    return torch.tensor([[[0.0], [0.0], [1.0], [1.0], [0.0]], [[1.0], [1.0], [1.0], [1.0], [1.0]]])


def step(model, regularizer, labels, batch=2, frames=5, **options):
    z = model(torch.randn(batch, frames, 4))
    return z.detach(), regularizer(labels, **options)


@pytest.mark.parametrize(
    "rows", [slice(1, 3), torch.tensor([2, 1]), torch.tensor([False, True, True, False])]
)
def test_term_is_the_annealed_loss_of_rows_whose_labels_are_theirs_or_the_batchs(model, rows):
    torch.manual_seed(3)
    labels, valid = (torch.rand(4, 5, 2) > 0.5).float(), torch.rand(4, 5) > 0.1
    x = torch.randn(4, 5, 4)
    regularizer = CoherenceRegularizer(model, "0", loss=CoherenceLoss(0.5, 0.2))
    expected = 0.4 * coherence_loss(model[0](x)[rows], labels[rows], 0.5, 0.2, valid=valid[rows])
    for inputs in ((labels[rows], valid[rows]), (labels, valid), (labels[rows], valid)):
        regularizer.tap.clear()
        model(x)
        term = regularizer(inputs[0], rows=rows, epoch=2.0, valid=inputs[1])
        torch.testing.assert_close(term, expected)
    term.backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_monitor_against_a_plain_count(model, labels):
    regularizer = CoherenceRegularizer(model, "1", loss=CoherenceLoss(0.1, 0.03))
    z, term = step(model, regularizer, labels)
    torch.testing.assert_close(term.detach(), coherence_loss(z, labels))  # in full without an epoch
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


def test_monitor_without_boundaries_or_without_rows_is_nan_not_a_crash(model):
    regularizer = CoherenceRegularizer(model, "1", loss=EXACT)
    step(model, regularizer, torch.zeros(2, 5, 1))
    assert math.isnan(regularizer.metrics["d_boundary"])
    assert regularizer.metrics["boundary_rate"] == 0
    _, term = step(model, regularizer, torch.zeros(0, 5, 1), rows=slice(0, 0))
    assert term == 0


@pytest.mark.parametrize("options", [{}, {"lags": (1, 2, 4)}, STEPS])
def test_monitor_is_of_the_pairs_that_the_loss_compares_without_padding(options):
    torch.manual_seed(1)
    z, labels = torch.randn(3, 9, 4), (torch.rand(3, 9, 2) > 0.6).float()
    labels[~VALID] = math.nan
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
    regularizer = CoherenceRegularizer(nn.Identity(), None, loss=CoherenceLoss.exact(**options))
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
    quick = [0.0, 0.0, 1.0, 0.0, 0.0]  # no change stands alone
    assert math.isnan(shape_of(quick, quick, **options))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 5, 1), {"rows": slice(0, 2)}, "labels are of 3 clips, .* rows selects 2"),
        ((2, 5, 1), {}, r"of 2 clips, the batch has 4 .*rows=slice\(0, 2\)"),
        ((2, 5, 1), {"rows": slice(0, 2), "valid": torch.ones(3, 5) > 0}, "valid are of 3 clips"),
        ((5, 1), {}, r"labels have shape \(5, 1\)"),
        ((4, 10, 29), {"frames": 30}, r"give labels.transpose\(1, 2\)"),
        ((4, 3, 2), {"frames": 9}, r"give features.transpose\(1, 2\).*layout='bdt'"),
        ((4, 5, 2), {"frames": 7}, r"\(4, 7\) but labels have \(4, 5\)"),
    ],
)
def test_labels_that_do_not_fit(model, shape, options, message):
    regularizer = CoherenceRegularizer(model, "1", loss=EXACT)
    with pytest.raises(ValueError, match=message):
        step(model, regularizer, torch.zeros(shape), batch=4, **options)


@pytest.mark.parametrize("frames", [4, 6])
def test_one_frame_of_difference_is_cropped(model, labels, frames):
    regularizer = CoherenceRegularizer(model, "1", loss=EXACT)
    valid = torch.ones(2, 5) > 0
    z, term = step(model, regularizer, labels, frames=frames, valid=valid)
    kept = min(frames, 5)
    torch.testing.assert_close(term.detach(), coherence_loss(z[:, :kept], labels[:, :kept]))


def test_a_copy_can_be_attached_with_the_layout_of_its_output(labels):
    turned = nn.Sequential(nn.Conv1d(4, 3, 1), nn.Tanh())
    regularizer = CoherenceRegularizer(turned, "1", loss=EXACT, layout="bdt")
    for copied in (copy.deepcopy(regularizer), pickle.loads(pickle.dumps(regularizer))):
        assert copied.model is not turned
        copied.attach()
        z = copied.model(torch.randn(2, 4, 5))
        torch.testing.assert_close(copied(labels), coherence_loss(z.transpose(1, 2), labels))


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
    regularizer = CoherenceRegularizer(model, "0", loss=EXACT)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, regularizer, labels)
    forward(model, torch.randn(2, 5, 4))
    with pytest.warns(UserWarning, match="features of '0' carry no gradient"):
        regularizer(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward(model, torch.randn(2, 5, 4))
        regularizer(labels)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_stops_with_what_to_change(model, labels, value):
    regularizer = CoherenceRegularizer(model, "1", loss=EXACT)
    model(torch.full((2, 5, 4), value))
    with pytest.raises(FloatingPointError, match="lower alpha1"):
        regularizer(labels)


@pytest.mark.parametrize(("factor", "word"), [(30.0, "grown"), (0.01, "shrunk")])
def test_features_that_leave_their_scale_are_warned_of_once(model, labels, factor, word):
    regularizer = CoherenceRegularizer(model, "0", loss=EXACT)
    step(model, regularizer, labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    with pytest.warns(UserWarning, match=word):
        step(model, regularizer, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, regularizer, labels)


def test_a_term_that_stays_at_weight_0_is_warned_of(model, labels, monkeypatch):
    monkeypatch.setattr("dcase_coherence.regularizer.STANDSTILL", 3)
    regularizer = CoherenceRegularizer(model, "1", loss=EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert step(model, regularizer, labels, epoch=0)[1] == 0
    with pytest.warns(UserWarning, match="weight 0 for 3 steps, now at epoch 0.*annealing_steps"):
        step(model, regularizer, labels, epoch=0)


def test_unreduced_loss_is_refused(model):
    with pytest.raises(ValueError, match="a training step needs a scalar"):
        CoherenceRegularizer(model, "1", loss=CoherenceLoss.exact(reduction="none"))


def monitor(rows, valid, options):
    """A regularizer that has seen these rows of a batch of three clips, two partly padding."""
    torch.manual_seed(0)
    features, labels = torch.randn(3, 9, 4), (torch.rand(3, 9, 2) > 0.6).float()
    labels[0, 3:7] = labels[0, 3]
    labels[0, 5:7] = 1 - labels[0, 4]
    loss = CoherenceLoss(0.1, 0.03, **options)
    regularizer = CoherenceRegularizer(nn.Linear(4, 4), None, loss=loss)
    regularizer.model(features[rows])
    term = regularizer(labels[rows], valid=valid[rows])
    if options:
        term.backward()
    return regularizer


def one_of_two(rank, folder, options):
    torch.set_num_threads(1)
    address = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    regularizer = monitor([slice(0, 1), slice(1, 3)][rank], VALID, options)
    metrics = dict(regularizer.metrics)
    gradient = regularizer.model.weight.grad
    if options:
        torch.distributed.all_reduce(gradient)  # the sum over the losses of both
    regularizer.model(torch.full((1, 9, 4), math.nan if rank else 1.0))
    with pytest.raises(FloatingPointError, match="lower alpha1"):
        regularizer(torch.zeros(1, 9, 2))
    torch.save((metrics, gradient), folder / str(rank))


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
        expected["term"] /= 2
    else:
        # Of the joined batch, but for the term: its parts' mean, whatever their sizes.
        parts = [monitor(rows, VALID, {}).metrics for rows in (slice(0, 1), slice(1, 3))]
        expected["term"] = sum(part["term"] for part in parts) / 2
    assert zero == pytest.approx(expected, rel=1e-5)


class Detector(nn.Module):
    """Gives strong posteriors, classes before frames, and weak ones, as DESED_task's student."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Conv1d(4, 6, 3, padding=1)
        self.dense = nn.Linear(6, 2)

    def forward(self, x):
        strong = torch.sigmoid(self.dense(torch.relu(self.cnn(x)).transpose(1, 2))).transpose(1, 2)
        return strong, strong.mean(-1)


def test_posteriors_are_one_element_of_the_output_and_count_from_the_first_step():
    torch.manual_seed(0)
    detector, y = Detector(), torch.rand(2, 20, 2).round()
    loss = TransitionLoss(5.0, boundary_weight=2.0, dim=1)
    regularizer = CoherenceRegularizer(detector, None, loss=loss, layout="bdt", element=0)
    strong, _ = detector(torch.randn(4, 4, 20))
    term = regularizer(y, rows=slice(0, 2), epoch=0.0)
    torch.testing.assert_close(term, loss(strong[:2].transpose(1, 2), y))
    metrics = regularizer.metrics
    assert metrics["weight"] == 1
    assert metrics["term"] == pytest.approx(float(term.detach()))
    transitions = 5 * transition_loss(strong[:2].transpose(1, 2), y)
    assert metrics["transitions"] == pytest.approx(float(transitions.detach()))
    assert set(metrics) == {
        *("term", "weight", "transitions", "boundaries", "share", "step_onset", "step_offset")
    }
    term.backward()
    assert detector.cnn.weight.grad.abs().sum() > 0
