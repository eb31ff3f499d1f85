"""What a trial's record lets through: changed data, more epochs, records of before."""

import json
import shutil

import pytest
import torch

from dcase_coherence.baseline.config import load_config
from dcase_coherence.data.desed import official_layout
from dcase_coherence.runs.alphas import refuse_cells_of_other_data
from dcase_coherence.runs.trials import Trial, run_trial, run_trials
from dcase_coherence.system.errors import InputError


@pytest.fixture
def tree(tmp_path, dataset):
    return shutil.copytree(dataset, tmp_path / "tree")


@pytest.fixture
def make(config_file, tree, tmp_path):
    """Make a trial of two epochs, with other settings and in another folder where asked."""

    def make(folder="trial", public=False, **training):
        paths = official_layout(tree)
        paths.update({f"public_{part}": paths[f"test_{part}"] for part in ("folder", "tsv", "dur")})
        config = load_config(config_file, {"data": paths, "training": {"n_epochs": 2, **training}})
        return Trial("baseline 1", config, False, 0, tmp_path / folder, public)

    return make


def change_test_set(tree):
    path = tree / "metadata" / "validation" / "validation.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))


def weights(trial):
    return torch.load(trial.folder / "last.ckpt", weights_only=True)


def test_a_changed_test_set_is_tested_again_from_the_kept_checkpoint(make, tree, capsys):
    trial = make(public=True)
    first = run_trial(trial)
    before = weights(trial)["state_dict"]
    assert run_trial(trial) == first
    assert "tested again" not in capsys.readouterr().err
    change_test_set(tree)
    again = run_trial(trial)
    said = capsys.readouterr().err
    for name in ("test", "public"):
        assert f"baseline 1: the {name} set changed since it was tested; epoch=" in said
        score = f"{name}/teacher/event_f1_micro"
        assert again[score] != first[score]
    assert all(torch.equal(before[k], v) for k, v in weights(trial)["state_dict"].items())
    # As a new trial on these data.
    assert again == run_trial(make("other", public=True))
    assert run_trial(trial) == again
    assert capsys.readouterr().err == ""
    # A clip of another size is another set, too; one that is gone is not there to be compared.
    clip = tree / "audio" / "validation" / "validation_16k" / "1.wav"
    content = clip.read_bytes()
    shutil.copy(tree / "audio" / "eval21_16k" / "b.wav", clip)
    run_trials([trial], gpus="cpu", progress=False)
    record = json.loads(trial.record.read_text())
    clip.write_bytes(content)
    run_trial(trial)
    assert json.loads(trial.record.read_text())["data"]["test"] != record["data"]["test"]
    clip.unlink()
    assert run_trial(trial) == again


@pytest.mark.parametrize("part", ["synth", "weak", "unlabeled", "synth_val"])
def test_changed_training_data_are_refused(make, tree, tmp_path, part):
    trial = make(n_epochs=1)
    scores = run_trial(trial)
    if part == "unlabeled":
        folder = tree / "audio" / "train" / "unlabel_in_domain_16k"
        shutil.copy(folder / "1.wav", folder / "new.wav")
    else:
        table = official_layout(tree)[f"{part}_tsv"]
        with open(table, "a") as file:
            file.write("1.wav\t0.1\t0.2\tDog\n" if part != "weak" else "")
        if part == "weak":
            shutil.copy(
                tree / "audio" / "eval21_16k" / "b.wav",
                official_layout(tree)["weak_folder"] + "/1.wav",
            )
    with pytest.raises(InputError, match="holds a run on other training data"):
        run_trial(trial)
    with pytest.raises(InputError, match="holds a run on other training data"):
        run_trials([trial], gpus="cpu", progress=False)
    grid = tmp_path / "grid" / "alpha1=1_alpha2=1"
    shutil.copytree(trial.folder, grid / "trial_0")
    with pytest.raises(InputError, match="holds a run on other training data"):
        refuse_cells_of_other_data(trial.config, grid.parent)
    # A record of before there were digests is taken as it is.
    record = json.loads(trial.record.read_text())
    del record["data"]
    trial.record.write_text(json.dumps(record))
    assert run_trial(trial) == scores


def test_sets_that_are_not_used_may_change(make, tree):
    trial = make(n_epochs=1, batch_size=[2, 0, 0])
    scores = run_trial(trial)
    (tree / "metadata" / "train" / "weak.tsv").unlink()
    shutil.rmtree(tree / "audio" / "train" / "unlabel_in_domain_16k")
    assert run_trial(trial) == scores


def test_more_epochs_prolong_a_run(make):
    run_trials([make(n_epochs=1)], gpus="cpu", progress=False)
    prolonged = make(n_epochs=3)
    scores = run_trials([prolonged], gpus="cpu", progress=False)[0]
    whole = make("whole", n_epochs=3)
    assert scores == run_trials([whole], gpus="cpu", progress=False)[0]
    ours, theirs = weights(prolonged), weights(whole)
    assert ours["epoch"] == 2
    assert all(torch.equal(ours["state_dict"][k], v) for k, v in theirs["state_dict"].items())
    tables = [(trial.folder / "epochs.tsv").read_text() for trial in (prolonged, whole)]
    assert tables[0] == tables[1]
    with pytest.raises(InputError, match=r"training\.n_epochs was 3, is 2"):
        run_trial(make(n_epochs=2))


def test_what_patience_ended_goes_on_with_more_of_it_alone(make, capsys):
    # The score of one epoch is never beaten: the tables of the validation are out of its reach.
    settings = {"early_stop_patience": 1, "obj_metric_synth_type": "event", "batch_size": [2, 0, 3]}
    trial = make(n_epochs=6, **settings)
    scores = run_trial(trial)
    ended = weights(trial)["epoch"]
    assert ended < 5
    longer = make(n_epochs=9, **settings)
    assert run_trials([longer], gpus="cpu", progress=False) == [scores]
    assert "more epochs change nothing" in capsys.readouterr().err
    assert weights(longer)["epoch"] == ended
    patient = make(n_epochs=6, **{**settings, "early_stop_patience": 6})
    run_trial(patient)
    assert weights(patient)["epoch"] == 5
    # Less of it is another run.
    with pytest.raises(InputError, match="early_stop_patience was 6, is 2"):
        run_trial(make(n_epochs=6, **{**settings, "early_stop_patience": 2}))


def test_a_schedule_over_all_epochs_cannot_be_prolonged(make):
    trial = make(n_epochs=1)
    trial.config["opt"]["schedule"] = "cosine"
    run_trial(trial)
    longer = make(n_epochs=2)
    longer.config["opt"]["schedule"] = "cosine"
    words = r"a run of 1 epochs that cannot be prolonged, as opt\.schedule is cosine"
    with pytest.raises(InputError, match=words):
        run_trial(longer)
