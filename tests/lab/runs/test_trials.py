"""Trials are run once, told apart by their settings, and do not take each other down."""

import copy
import json
import multiprocessing
import shutil
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lab.baseline.config import load_config
from lab.data.desed import CLASSES, official_layout
from lab.errors import RESUME_ME, InputError, Stopped
from lab.runs import trials
from lab.runs.trials import (
    Trial,
    read_record,
    run_trial,
    run_trials,
    scores_of,
    write_record,
)


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
    """Leave behind what a finished trial does; returns its scores."""
    scores = {"test/student/event_f1_macro": 0.25, "hp_metric": 0.5}
    write_record(trial, {"scores": scores, "checkpoint": "epoch=0.ckpt", **more})
    return scores


def test_paths_and_workers_do_not_make_another_run(trial):
    settings = trial().settings()
    elsewhere = trial(
        data={"synth_tsv": "/elsewhere.tsv", "packed": True, "weak_folder": "/weak"},
        training={"num_workers": 5},
    )
    assert elsewhere.settings() == settings
    assert json.loads(json.dumps(settings)) == settings
    # Nor is the configuration itself touched.
    assert elsewhere.config["training"]["num_workers"] == 5


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 7}},
        {"net": {"dropout": 0.3}},
        {"data": {"audio_max_len": 2}},
        {"data": {"test_folder": "/another/test"}},
        {"soundscapes": {"seed": 1}},
    ],
)
def test_what_makes_another_run(trial, change):
    assert trial(**change).settings() != trial().settings()


def test_number_and_arm_make_another_run_and_the_baseline_has_no_coherence(trial):
    assert trial(number=1).settings() != trial().settings()
    assert trial(arm=True).settings() != trial().settings()
    other = {"coherence": {"alpha1": 0.7}}
    assert trial(**other).settings() == trial().settings()
    assert trial(arm=True, **other).settings() != trial(arm=True).settings()


def test_a_new_trial_has_an_empty_record(trial):
    assert read_record(trial()) == {}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"opt": {"lr": 0.5}}, r"opt\.lr was 0\.001, is 0\.5"),
        ({"training": {"batch_size": [3, 0, 0]}}, r"training\.batch_size was \[2, 0, 0\], is \[3,"),
        ({"number": 2}, r"number was 0, is 2"),
        ({"arm": True}, r"coherence was False, is True"),
    ],
)
def test_other_settings_are_refused_with_the_key(trial, change, difference):
    finish(trial())
    said = rf"baseline holds a run with other settings \({difference}.*\); give another --log_dir"
    for call in (read_record, run_trial, lambda other: run_trials([other])):
        with pytest.raises(InputError, match=said) as error:
            call(trial(**change))
        assert "\n" not in str(error.value)


def test_a_setting_that_came_later_had_its_default(trial):
    finish(trial(arm=True))
    record = json.loads(trial(arm=True).record.read_text())
    del record["settings"]["config"]["coherence"]["lags"]
    del record["settings"]["config"]["training"]["boundary_weight"]
    trial(arm=True).record.write_text(json.dumps(record))
    assert scores_of(trial(arm=True), read_record(trial(arm=True)))
    with pytest.raises(InputError, match=r"coherence\.lags was \[1\], is \[1, 2\]"):
        read_record(trial(arm=True, coherence={"lags": [1, 2]}))


def test_records_of_before_there_were_classes_are_of_desed_s(trial, own_classes):
    finish(trial())
    record = json.loads(trial().record.read_text())
    assert record["settings"]["config"]["data"].pop("classes") == list(CLASSES)
    trial().record.write_text(json.dumps(record))
    assert scores_of(trial(), read_record(trial()))
    assert scores_of(trial(), read_record(trial(data={"classes": list(CLASSES)})))
    with pytest.raises(InputError, match=r"data\.classes was \['Alarm_bell_r.* is \['car_horn'"):
        read_record(trial(data={"classes": own_classes}))


def test_classes_of_a_table_are_the_same_setting_as_a_list_of_them(
    trial, own_config_file, own_classes
):
    paths = load_config(own_config_file)["data"]
    finish(trial(data=paths))
    record = json.loads(trial().record.read_text())["settings"]["config"]
    assert (record["data"]["classes"], record["net"]["nclass"]) == (own_classes, 6)
    assert "scores" in read_record(trial(data={**paths, "classes": own_classes}, net={"nclass": 6}))
    with pytest.raises(InputError, match=r"data\.classes was \['car_horn'"):
        read_record(trial(data={**paths, "classes": own_classes[::-1]}))
    # Data that are no longer there are not held against a run.
    assert "scores" in read_record(trial(data={**paths, "synth_tsv": "/nowhere.tsv"}))


