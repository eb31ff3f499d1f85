"""Trials are told apart by their settings, run once, and go on where they were interrupted."""

import copy
import json
import shutil

import pandas as pd
import pytest
import torch

from lab.baseline.config import load_config
from lab.data.desed import official_layout
from lab.errors import InputError
from lab.runs import trials
from lab.runs.trials import Trial, read_record, run_trial, write_record


@pytest.fixture
def config(config_file):
    config = load_config(config_file)
    config["training"].update(n_epochs=1, batch_size=[2, 0, 0], teacher=False)
    config["scaler"]["savepath"] = None
    return config


@pytest.fixture
def trial(config, tmp_path):
    """A trial of some configuration; by default the baseline with this one."""

    def trial(name="baseline", arm=False, number=0, public=False, **changes):
        own = copy.deepcopy(config)
        for section, values in changes.items():
            own[section].update(values)
        return Trial(name, own, arm, number, tmp_path / name, public)

    return trial


def finish(trial, **more):
    """Leave behind what a finished trial does; returns its record."""
    scores = {"test/student/event_f1_macro": 0.25, "hp_metric": 0.5}
    record = {"settings": trial.settings(), "scores": scores, "checkpoint": "epoch=0.ckpt", **more}
    write_record(trial, record)
    return record


def test_paths_and_workers_do_not_make_another_run(trial):
    settings = trial().settings()
    elsewhere = trial(
        data={"weak_tsv": "/elsewhere.tsv", "weak_folder": "/weak"},
        training={"num_workers": 5},
        coherence={"alpha1": 0.7},  # of which the baseline has none
    )
    assert elsewhere.settings() == settings
    assert json.loads(json.dumps(settings)) == settings
    # Nor is the configuration itself touched.
    assert elsewhere.config["training"]["num_workers"] == 5


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"training": {"seed": 7}}, r"training\.seed was 1, is 7"),
        ({"soundscapes": {"seed": 1}}, r"soundscapes\.seed was 0, is 1"),
        ({"opt": {"lr": 0.5}}, r"opt\.lr was 0\.001, is 0\.5"),
        ({"training": {"batch_size": [3, 0, 0]}}, r"training\.batch_size was \[2, 0, 0\], is \[3,"),
        ({"number": 2}, r"number was 0, is 2"),
        ({"arm": True}, r"coherence was False, is True"),
    ],
)
def test_other_settings_are_refused_with_the_key(trial, change, difference):
    finish(trial())
    words = rf"baseline holds a run with other settings \({difference}.*\); give another --log_dir"
    for call in (read_record, run_trial):
        with pytest.raises(InputError, match=words) as error:
            call(trial(**change))
        assert "\n" not in str(error.value)
    # A setting that is gone makes another run, too.
    record = json.loads(trial().record.read_text())
    record["settings"]["config"]["opt"]["momentum"] = 0.9
    trial().record.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"opt\.momentum was 0\.9, is None"):
        read_record(trial())
    trial().record.write_text("{")
    with pytest.raises(InputError, match=r"trial\.json cannot be read .*; remove its folder"):
        read_record(trial())


def test_classes_of_a_table_are_the_same_setting_as_a_list_of_them(
    trial, own_config_file, own_classes
):
    paths = load_config(own_config_file)["data"]
    finish(trial(data=paths))
    record = json.loads(trial().record.read_text())["settings"]["config"]
    assert (record["data"]["classes"], record["net"]["nclass"]) == (own_classes, 6)
    assert "scores" in read_record(trial(data={**paths, "classes": own_classes}, net={"nclass": 6}))
    with pytest.raises(InputError, match=r"data\.classes was \['NA'"):
        read_record(trial(data={**paths, "classes": own_classes[::-1]}))


def test_a_finished_trial_is_not_run_again(trial, monkeypatch):
    monkeypatch.setattr(trials, "build", pytest.fail)
    assert finish(trial()) == run_trial(trial(), "cpu")


