import copy
import math

import pytest
import torch
from torch import nn

from dcase_coherence import CoherenceMixin, TransitionLoss, coherence_loss
from dcase_coherence.lightning import HEADS, rows_of

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


def make_batch():
    return torch.randn(4, 8, 10), (torch.rand(4, 3, 5) > 0.5).float()


def logged(module, name):
    return [value for key, value in module.history if key == f"train/coherence/{name}"]


def fit(kind, epochs=2, max_steps=None, **coherence):
    torch.manual_seed(0)
    module = kind(settings(**coherence))
    options = {"logger": False, "num_sanity_val_steps": 0}
    options["limit_val_batches"] = 0 if max_steps else 1.0
    if pl.__version__ < "1.5":
        options.update(max_epochs=epochs or 1, max_steps=max_steps, weights_summary=None)
    else:
        quiet = ("checkpointing", "model_summary", "progress_bar")
        options.update({f"enable_{name}": False for name in quiet}, accelerator="cpu")
        options.update(max_epochs=epochs, max_steps=max_steps or -1)
    trainer = pl.Trainer(**options)
    torch.manual_seed(1)
    trainer.fit(module)
    return module


@pytest.mark.parametrize(
    "section",
    [
        {"alpha1": 0.0, "alpha2": 0.0},
        {"transition_weight": 0.0, "boundary_weight": 1.0},
        {"preset": "transitions", "transition_weight": 0.0},
    ],
)
def test_zero_weights_are_the_trainer_alone_bit_for_bit(tmp_path, monkeypatch, section):
    monkeypatch.chdir(tmp_path)
    plain = fit(Trainer)
    ours = fit(Coherence, **section)
    losses = [item for item in ours.history if "coherence" not in item[0]]
    assert losses == plain.history
    assert len(losses) == 8
    assert list(plain.state_dict()) == list(ours.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name])


def test_the_term_changes_training_and_is_logged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, ours = fit(Trainer), fit(Coherence, preset="exact", annealing_epochs=1)
    assert not torch.equal(plain.sed_student.dense.weight, ours.sed_student.dense.weight)
    assert logged(ours, "weight") == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    names = {name.split("/")[-1] for name, _ in ours.history if "coherence" in name}
    assert names == set(ours.coherence.metrics)


BOTH = {"preset": "transitions", "boundary_weight": 2}


@pytest.mark.parametrize(
    "section",
    [{"alpha1": 0.3, "alpha2": 0.2}, BOTH, {**BOTH, "alpha1": 0.3, "alpha2": 0.2}],
    ids=["z", "posteriors", "both"],
)
def test_loss_is_the_trainers_plus_the_terms_on_the_strong_rows_with_the_mixed_labels(section):
    torch.manual_seed(0)
    module = Coherence(settings(**section)).eval()
    audio, labels = make_batch()
    loss = module.training_step((audio, labels.clone()), 0)
    assert not torch.equal(module.seen, (module.seen > 0.5).float())
    module.sed_teacher(audio)  # which is not tapped
    expected = own = Trainer.training_step(module, (audio, labels), 0)
    z = module.sed_student.cnn(audio.transpose(1, 2).unsqueeze(1)).squeeze(-1).transpose(1, 2)[:2]
    if "alpha1" in section:
        expected = expected + coherence_loss(z, module.seen.transpose(1, 2), 0.3, 0.2)
    if "preset" in section:
        posteriors = module.sed_student(audio)[:2]
        term = TransitionLoss(5.0, boundary_weight=2.0, dim=-1)
        expected = expected + term(posteriors, module.seen)
    torch.testing.assert_close(loss, expected)
    assert logged(module, "term")[0] == pytest.approx(float((expected - own).detach()), rel=1e-4)


def test_the_rows_of_the_sets_follow_each_other():
    assert rows_of([5, 0, 2]) == [slice(0, 5), slice(5, 5), slice(5, 7)]


def test_a_copied_module_is_tapped_again():
    module = copy.deepcopy(Coherence(settings(preset="exact", annealing_steps=3)))
    module.training_step(make_batch(), 0)
    assert module.coherence[0].model is module.sed_student
    assert module.coherence[0].metrics["z_norm"] > 0
    assert module.coherence.annealing_steps == 3


def test_a_skipped_step_and_a_dictionary_of_losses():
    class Skipping(Trainer):
        def training_step(self, batch, batch_indx):
            loss = super().training_step(batch, batch_indx)
            return None if batch_indx == 1 else {"loss": loss, "kept": 1}

    class Both(CoherenceMixin, Skipping):
        pass

    module = Both(settings(preset="exact", annealing_epochs=0))
    assert module.training_step(make_batch(), 1) is None
    output = module.training_step(make_batch(), 0)
    assert output["kept"] == 1
    assert output["loss"].requires_grad


