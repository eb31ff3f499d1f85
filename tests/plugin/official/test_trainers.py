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


def test_the_subclass_puts_the_mixin_first(checkout):
    official, coherence = trainers.load_baseline(checkout)
    assert official.__name__ == "SEDTask4_2021"
    assert coherence.__mro__.index(official) > coherence.__mro__.index(CoherenceMixin)
    assert issubclass(coherence.__bases__[0], CoherenceMixin)
    assert "training_step" not in vars(coherence)


def test_nothing_stays_in_sys_modules(checkout):
    trainers.load_baseline(checkout)
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


def test_loading_twice_gives_the_same_official_class(checkout):
    first = trainers.load_baseline(checkout).official
    assert trainers.load_baseline(checkout).official is first


def test_a_package_of_the_same_name_is_put_back(checkout, monkeypatch):
    mine = type(sys)("local")
    monkeypatch.setitem(sys.modules, "local", mine)
    trainers.load_baseline(checkout)
    assert sys.modules["local"] is mine


def test_importable_restores_after_an_error(checkout):
    with pytest.raises(ModuleNotFoundError), trainers.importable(checkout):
        importlib.import_module("local.mixup.nothing")
    assert "local" not in sys.modules
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
    kept = []
    module.sed_student.cnn.register_forward_hook(lambda m, inputs, output: kept.append(output))
    taken = []
    pop = module.coherence[0].tap.pop
    module.coherence[0].tap.pop = lambda: taken.append(pop()) or taken[-1]
    with torch.no_grad():
        for parameter in module.sed_teacher.parameters():
            parameter.add_(1.0)
    module.training_step(make_batch(), 0)
    assert len(kept) == 1
    assert torch.equal(taken[0], kept[0].squeeze(-1).transpose(1, 2))


def test_with_both_alphas_zero_every_logged_loss_is_the_official_one(checkout):
    official, coherence = trainers.load_baseline(checkout)
    expected, last = steps(make_module(official, checkout))
    logged, last_too = steps(make_module(coherence, checkout, alpha1=0.0, alpha2=0.0))
    assert {name: logged[name] for name in expected} == expected
    assert last_too == last


def test_the_term_changes_the_training(checkout):
    official, coherence = trainers.load_baseline(checkout)
    expected, _ = steps(make_module(official, checkout))
    logged, _ = steps(make_module(coherence, checkout))
    assert logged["train/student/loss_strong"][0] == expected["train/student/loss_strong"][0]
    assert logged["train/student/loss_strong"][2] != expected["train/student/loss_strong"][2]
    assert logged["train/coherence/term"][0] != 0.0


def test_the_state_dict_is_the_official_one(checkout):
    official, coherence = trainers.load_baseline(checkout)
    assert set(make_module(coherence, checkout).state_dict()) == set(
        make_module(official, checkout).state_dict()
    )


def test_the_settings_are_kept_with_the_checkpoint(checkout):
    module = make_module(
        trainers.load_baseline(checkout).coherence, checkout, preset="exact", alpha1=0.3
    )
    assert module.hparams["coherence"]["alpha1"] == 0.3
    assert module.hparams["coherence"]["alpha2"] == 0.03


@pytest.mark.parametrize(
    ("strong", "rows"),
    [(["synthetic"], [2, 3]), (["real", "maestro"], [0, 1, 4, 5]), (["maestro"], [0, 1])],
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


BOTH = {"preset": "transitions", "boundary_weight": 2}


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
