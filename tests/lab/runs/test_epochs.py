"""The table of a training's epochs: means of batches, validations, and a resumed run."""

from types import SimpleNamespace

import pandas as pd
import pytest

from lab.runs.epochs import EpochTable, mean_epochs, read_epochs

NAN = float("nan")


def trainer_at(epoch, objective=0.5, interval=1, first=True):
    return SimpleNamespace(
        current_epoch=epoch,
        max_epochs=4,
        num_training_batches=2,
        check_val_every_n_epoch=interval,
        is_global_zero=first,
        callback_metrics={"val/obj_metric": objective, "train/loss": 9.0},
    )


def train(table, trainer, *losses, monitor=None):
    """An epoch with a batch for each loss."""
    module = SimpleNamespace(coherence=None)
    for index, loss in enumerate(losses):
        if monitor:
            module.coherence = SimpleNamespace(metrics={"z_norm": monitor[index]})
        table.on_train_batch_end(trainer, module, {"loss": loss}, None, index)
    table.on_train_epoch_end(trainer, module)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trial" / "epochs.tsv"


def read(path):
    return pd.read_csv(path, sep="\t")


def test_means_of_the_losses_and_the_monitor_beside_the_validation(path):
    table = EpochTable(path)
    table.on_train_start(trainer_at(0), None)
    train(table, trainer_at(0, 0.25), 1.0, 3.0, monitor=[2.0, 4.0])
    # A batch without any boundary has no distance there.
    train(table, trainer_at(1, 0.75), 0.5, 1.5, monitor=[NAN, 1.0])
    # One of several processes writes.
    train(EpochTable(path.with_name("other.tsv")), trainer_at(0, first=False), 1.0)
    assert not path.with_name("other.tsv").exists()
    result = read(path)
    assert list(result) == ["epoch", "loss", "z_norm", "val/obj_metric"]
    assert result.to_numpy().tolist() == [[0, 2.0, 3.0, 0.25], [1, 1.0, 1.0, 0.75]]


def test_an_epoch_without_a_validation_has_an_empty_cell(path):
    table = EpochTable(path)
    # Lightning still holds the scores of the validation before.
    train(table, trainer_at(0, interval=2), 1.0)
    train(table, trainer_at(1, 0.5, interval=2), 1.0)
    train(table, trainer_at(2, 0.5, interval=2), 1.0)
    assert read(path)["val/obj_metric"].isna().tolist() == [True, False, True]


def test_a_resumed_run_goes_on_in_the_table(path):
    table = EpochTable(path)
    for epoch in range(3):
        train(table, trainer_at(epoch, 0.1 * epoch), float(epoch), monitor=[1.0])
    # It was killed before the checkpoint of the second epoch.
    resumed = EpochTable(path)
    resumed.on_train_start(trainer_at(1), None)
    train(resumed, trainer_at(1, 0.9), 7.0, monitor=[5.0])
    result = read(path)
    assert result["epoch"].tolist() == [0, 1]
    assert result["loss"].tolist() == [0.0, 7.0]
    assert result["val/obj_metric"].tolist() == [0.0, 0.9]
    # A new run begins the table anew.
    table = EpochTable(path)
    table.on_train_start(trainer_at(0), None)
    train(table, trainer_at(0), 1.0)
    assert read(path)["epoch"].tolist() == [0]


def test_progress_is_told_after_batches_and_epochs(path):
    output = []
    table = EpochTable(path, lambda *what: output.append(what))
    train(table, trainer_at(1, 0.25), 1.0, 2.0)
    assert output == [
        (1.5, 4, "loss 1.000"),
        (2.0, 4, "loss 2.000"),
        (2, 4, "loss 1.500, validation 0.250"),
    ]


def test_tables_are_read_and_averaged_over_trials(tmp_path):
    for name, losses in (("a", [1.0, 2.0]), ("b", [3.0, 4.0, 5.0])):
        table = EpochTable(tmp_path / name / "epochs.tsv")
        for epoch, loss in enumerate(losses):
            train(table, trainer_at(epoch), loss)
    # One that diverged in its first epoch has no table.
    folders = [tmp_path / name for name in ("a", "none", "b")]
    assert [list(read_epochs(folder).index) for folder in folders] == [[0, 1], [], [0, 1, 2]]
    # The last epoch is that of the one trial which got there.
    assert mean_epochs(folders)["loss"].tolist() == [2.0, 3.0, 5.0]
    assert mean_epochs([tmp_path / "none"]).empty
