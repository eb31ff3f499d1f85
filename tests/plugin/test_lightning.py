import copy
import math

import pytest
import torch
from torch import nn

from dcase_coherence import CoherenceMixin, coherence_loss, pseudo_labels
from dcase_coherence.lightning import (
    DEFAULTS,
    PSEUDO,
    build_regularizer,
    rows_of,
    settings_of,
    teacher_labels_of,
)

pl = pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d((2, 8)), nn.Dropout(0.5)
        )
        self.dense = nn.Linear(4, 3)

    def forward(self, x):
        z = self.cnn(x.transpose(1, 2).unsqueeze(1)).squeeze(-1).permute(0, 2, 1)
        return torch.sigmoid(self.dense(z)).transpose(1, 2)


class Trainer(pl.LightningModule):
    """Mean teacher in the shape of the official ones: labels mixed in place, logged losses."""

    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.sed_student = Student()
        self.sed_teacher = copy.deepcopy(self.sed_student)
        self.history = []

    @property
    def hparams(self):
        return self.settings

    def log(self, name, value, **options):
        self.history.append((name, float(value)))
        super().log(name, value, **options)

    def training_step(self, batch, batch_indx):
        audio, labels = batch
        n_strong = self.hparams["training"]["batch_size"][0]
        labels[:n_strong] = 0.7 * labels[:n_strong] + 0.3 * labels[:n_strong].flip(0)
        student = self.sed_student(audio)
        with torch.no_grad():
            teacher = self.sed_teacher(audio)
        self.seen = labels[:n_strong].clone()
        loss = nn.functional.binary_cross_entropy(student[:n_strong], self.seen)
        self.log("train/student/loss_strong", loss)
        return loss + nn.functional.mse_loss(student, teacher)

    def validation_step(self, batch, batch_indx):
        self.sed_student(batch[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.sed_student.parameters(), 1e-2)

    def loader(self):
        torch.manual_seed(3)
        labels = [(torch.arange(5) >= onset).float().expand(3, 5) for onset in range(1, 4)]
        data = [(torch.randn(8, 10), labels[i % 3].clone()) for i in range(16)]
        return torch.utils.data.DataLoader(data, batch_size=4)

    train_dataloader = val_dataloader = loader


class Coherence(CoherenceMixin, Trainer):
    pass


TRAINING = {"batch_size": [2, 1, 1], "n_epochs_warmup": 1, "median_window": 3}


def settings(**coherence):
    return {"training": TRAINING, "coherence": coherence}


def fit(kind, epochs=2, **coherence):
    torch.manual_seed(0)
    module = kind(settings(**coherence))
    trainer = (
        pl.Trainer(max_epochs=epochs, logger=False, num_sanity_val_steps=0, weights_summary=None)
        if pl.__version__ < "1.5"
        else pl.Trainer(
            max_epochs=epochs,
            logger=False,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )
    )
    torch.manual_seed(1)
    trainer.fit(module)
    return module


def test_zero_alphas_are_the_trainer_alone_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = fit(Trainer)
    ours = fit(Coherence, alpha1=0.0, alpha2=0.0)
    losses = [item for item in ours.history if "coherence" not in item[0]]
    assert losses == plain.history
    assert len(losses) == 8
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name])


def test_the_term_changes_training_and_is_logged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, ours = fit(Trainer), fit(Coherence, annealing_epochs=1)
    assert not torch.equal(plain.sed_student.dense.weight, ours.sed_student.dense.weight)
    weights = [value for name, value in ours.history if name == "train/coherence/weight"]
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    logged = {name.split("/")[-1] for name, _ in ours.history if "coherence" in name}
    assert logged == {
        "term",
        "weight",
        "z_norm",
        "d_boundary",
        "d_inside",
        "boundary_rate",
        "threshold_ratio",
        "pulse_share",
    }


