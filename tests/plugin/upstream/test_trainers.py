"""The coherence subclass of each yearly trainer, step by step, against the official class."""

import random
import sys

import pytest
import torch

from dcase_coherence import TransitionLoss
from dcase_coherence.lightning import CoherenceMixin
from dcase_coherence.official import shims, trainers
from dcase_coherence.official.errors import InputError

pl = pytest.importorskip("pytorch_lightning")


@pytest.fixture
def baseline(case, checkout):
    return trainers.load_baseline(checkout, case.recipe, case.trainer)


def test_the_subclass_copies_no_step(baseline):
    assert issubclass(baseline.coherence.__bases__[0], CoherenceMixin)
    assert baseline.coherence.__bases__[1] is baseline.official
    assert "training_step" not in vars(baseline.coherence)
    left = [name for name in sys.modules if name.split(".")[0] in ("local", "desed_task")]
    assert left == []


@pytest.mark.parametrize("mixup", [None, "soft", "hard"])
def test_labels_are_those_of_the_supervised_loss(
    case, baseline, tiny_config, make_module, make_batch, monkeypatch, mixup
):
    monkeypatch.setattr(random, "random", lambda: 0.0)  # the dice that decide whether to mix
    everything = {"strong": ["maestro", "synthetic", "real"]} if case.year == "2024" else {}
    config = tiny_config(mixup=mixup)
    module = make_module(baseline.coherence, config, **everything)
    batch, seen, used = make_batch(config), [], []
    before = batch[1].clone()
    module.supervised_loss.register_forward_hook(lambda m, inputs, out: seen.append(inputs[1]))
    loss = module.coherence[0].loss
    monitored = loss.monitored
    loss.monitored = lambda z, labels, valid: used.append(labels) or monitored(z, labels, valid)
    torch.manual_seed(0)
    module.training_step(batch, 0)
    assert torch.equal(used[0], seen[0].transpose(1, 2))
    assert torch.equal(before, batch[1]) == (mixup is None)
    if mixup == "soft":
        assert ((used[0] > 0) & (used[0] < 1)).any()


def test_the_teacher_never_reaches_the_tap(baseline, tiny_config, make_module, make_batch):
    config = tiny_config()
    module = make_module(baseline.coherence, config)
    assert len(module.sed_student.cnn._forward_hooks) == 1
    assert len(module.sed_teacher.cnn._forward_hooks) == 0
    outputs, taken = [], []
    module.sed_student.cnn.register_forward_hook(lambda m, i, output: outputs.append(output))
    tap = module.coherence[0].tap
    pop = tap.pop
    tap.pop = lambda: taken.append(pop()) or taken[-1]
    module.training_step(make_batch(config), 0)
    assert len(outputs) == len(taken) == 1
    assert torch.equal(taken[0], outputs[0].squeeze(-1).transpose(1, 2))
    assert taken[0].requires_grad


@pytest.mark.parametrize(
    "settings",
    [{"alpha1": 0.0, "alpha2": 0.0}, {"preset": "transitions", "transition_weight": 0.0}],
    ids=["z", "posteriors"],
)
def test_with_weights_of_zero_every_logged_loss_is_the_official_one(
    baseline, tiny_config, make_module, train_steps, settings
):
    config = tiny_config()
    official = make_module(baseline.official, config)
    expected = train_steps(official)
    ours = make_module(baseline.coherence, config, **settings)
    losses = train_steps(ours)
    assert all(torch.equal(a, b) for a, b in zip(losses, expected))
    assert set(official.logged) <= set(ours.logged)
    for name, values in official.logged.items():
        assert all(torch.equal(a, b) for a, b in zip(ours.logged[name], values)), name
    weights = official.state_dict()
    assert set(ours.state_dict()) == set(weights)
    for name, values in ours.state_dict().items():
        assert torch.equal(values, weights[name]), name


def test_the_loss_is_the_official_one_plus_the_logged_term(
    baseline, tiny_config, make_module, train_steps
):
    config = tiny_config()
    expected = train_steps(make_module(baseline.official, config), count=1)
    ours = make_module(baseline.coherence, config)
    losses = train_steps(ours, count=1)
    term = ours.logged["train/coherence/term"][0]
    assert term != 0
    torch.testing.assert_close(losses[0], expected[0] + term)


def test_transitions_are_of_the_strong_rows_and_their_mixed_labels(
    case, baseline, tiny_config, make_module, make_batch, train_steps
):
    config = tiny_config()
    expected = train_steps(make_module(baseline.official, config), count=1)
    ours = make_module(baseline.coherence, config, preset="transitions", boundary_weight=2)
    outputs, targets = [], []
    ours.sed_student.register_forward_hook(lambda m, inputs, output: outputs.append(output[0]))
    ours.supervised_loss.register_forward_hook(lambda m, inputs, out: targets.append(inputs[1]))
    losses = train_steps(ours, count=1)
    rows = slice(2, 4) if case.year == "2024" else slice(0, 2)
    posteriors, labels = outputs[0][rows].detach(), targets[0][rows]
    assert not torch.equal(labels, make_batch(config)[1][rows])
    if case.year == "2024":  # of MAESTRO's classes nothing is known in these rows
        assert not posteriors[:, 10:].any()
        assert not labels[:, 10:].any()
    term = TransitionLoss(5, boundary_weight=2, dim=-1)(posteriors, labels)
    assert torch.equal(losses[0], expected[0] + term)
    assert torch.equal(ours.logged["train/coherence/term"][0], term)


def test_head_is_no_2021_baseline(checkouts):
    head = checkouts("head")
    with pytest.raises(InputError) as error:
        trainers.load_baseline(head, "dcase2021_task4_baseline")
    assert "[-1, 1] instead of [0, 1]" in str(error.value)
    # torchaudio 0.8 of the 2021 environment cannot even build the masks of HEAD's SpecAugment.
    assert "SpecAugment" in str(error.value) or "CRNN does not run here" in str(error.value)
    assert "63d8b3b" in str(error.value)
    assert "--allow_drift" in str(error.value)


def test_the_pinned_commit_has_not_drifted(checkouts):
    if pl.__version__.startswith("1."):
        pytest.importorskip("asteroid")
    pinned = checkouts("pinned")
    folder = trainers.recipe_folder(pinned, "dcase2021_task4_baseline")
    with shims.shims(), trainers.importable(pinned):
        assert trainers.find_drift(trainers.default_config(folder, "sed_trainer")) == []