def test_a_loss_that_is_not_finite_stops_the_run():
    module = Coherence(settings(preset="exact"))
    with torch.no_grad():
        module.sed_student.cnn[0].weight.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="lower alpha1"):
        module.training_step(make_batch(), 0)


def test_manual_optimisation_is_shown_the_way_at_the_first_step():
    class Manual(Coherence):
        automatic_optimization = False

    with pytest.raises(RuntimeError, match=r"CoherenceRegularizer in .*manual_backward"):
        Manual(settings(preset="exact")).training_step(make_batch(), 0)


def test_a_class_that_names_the_mixin_after_the_trainer_is_refused():
    with pytest.raises(TypeError, match=r"write class Wrong\(CoherenceMixin, Trainer\)"):

        class Wrong(Trainer, CoherenceMixin):
            pass

    class Part(CoherenceMixin):
        pass

    class Right(Part, Trainer):
        pass

    assert Right(settings(preset="exact")).coherence[0].tap.attached


def test_a_head_is_trained_and_stays_out_of_the_networks_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class WithNet(Coherence):
        @property
        def hparams(self):
            return {**self.settings, "net": {"nb_filters": [4], "nclass": 3}}

    torch.manual_seed(0)
    before = getattr(WithNet(settings(**BOTH, head=True)), HEADS).state_dict()
    ours = fit(WithNet, **BOTH, head=True)
    after = getattr(ours, HEADS).state_dict()
    assert not torch.equal(before["0.head.weight"], after["0.head.weight"])
    checkpoint = {"state_dict": ours.state_dict()}
    ours.on_save_checkpoint(checkpoint)
    Trainer(settings()).load_state_dict(checkpoint["state_dict"])
    again = WithNet(settings(**BOTH, head=True))
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(getattr(again, HEADS)[0].head.weight, after["0.head.weight"])
    # The random numbers of the training are those of the trainer alone.
    zero = fit(Trainer)
    assert zero.history[0] == ours.history[0]


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        while True:
            yield torch.randn(8, 10, generator=generator), torch.ones(3, 5).cumsum(1).gt(2).float()


@pytest.mark.parametrize(
    ("section", "max_steps", "weights"),
    [
        ({}, 40, [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]),  # a tenth of them
        ({"annealing_steps": 2}, 40, [0.0, 0.5, 1.0, 1.0]),
        ({"annealing_steps": 0}, 40, [1.0, 1.0]),
    ],
)
def test_where_there_are_no_epochs_the_ramp_counts_steps(
    tmp_path, monkeypatch, section, max_steps, weights
):
    monkeypatch.chdir(tmp_path)

    class Stream(Coherence):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(Endless(), batch_size=4)

    module = fit(Stream, epochs=None, max_steps=max_steps, preset="steps", **section)
    assert logged(module, "weight")[: len(weights)] == pytest.approx(weights)
    assert len(logged(module, "weight")) == max_steps


class Own(pl.LightningModule):
    """A module of one's own: frames before classes, no student and no batch sizes."""

    def __init__(self, **hparams):
        super().__init__()
        self.save_hyperparameters(hparams)
        self.dense = nn.Linear(4, 3)
        self.losses = []

    def forward(self, features):
        return torch.sigmoid(self.dense(features))

    def training_step(self, batch, batch_indx):
        self.losses.append(nn.functional.binary_cross_entropy(self(batch[0]), batch[1]))
        return self.losses[-1]

    def log(self, name, value, **options):
        pass


OWN = torch.randn(4, 20, 4), (torch.rand(4, 20, 3) > 0.5).float()
SECTION = {"preset": "transitions", "posteriors_layout": "btd"}


def test_a_module_of_ones_own_is_told_what_the_mixin_needs():
    class Bare(CoherenceMixin, Own):
        pass

    with pytest.raises(TypeError, match=r"Bare: .*sed_student.*batch_size.*strong_labels") as error:
        Bare(coherence=SECTION)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", ["btd", "bdt"])  # the second reads both the wrong way
def test_labels_in_the_other_layout_are_told_what_to_override(layout):
    class Bare(CoherenceMixin, Own):
        pass

    module = Bare(coherence={**SECTION, "posteriors_layout": layout}, training=TRAINING)
    with pytest.raises(ValueError, match=r"labels have .*override strong_labels\(batch\)"):
        module.training_step(OWN, 0)


def test_with_strong_labels_of_its_own_a_module_needs_nothing_else():
    class Told(CoherenceMixin, Own):
        def strong_labels(self, batch):
            return slice(0, 2), batch[1][:2]

    module = Told(coherence=SECTION)
    loss = module.training_step(OWN, 0)
    term = TransitionLoss(5.0)(module(OWN[0])[:2], OWN[1][:2])
    torch.testing.assert_close(loss, module.losses[0] + term)
