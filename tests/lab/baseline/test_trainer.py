"""Training steps and validation, against what the official trainer logs."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, Dataset

from lab.baseline.crnn import CRNN
from lab.baseline.schedule import ExponentialWarmup
from lab.baseline.trainer import MeanTeacher
from lab.data.datasets import ConcatDatasetBatchSampler
from lab.data.labels import ManyHotEncoder

# Logged under another value than the official trainer's, on purpose.
CORRECTED = "train/student/tot_supervised"


class Items(Dataset):
    """A data set of ready items."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, item):
        return tuple(column[item] for column in self.columns)


class Recorded(MeanTeacher):
    """Keeps what is logged, and the magnitudes and labels of each step."""

    def log(self, name, value, *args, **kwargs):
        self.__dict__.setdefault("record", {}).setdefault(name, []).append(float(value))

    def training_step(self, batch, batch_indx):
        weak = batch[1][self.labelled_rows()[1]].clone()
        loss = super().training_step(batch, batch_indx)
        assert torch.equal(batch[1][self.labelled_rows()[1]], weak)
        self.keep("labels", batch[1])
        return loss

    def features(self, mels):
        self.keep("magnitudes", mels)
        return super().features(mels)

    def keep(self, name, value):
        self.__dict__.setdefault(name, []).append(value.clone())


class SameBatch(ConcatDatasetBatchSampler):
    """All clips in order, several times."""

    def __init__(self, rows, steps):
        super().__init__([rows], [rows])
        self.steps = steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        yield from [list(range(self.lengths[0]))] * self.steps


def train(inputs, folder, mixup, loss="mse", kind=Recorded, **changes):
    inputs.write_tables(folder)
    student = inputs.fill(CRNN(**inputs.NET))
    optimizer = inputs.make_optimizer(student)
    sound, labels = inputs.batch()
    val_sound, val_labels, names, _ = inputs.validation()
    hparams = inputs.hparams(folder, mixup, loss)
    hparams["training"].update(changes)
    module = kind(
        hparams,
        ManyHotEncoder(inputs.CLASSES, **inputs.ENCODER),
        student,
        opt=optimizer,
        train_data=ConcatDataset([Items(sound, labels, [1.0] * len(sound))]),
        valid_data=Items(val_sound, val_labels, [1.0] * 6, [f"{folder}/{n}" for n in names]),
        train_sampler=SameBatch(len(sound), inputs.STEPS),
        scheduler={
            "scheduler": ExponentialWarmup(optimizer, inputs.MAX_LR, inputs.RAMP),
            "interval": "step",
        },
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return module


@pytest.fixture(scope="module")
def soft(golden_inputs, tmp_path_factory):
    """A training as the official configuration has it."""
    return train(golden_inputs, tmp_path_factory.mktemp("soft"), "soft")


@pytest.fixture(scope="module")
def plain(golden_inputs, tmp_path_factory):
    """A training without mixup."""
    return train(golden_inputs, tmp_path_factory.mktemp("plain"), None)


@pytest.mark.parametrize(("mixup", "loss"), [("soft", "mse"), ("hard", "bce")])
def test_every_logged_value_is_the_official_one(
    golden_inputs, golden_json, tmp_path, soft, mixup, loss
):
    module = soft if mixup == "soft" else train(golden_inputs, tmp_path, mixup, loss)
    record = module.record
    official = golden_json["training"][f"{mixup}_{loss}"]
    assert set(record) == set(official)
    for name in set(official) - {CORRECTED}:
        assert record[name] == pytest.approx(official[name], abs=1e-5), name
    supervised = [
        strong + weak
        for strong, weak in zip(
            record["train/student/loss_strong"], record["train/student/loss_weak"]
        )
    ]
    assert record[CORRECTED] == pytest.approx(supervised)


def test_student_and_teacher_end_with_the_official_weights(golden, soft):
    state = soft.state_dict()
    trained = {k[len("trained/") :]: v for k, v in golden.items() if k.startswith("trained/")}
    assert len(trained) > 100
    for name, value in trained.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=2e-5, msg=name)


def turns(before, after):
    """By how many of its frames `before` was turned to become `after`, but for its level."""
    scale = after.sum() / before.sum()
    frames = range(before.size(-1))
    return {n for n in frames if torch.allclose(scale * before.roll(n, -1), after, rtol=1e-4)}


def test_clips_are_turned_with_their_labels_in_training_alone(golden_inputs, tmp_path, plain):
    other = train(golden_inputs, tmp_path, None, time_shift=1, gain=3)
    steps, frames = golden_inputs.STEPS, plain.labels[0].size(-1)
    all_turns = set()
    for step in range(steps):
        assert len(plain.magnitudes[step]) == len(plain.labels[step])
        for row in range(golden_inputs.BATCH[0]):
            sound = turns(*(m.magnitudes[step][row, :, : 4 * frames] for m in (plain, other)))
            label = turns(*(m.labels[step][row] for m in (plain, other)))
            assert {n // 4 for n in sound} <= label
            assert len(sound) == 1
            all_turns |= sound
    assert len(all_turns) > 3
    assert len(plain.magnitudes) > steps
    for ours, theirs in zip(plain.magnitudes[steps:], other.magnitudes[steps:]):
        assert torch.equal(ours, theirs)


def test_masked_bands_reach_student_and_teacher(golden_inputs, tmp_path, plain):
    masked = train(golden_inputs, tmp_path, None, frequency_mask=60)
    for name in ("train/student/loss_strong", "train/teacher/loss_strong"):
        assert masked.record[name][0] != pytest.approx(plain.record[name][0])


class Averaging(Recorded):
    """Keeps the student's states, the first one and those that the average takes in."""

    def on_train_start(self):
        self.keep_state()

    def on_before_zero_grad(self, optimizer):
        super().on_before_zero_grad(optimizer)
        self.keep_state()

    def keep_state(self):
        state = {name: value.clone() for name, value in self.sed_student.state_dict().items()}
        self.__dict__.setdefault("states", []).append(state)


def test_an_averaging_teacher_is_the_mean_of_the_students(golden_inputs, tmp_path):
    changes = {"teacher": "average", "ema_factor": 0.9}
    module = train(golden_inputs, tmp_path, None, kind=Averaging, **changes)
    logged = [name for name in module.record if name.startswith("train/")]
    assert not any("teacher" in name or "self_" in name for name in logged)
    average, *steps = module.states
    assert len(steps) == golden_inputs.STEPS
    for number, state in enumerate(steps, start=1):
        share = min(1 - 1 / (number + 1), 0.9)
        for name, value in state.items():
            average[name] = share * average[name] + (1 - share) * value
    for name, value in module.sed_teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6, msg=name)


def test_weak_labels_count_as_much_as_asked_for(golden_inputs, tmp_path):
    record = train(golden_inputs, tmp_path, None, weak_weight=0.25).record
    losses = (record[f"train/student/{name}"] for name in ("loss_strong", "loss_weak"))
    expected = [strong + 0.25 * weak for strong, weak in zip(*losses)]
    assert record[CORRECTED] == pytest.approx(expected)