def test_loss_is_the_trainers_plus_the_term_on_the_strong_rows_with_the_mixed_labels():
    torch.manual_seed(0)
    module = Coherence(settings(alpha1=0.3, alpha2=0.2)).eval()
    audio, labels = torch.randn(4, 8, 10), (torch.rand(4, 3, 5) > 0.5).float()
    clean = labels.clone()
    loss = module.training_step((audio, labels), 0)
    own = Trainer.training_step(module, (audio, clean), 0)
    module.coherence.tap.clear()
    z = module.sed_student.cnn(audio.transpose(1, 2).unsqueeze(1)).squeeze(-1).transpose(1, 2)[:2]
    expected = own + coherence_loss(z, module.seen.transpose(1, 2), 0.3, 0.2)
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(module.seen, (module.seen > 0.5).float())


SURE = {"threshold": 0.5, "band": 0.0}  # the teacher's posteriors are near 0.5


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [(["weak"], [2]), (["unlabelled"], [3]), (["unlabelled", "weak"], [2, 3])],
)
def test_pseudo_rows_add_a_term_with_the_labels_of_the_teachers_own_forward(chosen, rows):
    torch.manual_seed(2)
    pseudo = {"threshold": 0.45, "band": 0.03, "rows": chosen}
    module = Coherence(settings(alpha1=0.3, alpha2=0.2, pseudo=pseudo))
    with torch.no_grad():
        module.sed_teacher.dense.weight.mul_(20)
    outputs, z = [], []
    module.sed_teacher.register_forward_hook(lambda m, inputs, output: outputs.append(output))
    module.sed_student.cnn.register_forward_hook(lambda m, inputs, output: z.append(output))
    audio, labels = torch.randn(4, 8, 60), (torch.rand(4, 3, 30) > 0.5).float()
    plain = copy.deepcopy(module)
    plain.teacher_labels = None
    torch.manual_seed(1)
    alone = plain.training_step((audio, labels.clone()), 0)
    outputs.clear(), z.clear()
    torch.manual_seed(1)
    loss = module.training_step((audio, labels.clone()), 0)
    # In training mode, with the dropout of this very pass: there was no second one.
    assert (len(outputs), len(z)) == (1, 1)
    guessed, valid = pseudo_labels(
        outputs[0][rows].transpose(1, 2), threshold=0.45, band=0.03, median_window=3
    )
    assert 0 < guessed.mean() < 1
    assert 0 < valid.float().mean() < 1
    features = z[0].squeeze(-1).transpose(1, 2)[rows]
    expected = coherence_loss(features, guessed, 0.3, 0.2, valid=valid)
    assert expected != 0
    assert expected != 0
    torch.testing.assert_close(loss, alone + expected)


def logged(module, name):
    return [value for key, value in module.history if key == f"train/coherence/{name}"]