def test_a_setting_that_is_gone_makes_another_run(trial):
    finish(trial())
    record = json.loads(trial().record.read_text())
    record["settings"]["config"]["opt"]["momentum"] = 0.9
    trial().record.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"opt\.momentum was 0\.9, is None"):
        read_record(trial())


@pytest.mark.parametrize("content", ["", "{", "[1,"])
def test_a_damaged_record_is_named(trial, content):
    finish(trial())
    trial().record.write_text(content)
    with pytest.raises(InputError, match=r"trial\.json cannot be read .*; remove its folder"):
        read_record(trial())


def test_scores_in_a_record(trial):
    assert scores_of(trial(), {}) is None
    assert scores_of(trial(), {"settings": {}}) is None
    assert scores_of(trial(), {"scores": {"test/a": 1.0}}) == {"test/a": 1.0}


def test_scores_of_a_public_set_are_of_that_set(trial):
    one = trial(public=True, data={"public_folder": "/public"})
    record = {"scores": {"test/a": 1.0}}
    assert scores_of(one, record) is None
    record["public"] = {"folder": "/public", "scores": {"public/a": 0.5}}
    assert scores_of(one, record) == {"test/a": 1.0, "public/a": 0.5}
    assert scores_of(trial(public=True, data={"public_folder": "/other"}), record) is None
    assert scores_of(trial(), record) == {"test/a": 1.0}


def test_finished_trials_are_kept_and_no_process_is_started(trial, monkeypatch):
    monkeypatch.setattr(trials, "start", pytest.fail)
    monkeypatch.setattr(trials, "build", pytest.fail)
    both = [trial("one"), trial("two", number=1)]
    scores = [finish(one) for one in both]
    assert run_trials(both, gpus="cpu") == scores
    assert run_trial(both[0], "cpu") == scores[0]


def test_a_trial_in_this_process(trial):
    said = []
    # The public set is the validation's here.
    layout = {
        part: trial().config["data"][f"synth_val_{part}"] for part in ("folder", "tsv", "dur")
    }
    one = trial(
        arm=True, public=True, data={f"public_{part}": path for part, path in layout.items()}
    )
    scores = run_trial(one, "cpu", report=lambda *content: said.append(content))
    assert said[-1][:2] == (1, 1)
    assert {"test/student/event_f1_macro", "public/student/event_f1_macro"} < set(scores)
    assert [name for name in scores if "hp_metric" in name] == ["hp_metric"]
    record = read_record(one)
    assert scores_of(one, record) == scores
    assert (one.folder / record["checkpoint"]).exists()
    assert record["processes"] == 1
    assert record["processor"] == torch.backends.cpu.get_cpu_capability()
    assert record["torch"] == torch.__version__
    table = pd.read_csv(one.folder / "epochs.tsv", sep="\t")
    assert {"epoch", "loss", "z_norm", "val/obj_metric"} <= set(table)
    # Tested on another public set: the training is not done again.
    other = one._replace(
        config={**one.config, "data": {**one.config["data"], "public_folder": "/nowhere"}}
    )
    with pytest.raises(InputError, match="nowhere"):
        run_trial(other, "cpu")
    assert scores_of(one, read_record(one)) == scores


DIVERGING = {"alpha1": 1e300, "annealing_epochs": 0}


def test_a_trial_that_diverges_is_a_sentence_and_not_finished(trial):
    one = trial(arm=True, coherence=DIVERGING)
    with pytest.raises(FloatingPointError, match="diverged") as error:
        run_trial(one, "cpu")
    assert "\n" not in str(error.value)
    assert set(read_record(one)) == {"settings", "torch", "data"}


def test_trials_in_the_processes_of_one_training_name_the_one_that_failed(trial, monkeypatch):
    def fail(one, *arguments, **options):
        if one.name == "second":
            raise FloatingPointError("the training loss is nan")
        return finish(one)

    monkeypatch.setattr(trials, "run_trial", fail)
    both = [trial(name, training={"backend": "ddp"}) for name in ("first", "second")]
    assert run_trials(both[:1]) == [finish(both[0])]
    with pytest.raises(InputError, match=r"^second: the training loss is nan$"):
        run_trials(both)