def test_a_trial_in_this_process(trial):
    reports = []
    # The public set is the validation's here.
    layout = {
        part: trial().config["data"][f"synth_val_{part}"] for part in ("folder", "tsv", "dur")
    }
    one = trial(
        arm=True, public=True, data={f"public_{part}": path for part, path in layout.items()}
    )
    record = run_trial(one, "cpu", report=lambda *content: reports.append(content))
    assert reports[-1][:2] == (1, 1)
    assert "test/student/event_f1_macro" in record["scores"].keys() & record["public_scores"].keys()
    assert read_record(one) == record
    assert (one.folder / record["checkpoint"]).exists()
    assert record["processes"] == 1
    assert record["processor"] == torch.backends.cpu.get_cpu_capability()
    assert record["torch"] == torch.__version__
    assert record["commit"]
    table = pd.read_csv(one.folder / "epochs.tsv", sep="\t")
    assert {"epoch", "loss", "val/obj_metric"} <= set(table)
    assert record["validation"] == pytest.approx(table["val/obj_metric"].max(), rel=1e-5)
    # Trained once: without the scores on the public set it is only tested.
    del record["public_scores"]
    write_record(one, record)
    written = (one.folder / "last.ckpt").stat().st_mtime_ns
    assert "public_scores" in run_trial(one, "cpu")
    assert (one.folder / "last.ckpt").stat().st_mtime_ns == written


def test_a_trial_that_diverges_is_a_sentence_and_not_finished(trial):
    one = trial(arm=True, coherence={"alpha1": 1e300, "annealing_epochs": 0})
    with pytest.raises(FloatingPointError, match="diverged") as error:
        run_trial(one, "cpu")
    assert "\n" not in str(error.value)
    assert set(read_record(one)) == {"settings", "data"}


@pytest.fixture
def tree(tmp_path, dataset):
    return shutil.copytree(dataset, tmp_path / "tree")


@pytest.fixture
def make(config_file, tree, tmp_path):
    """Make a trial of one epoch with clips of its own."""

    def make(**training):
        paths = official_layout(tree)
        paths.update({f"public_{part}": paths[f"test_{part}"] for part in ("folder", "tsv", "dur")})
        config = load_config(config_file, {"data": paths, "training": {"n_epochs": 1, **training}})
        return Trial("baseline", config, False, 0, tmp_path / "trial", True)

    return make


@pytest.mark.slow
def test_a_changed_test_set_is_tested_again_from_the_kept_checkpoint(make, tree):
    before = run_trial(make())
    table = tree / "metadata" / "validation" / "validation.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    written = (make().folder / "last.ckpt").stat().st_mtime_ns
    after = run_trial(make())
    assert after["data"]["training"] == before["data"]["training"]
    for part in ("test", "public"):
        assert after["data"][part] != before["data"][part]
    assert after["scores"] != before["scores"]
    assert after["scores"] == after["public_scores"]
    assert (make().folder / "last.ckpt").stat().st_mtime_ns == written


@pytest.mark.parametrize("part", ["synth", "weak", "unlabeled", "synth_val"])
def test_changed_training_data_are_refused(make, tree, part):
    finish(make(), data={"training": trials.set_digests(make().config)["training"]})
    trials.digest.cache_clear()
    if part == "unlabeled":
        folder = tree / "audio" / "train" / "unlabel_in_domain_16k"
        shutil.copy(folder / "1.wav", folder / "new.wav")
    elif part == "weak":
        other = tree / "audio" / "eval21_16k" / "b.wav"
        shutil.copy(other, official_layout(tree)["weak_folder"] + "/1.wav")
    else:
        with open(official_layout(tree)[f"{part}_tsv"], "a") as file:
            file.write("1.wav\t0.1\t0.2\tDog\n")
    with pytest.raises(InputError, match="holds a run on other training data"):
        run_trial(make())


def test_sets_that_are_not_used_may_change(make, tree):
    trial = make(batch_size=[2, 0, 0])
    finish(trial, data={"training": trials.set_digests(trial.config)["training"]})
    trials.digest.cache_clear()
    (tree / "metadata" / "train" / "weak.tsv").unlink()
    shutil.rmtree(tree / "audio" / "train" / "unlabel_in_domain_16k")
    assert "scores" in read_record(trial)