def test_pseudo_rows_come_in_after_the_warm_up_of_the_consistency(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = fit(Coherence, annealing_epochs=1)
    ours = fit(Coherence, annealing_epochs=1, pseudo=SURE)
    assert logged(ours, "pseudo_weight") == [0.0] * 5 + [0.25, 0.5, 0.75]
    terms = logged(ours, "pseudo_term")
    assert [value == 0 for value in terms] == [True] * 5 + [False] * 3
    assert logged(ours, "pseudo_frames") == [1.0] * 8
    assert 0 < max(logged(ours, "pseudo_boundary_rate")) < 1
    # The strong rows' term is as without them until they have changed the weights.
    assert logged(ours, "term")[:6] == logged(plain, "term")[:6]
    assert logged(ours, "term")[6:] != logged(plain, "term")[6:]
    assert {name for name, _ in ours.history} - {name for name, _ in plain.history} == {
        f"train/coherence/pseudo_{name}" for name in ("term", "weight", "frames", "boundary_rate")
    }


def test_a_pickled_module_has_the_labels_of_its_own_teacher():
    module = copy.deepcopy(Coherence(settings(pseudo=SURE)))
    module.sed_teacher(torch.randn(4, 8, 10))  # as a validation would
    batch = torch.randn(4, 8, 10), (torch.rand(4, 3, 5) > 0.5).float()
    module.training_step(batch, 0)
    assert module.teacher_labels.teacher is module.sed_teacher
    assert module.coherence.metrics["pseudo_frames"] == 1
    assert list(module.state_dict()) == list(Trainer(settings()).state_dict())


def test_pseudo_labels_without_a_teacher_are_refused():
    class Alone(Trainer):
        def __init__(self, settings):
            super().__init__(settings)
            self.sed_teacher = None

    class Both(CoherenceMixin, Alone):
        pass

    assert Both(settings()).teacher_labels is None
    with pytest.raises(ValueError, match="takes its labels from the teacher and Both has no"):
        Both(settings(pseudo={}))


def test_the_rows_of_the_sets_follow_each_other():
    assert rows_of([2, 1, 3]) == [slice(0, 2), slice(2, 3), slice(3, 6)]
    assert rows_of([5, 0, 0]) == [slice(0, 5), slice(5, 5), slice(5, 5)]


def test_settings_of_pseudo_labels():
    assert teacher_labels_of({}, TRAINING) == {
        "rows": slice(2, 4),
        "threshold": 0.5,
        "band": 0.05,
        "median_window": 3,
        "after": 1,
    }
    assert teacher_labels_of(PSEUDO, TRAINING) == teacher_labels_of({}, TRAINING)


@pytest.mark.parametrize(
    ("pseudo", "training", "message"),
    [
        (True, {}, r"coherence\.pseudo is True; give keys and values \(threshold, band, rows\)"),
        ({"row": ["weak"]}, {}, "coherence.pseudo: unknown key 'row'; the keys are: threshold"),
        ({"threshold": 2}, {}, "coherence.pseudo.threshold is 2; it must be"),
        ({"band": 0.7}, {}, "coherence.pseudo.band is 0.7"),
        ({"rows": "weak"}, {}, "coherence.pseudo.rows is 'weak'; give a list of one or both"),
        ({"rows": []}, {}, r"coherence\.pseudo\.rows is \[\]"),
        ({"rows": ["strong"]}, {}, r"rows is \['strong'\]"),
        ({"rows": ["weak", "weak"]}, {}, "rows is"),
        ({"rows": ["weak"]}, {"batch_size": [2, 0, 1]}, r"rows has 'weak' and .* \[2, 0, 1\] has"),
        ({}, {"batch_size": [2, 1, 1, 1]}, r"batch_size is \[2, 1, 1, 1\]; .* needs \[strong"),
        ({}, {"teacher": False}, "training.teacher is false; give training.teacher: true or leave"),
        ({}, {"teacher": "average"}, "training.teacher is average"),
    ],
)
def test_pseudo_settings_that_cannot_be_used(pseudo, training, message):
    with pytest.raises(ValueError, match=message):
        teacher_labels_of(pseudo, {**TRAINING, **training})


@pytest.mark.parametrize("key", ["n_epochs_warmup", "median_window"])
def test_pseudo_labels_need_settings_of_the_training(key):
    training = {name: value for name, value in TRAINING.items() if name != key}
    with pytest.raises(ValueError, match=f"coherence.pseudo needs training.{key}; add it"):
        teacher_labels_of({}, training)


def test_teacher_never_reaches_the_tap():
    module = Coherence(settings())
    module.sed_teacher(torch.randn(2, 8, 10))
    with pytest.raises(RuntimeError, match="no forward"):
        module.coherence.tap.pop()


def test_checkpoint_is_the_trainers_own():
    assert list(Coherence(settings()).state_dict()) == list(Trainer(settings()).state_dict())


def test_a_pickled_module_is_tapped_again():
    module = copy.deepcopy(Coherence(settings()))
    batch = torch.randn(4, 8, 10), (torch.rand(4, 3, 5) > 0.5).float()
    module.training_step(batch, 0)
    assert module.coherence.model is module.sed_student
    assert module.coherence.metrics["z_norm"] > 0


def test_a_skipped_step_and_a_dictionary_of_losses():
    class Skipping(Trainer):
        def training_step(self, batch, batch_indx):
            loss = super().training_step(batch, batch_indx)
            return None if batch_indx == 1 else {"loss": loss, "kept": 1}

    class Both(CoherenceMixin, Skipping):
        pass

    module = Both(settings(annealing_epochs=0))
    batch = torch.randn(4, 8, 10), (torch.rand(4, 3, 5) > 0.5).float()
    assert module.training_step(batch, 1) is None
    output = module.training_step(batch, 0)
    assert output["kept"] == 1
    assert output["loss"].requires_grad


def test_a_loss_that_is_not_finite_stops_the_run():
    module = Coherence(settings())
    with torch.no_grad():
        module.sed_student.cnn[0].weight.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="lower alpha1"):
        module.training_step((torch.rand(4, 8, 10), torch.zeros(4, 3, 5)), 0)