@pytest.mark.slow
def test_a_trial_that_fails_leaves_the_others_finished(trial, tmp_path):
    broken = trial("broken", data={"synth_tsv": str(tmp_path / "nowhere.tsv")})
    diverging = trial("diverging", arm=True, coherence=DIVERGING)
    good = trial("good")
    with pytest.raises(InputError, match=r"^broken: \S+nowhere\.tsv does not exist") as error:
        run_trials([broken, good], gpus="cpu", progress=False)
    assert "\n" not in str(error.value)
    scores = scores_of(good, read_record(good))
    assert scores
    written = good.record.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"^diverging: .* diverged; lower alpha1") as error:
        run_trials([good, diverging], gpus="cpu", progress=False)
    assert "\n" not in str(error.value)
    assert good.record.stat().st_mtime_ns == written
    # What was wrong is put right: the trial is run, the other is not.
    mended = broken._replace(config=good.config)
    found = run_trials([mended, good], gpus="cpu", progress=False)
    assert found == [scores_of(mended, read_record(mended)), scores]
    assert good.record.stat().st_mtime_ns == written
    # The same seed and settings: the same scores.
    assert found[0] == scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strike", "expected", "words"),
    [("kill", RuntimeError, "baseline: ended with exit code -9"), ("terminate", Stopped, None)],
)
def test_a_process_that_is_killed_or_told_to_stop(trial, strike, expected, words):
    before = multiprocessing.active_children()

    def wait_and_strike():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for child in set(multiprocessing.active_children()) - set(before):
                getattr(child, strike)()
                return
            time.sleep(0.05)

    striker = threading.Thread(target=wait_and_strike)
    striker.start()
    with pytest.raises(expected, match=words) as error:
        run_trials([trial()], gpus="cpu", progress=False)
    striker.join()
    if expected is Stopped:
        assert (error.value.code, error.value.what) == (RESUME_ME, "baseline was told to stop")


def test_lines_tell_how_far_it_is_and_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(trials.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(trials.sys.stderr, "isatty", lambda: False, raising=False)
    display = trials.Display([SimpleNamespace(name="baseline 1")], progress=True)
    # Resumed after four epochs: what was trained before says nothing about the pace.
    for quarter in range(17, 41):
        now[0] += 15
        display.show(0, quarter / 4, 10, "loss 0.500")
    display.close()
    assert capsys.readouterr().err.splitlines() == [
        "baseline 1: epoch 4.25 of 10, loss 0.500",
        "baseline 1: epoch 5 of 10, loss 0.500, 05:00 left",
        "baseline 1: epoch 6 of 10, loss 0.500, 04:00 left",
        "baseline 1: epoch 7 of 10, loss 0.500, 03:00 left",
        "baseline 1: epoch 8 of 10, loss 0.500, 02:00 left",
        "baseline 1: epoch 9 of 10, loss 0.500, 01:00 left",
        "baseline 1: epoch 10 of 10, loss 0.500",
    ]


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("part", ["synth", "weak", "unlabeled", "synth_val"])
def test_changed_training_data_are_refused(make, tree, tmp_path, part):
    pytest.importorskip("optuna", reason="needs pip install '.[tune]'")
    from lab.runs.alphas import refuse_cells_of_other_data

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


@pytest.mark.slow
def test_sets_that_are_not_used_may_change(make, tree):
    trial = make(n_epochs=1, batch_size=[2, 0, 0])
    scores = run_trial(trial)
    (tree / "metadata" / "train" / "weak.tsv").unlink()
    shutil.rmtree(tree / "audio" / "train" / "unlabel_in_domain_16k")
    assert run_trial(trial) == scores


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_schedule_over_all_epochs_cannot_be_prolonged(make):
    trial = make(n_epochs=1)
    trial.config["opt"]["schedule"] = "cosine"
    run_trial(trial)
    longer = make(n_epochs=2)
    longer.config["opt"]["schedule"] = "cosine"
    words = r"a run of 1 epochs that cannot be prolonged, as opt\.schedule is cosine"
    with pytest.raises(InputError, match=words):
        run_trial(longer)
