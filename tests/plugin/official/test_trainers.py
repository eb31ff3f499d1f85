"""Against a minimal stand-in of a checkout; tests/plugin/upstream runs the same for real."""

import importlib
import sys

import pytest
import torch
from stand_in import CONFIG, make_batch, make_module, steps, write_checkout

from dcase_coherence import TransitionLoss
from dcase_coherence.lightning import CoherenceMixin
from dcase_coherence.official import trainers

pytest.importorskip("pytorch_lightning")
yaml = pytest.importorskip("yaml")

BOTH = {"preset": "transitions", "boundary_weight": 2}


def test_the_subclass_is_the_mixin_before_a_class_that_is_imported_once(checkout):
    official, coherence = trainers.load_baseline(checkout)
    assert official.__name__ == "SEDTask4_2021"
    assert coherence.__mro__.index(official) > coherence.__mro__.index(CoherenceMixin)
    assert "training_step" not in vars(coherence)
    assert trainers.load_baseline(checkout).official is official
    left = [name for name in sys.modules if name.split(".")[0] in ("local", "desed_task")]
    assert left == []


def test_two_checkouts_in_one_process_do_not_mix(checkout, tmp_path):
    other = write_checkout(tmp_path / "other")
    text = (other / "recipes/dcase2021_task4_baseline/local/mixup.py").read_text()
    (other / "recipes/dcase2021_task4_baseline/local/mixup.py").write_text(text + "\nOTHER = 1\n")
    first = trainers.load_baseline(checkout)
    second = trainers.load_baseline(other)
    assert first.official is not second.official
    with trainers.importable(other):
        assert importlib.import_module("local.mixup").OTHER == 1
    with trainers.importable(checkout):
        assert not hasattr(importlib.import_module("local.mixup"), "OTHER")


def test_a_package_of_the_same_name_is_put_back_after_an_error_too(checkout, monkeypatch):
    mine = type(sys)("local")
    monkeypatch.setitem(sys.modules, "local", mine)
    with pytest.raises(ModuleNotFoundError), trainers.importable(checkout):
        importlib.import_module("local.mixup.nothing")
    assert sys.modules["local"] is mine
    assert "local.mixup" not in sys.modules


@pytest.mark.parametrize("mixup", [None, "soft", "hard"])
def test_labels_are_those_of_the_supervised_loss(checkout, mixup):
    module = make_module(
        trainers.load_baseline(checkout).coherence, checkout, training={"mixup": mixup}
    )
    seen, batch = [], make_batch()
    before = batch[1].clone()
    module.supervised_loss.register_forward_hook(lambda m, inputs, out: seen.append(inputs[1]))
    module.training_step(batch, 0)
    rows, labels = module.strong_labels(batch)
    assert rows == slice(0, 2)
    assert torch.equal(labels, seen[0].transpose(1, 2))
    assert torch.equal(before[:2], batch[1][:2]) == (mixup is None)


def test_the_teacher_is_not_tapped(checkout):
    module = make_module(trainers.load_baseline(checkout).coherence, checkout)
    assert len(module.sed_student.cnn._forward_hooks) == 1
    assert len(module.sed_teacher.cnn._forward_hooks) == 0


def test_with_both_alphas_zero_every_logged_loss_is_the_official_one(checkout):
    official, coherence = trainers.load_baseline(checkout)
    expected, last = steps(make_module(official, checkout))
    logged, last_too = steps(make_module(coherence, checkout, alpha1=0.0, alpha2=0.0))
    assert {name: logged[name] for name in expected} == expected
    assert last_too == last


def test_the_term_changes_the_training_and_leaves_the_state_dict(checkout):
    official, coherence = trainers.load_baseline(checkout)
    plain, module = make_module(official, checkout), make_module(coherence, checkout)
    assert set(module.state_dict()) == set(plain.state_dict())
    expected, logged = steps(plain)[0], steps(module)[0]
    assert logged["train/student/loss_strong"][0] == expected["train/student/loss_strong"][0]
    assert logged["train/student/loss_strong"][2] != expected["train/student/loss_strong"][2]
    assert logged["train/coherence/term"][0] != 0.0


@pytest.mark.parametrize(
    ("strong", "rows"), [(["synthetic"], [2, 3]), (["real", "maestro"], [0, 1, 4, 5])]
)
def test_2024_takes_the_named_sets_and_masks_their_labels(checkout, strong, rows):
    cls = trainers.load_baseline(checkout, "dcase2024_task4_baseline", allow_drift=True).coherence
    with trainers.importable(checkout):
        student = importlib.import_module("desed_task.nnet.CRNN").CRNN()
    config = {
        **CONFIG,
        "training": {"batch_size": [2, 2, 2, 1, 1]},
        "coherence": {"strong": strong, "tolerance": 0.05},
    }
    module = cls(config, None, student, None)
    module.log = lambda *args, **kwargs: None
    mask = torch.ones(8, 10).bool()
    mask[:2, 4:] = False
    mask[2:, 8:] = False
    batch = [torch.rand(8, 8, 64), torch.rand(8, 10, 16), torch.ones(8), torch.rand(8, 3), mask]
    module.training_step(batch, 0)
    got, labels = module.strong_labels(batch)
    assert got.tolist() == rows
    assert torch.equal(labels, module.seen[rows].transpose(1, 2))
    assert module.coherence[0].loss.tolerance == 0.05
    assert module.hparams["coherence"]["strong"] == strong


def test_transitions_are_of_the_strong_rows_and_their_mixed_labels(checkout):
    module = make_module(trainers.load_baseline(checkout).coherence, checkout, **BOTH)
    outputs, batch = [], make_batch()
    module.sed_student.register_forward_hook(lambda m, inputs, output: outputs.append(output[0]))
    module.training_step(batch, 0)
    posteriors, mixed = outputs[0][:2], batch[1][:2]
    expected = TransitionLoss(5.0, boundary_weight=2.0, dim=-1)(posteriors, mixed)
    assert module.logged["train/coherence/term"] == [pytest.approx(float(expected), rel=1e-5)]
    assert module.hparams["coherence"]["transition_weight"] == 5.0


def test_a_head_is_in_the_optimizer_of_the_trainer(checkout):
    module = make_module(trainers.load_baseline(checkout).coherence, checkout, **BOTH, head=True)
    module.scheduler = None
    before = len(module.opt.param_groups)
    module.configure_optimizers()
    assert len(module.opt.param_groups) == before + 1
    logged, _ = steps(module)
    assert logged["train/coherence/head_share"][0] > 0