def test_manual_optimisation_is_shown_the_way_at_the_first_step():
    class Manual(Coherence):
        automatic_optimization = False

    module = Manual(settings())
    with pytest.raises(RuntimeError, match=r"CoherenceRegularizer in .*manual_backward"):
        module.training_step((torch.rand(4, 8, 10), torch.zeros(4, 3, 5)), 0)


def test_a_class_that_names_the_mixin_after_the_trainer_is_refused():
    with pytest.raises(TypeError, match=r"write class Wrong\(CoherenceMixin, Trainer\)"):

        class Wrong(Trainer, CoherenceMixin):
            pass

    class Part(CoherenceMixin):
        pass

    class Right(Part, Trainer):
        pass

    assert Right(settings()).coherence.tap.attached


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"alpha": 1}, "unknown key 'alpha'; the keys are: preset, alpha1, alpha2"),
        ({"preset": "step"}, "preset is 'step'; it must be one of exact, steps"),
        ({"preset": None}, "preset is None"),
        ({"annealing": "cosine"}, "annealing is 'cosine'"),
        ({"alpha1": -1}, "alpha1 is -1"),
        ({"lags": 4}, "lags is 4; it must be a list"),
        ({"path": "conv"}, "no submodule 'conv'"),
        ({"layout": "frames"}, "layout is 'frames'; it must be one letter an axis"),
    ],
)
def test_bad_section(section, message):
    with pytest.raises(ValueError, match=message):
        build_regularizer(Student(), section)


def test_defaults_are_the_papers():
    regularizer = build_regularizer(Student(), {})
    assert (regularizer.loss.alpha1, regularizer.loss.alpha2) == (0.1, 0.03)
    assert (regularizer.annealing(0), regularizer.annealing(2.5), regularizer.annealing(5)) == (
        0,
        0.5,
        1,
    )
    assert (regularizer.loss.lags, regularizer.loss.center) == ((1,), False)
    assert set(DEFAULTS) >= {"alpha1", "alpha2", "margin", "normalize", "path"}


def test_a_section_names_the_lags():
    section = {"lags": [1, 2, 4], "center": True, "normalize": True}
    loss = build_regularizer(Student(), section).loss
    assert (loss.lags, loss.center, loss.normalize) == ((1, 2, 4), True, True)


def test_a_preset_gives_what_the_section_does_not():
    steps = build_regularizer(Student(), {"preset": "steps", "alpha2": 0.1}).loss
    assert (steps.alpha1, steps.alpha2, steps.lags) == (0.3, 0.1, (1, 2, 4, 8))
    assert (steps.normalize, steps.center) == (True, True)
    exact = build_regularizer(Student(), {"preset": "exact"}).loss
    assert vars(exact) == vars(build_regularizer(Student(), {}).loss)
    # Two sections do not share the list.
    settings_of({"preset": "steps"})["lags"].append(16)
    assert settings_of({"preset": "steps"})["lags"] == [1, 2, 4, 8]
