"""From a configuration to scores; an interrupted run ends like one that was not."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.baseline.config import load_config
from lab.baseline.experiment import CoherenceMeanTeacher, build
from lab.data.annotations import read_strong_tsv
from lab.data.desed import official_layout
from lab.errors import InputError
from lab.evaluation.posteriors import load_posteriors


class Kill(pl.Callback):
    """Kills the process as the operating system would, after some steps."""

    def __init__(self, step, moment):
        self.step = step
        setattr(self, moment, self.strike)

    def strike(self, trainer, *args, **kwargs):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(config, folder, kill=None, **arguments):
    torch.set_num_threads(1)
    experiment = build(config, log_dir=folder, **arguments)
    if kill:
        experiment.trainer.callbacks.insert(0, Kill(*kill))
    experiment.fit()
    return experiment


def fit_and_die(config, folder, kill, **arguments):
    process = multiprocessing.get_context("fork").Process(
        target=fit, args=(config, folder, kill), kwargs=arguments
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def checkpoint(experiment):
    return torch.load(experiment.folder / "last.ckpt", weights_only=True)


def assert_same(ours, theirs, where=""):
    """Equal to the bit, all through."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def without_paths(state, folder):
    """A checkpoint's contents with its folder's name taken out."""
    if isinstance(state, dict):
        return {
            without_paths(key, folder): without_paths(value, folder) for key, value in state.items()
        }
    return state.replace(str(folder), "") if isinstance(state, str) else state


@pytest.fixture
def config(config_file):
    return load_config(config_file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coherence", "kill"),
    # In the second batch, and in the validation, of the second epoch of three batches.
    [(True, (5, "on_train_batch_end")), (False, (6, "on_validation_batch_end"))],
)
def test_killed_and_resumed_equals_uninterrupted(config, tmp_path, coherence, kill):
    config["data"]["keep_mels"] = coherence
    if coherence:
        config["training"].update(time_shift=5, gain=3, equaliser=6, frequency_mask=4)
        config["opt"]["schedule"] = "cosine"
        # A head is trained, too.
        config["coherence"].update(transition_weight=5.0, boundary_weight=2.0, head=True)
    whole = fit(config, tmp_path / "whole", coherence=coherence)
    fit_and_die(config, tmp_path / "killed", kill, coherence=coherence)
    # Found again elsewhere: the folder may have been moved before going on.
    shutil.move(tmp_path / "killed", tmp_path / "moved")
    last = tmp_path / "moved" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 0
    np.random.rand(5), torch.rand(5)
    resumed = fit(config, tmp_path / "elsewhere", coherence=coherence, resume=last)
    assert resumed.folder == last.parent
    ours, theirs = checkpoint(resumed), checkpoint(whole)
    for state, experiment in ((ours, resumed), (theirs, whole)):
        del state["loops"]
        state["callbacks"] = without_paths(state["callbacks"], experiment.folder)
        for callback in state["callbacks"].values():
            # Lightning writes it and does not read it.
            callback.pop("current_score", None)
        state["hyper_parameters"].pop("log_dir")
    assert_same(ours, theirs)
    assert resumed.best.name == whole.best.name
    assert resumed.test() == whole.test()


def test_a_finished_run_resumes_to_its_end(config, tmp_path):
    config["training"]["n_epochs"] = 1
    whole = fit(config, tmp_path, coherence=False)
    resumed = fit(config, tmp_path, coherence=False, resume=whole.folder / "last.ckpt")
    assert resumed.best == whole.best
    assert resumed.test() == whole.test()


@pytest.mark.slow
def test_workers_and_their_number_change_nothing(config, tmp_path, monkeypatch):
    monkeypatch.setattr("lab.baseline.experiment.cores", lambda: 3)
    config["training"]["n_epochs"] = 2
    alone = fit(config, tmp_path / "alone", coherence=False)
    config["training"]["num_workers"] = 2
    helped = fit(config, tmp_path / "helped", coherence=False)
    assert_same(checkpoint(helped)["state_dict"], checkpoint(alone)["state_dict"])


def test_seed_and_trial_tell_runs_apart_and_arms_start_alike(config, tmp_path):
    def start(**arguments):
        return build(config, log_dir=tmp_path, **arguments).module.sed_student.state_dict()

    baseline = start(coherence=False)
    assert_same(start(coherence=True), baseline)
    assert not torch.equal(
        start(coherence=False, trial=1)["dense.weight"], baseline["dense.weight"]
    )


def test_what_a_run_leaves_behind(config, tmp_path):
    config["training"]["n_epochs"] = 2
    experiment = fit(config, tmp_path, coherence=True)
    assert isinstance(experiment.module, CoherenceMeanTeacher)
    results = experiment.test()
    folder = experiment.folder
    assert json.loads((folder / "metrics_test" / "metrics.json").read_text()) == results
    assert {
        f"test/{model}/{score}"
        for model in ("student", "teacher")
        for score in (
            "psds_score_scenario1",
            "psds_score_scenario2",
            "event_f1_macro",
            "intersection_f1_macro",
        )
    } < set(results)
    detections = pd.read_csv(
        folder / "metrics_test" / "teacher" / "predictions_05_teacher.tsv", sep="\t"
    )
    assert list(detections.columns) == ["event_label", "onset", "offset", "filename"]
    posteriors = np.load(folder / "metrics_test" / "teacher" / "posteriors.npz")
    assert posteriors["strong"].shape == (3 * 15, 10)
    assert list(posteriors["filenames"]) == ["0.wav", "1.wav", "2.wav"]
    state = torch.load(experiment.best, weights_only=True)
    assert type(state["hyper_parameters"]) is dict
    assert {"sed_student", "sed_teacher"} < set(state)
    assert {key.split(".")[0] for key in state["state_dict"]} == {
        "sed_student",
        "sed_teacher",
        "mel_spec",
    }
    assert [path.name for path in folder.glob("*.ckpt")].count("last.ckpt") == 1
    assert not list(folder.glob(".*"))


def test_logged_is_every_so_many_steps(config, tmp_path):
    experiment = build(config, coherence=True, log_dir=tmp_path)
    experiment.trainer.log_every_n_steps = 2
    experiment.fit()
    written = EventAccumulator(str(tmp_path)).Reload()
    steps = experiment.trainer.global_step
    for name in ("train/student/tot_supervised", "train/coherence/d_inside"):
        assert [event.step for event in written.Scalars(name)] == list(range(1, steps, 2))
    epochs = range(config["training"]["n_epochs"])
    assert len(written.Scalars("val/synth/teacher/loss_strong")) == len(epochs)


def test_clips_keep_the_names_that_their_tables_have(config, tmp_path, renamed):
    config["data"].update(official_layout(renamed), eval_folder="")
    config["training"].update(n_epochs=1, weak_split=0.25)
    experiment = fit(config, tmp_path / "run", coherence=False)
    # All clips of the validation are scored: the whole set and six of eight with tags.
    validated = experiment.module.val_strong["student"].filenames
    assert sorted(validated) == ["0.wav", "1.WAV", "a/2.wav"]
    assert experiment.module.val_weak["student"].total.sum() > 0
    experiment.test()
    folder = experiment.folder / "metrics_test" / "student"
    assert sorted(load_posteriors(folder / "posteriors.npz")[0]) == ["0.wav", "1.WAV", "a/2.wav"]
    found = read_strong_tsv(folder / "predictions_th_0.25.tsv")["filename"]
    assert {"1.WAV", "a/2.wav"} <= set(found)
    config["data"]["eval_folder"] = config["data"]["weak_folder"]
    evaluated = build(config, coherence=False, log_dir=tmp_path, train=False, evaluation=True)
    evaluated.test(experiment.best)
    assert {"1.WAV", "a/2.wav"} < set(evaluated.module.test_posteriors["student"].filenames)


def test_a_training_is_not_overwritten(config, tmp_path):
    config["training"]["n_epochs"] = 1
    before = checkpoint(fit(config, tmp_path, coherence=False))
    with pytest.raises(InputError, match="holds a training"):
        build(config, coherence=False, log_dir=tmp_path)
    assert_same(torch.load(tmp_path / "last.ckpt", weights_only=True), before)


def test_a_path_that_the_network_lacks(config, tmp_path):
    config["coherence"]["path"] = "conv"
    with pytest.raises(InputError, match="coherence: CRNN has no submodule 'conv'"):
        build(config, log_dir=tmp_path, coherence=True)


@pytest.mark.slow
def test_strong_labels_alone_without_a_teacher(config, tmp_path):
    config["training"].update(batch_size=[5, 0, 0], teacher=False, n_epochs=2)
    config["training"]["obj_metric_synth_type"] = "event"
    config["scaler"].update(statistic="dataset", normtype="standard")
    config["scaler"]["savepath"] = str(tmp_path / "scaler.ckpt")
    config["opt"].update(decay_factor=0.8, decay_epochs=1)
    experiment = fit(config, tmp_path, coherence=True)
    state = torch.load(experiment.best, weights_only=True)
    assert "sed_teacher" not in state
    assert torch.equal(
        state["state_dict"]["scaler.mean"],
        torch.load(tmp_path / "scaler.ckpt", weights_only=True)["mean"],
    )
    assert experiment.module.opt.param_groups[0]["lr"] == pytest.approx(0.001 * 0.8**2)
    assert "test/student/event_f1_macro" in experiment.test()
    # Only tested: the statistics come from the checkpoint.
    (tmp_path / "scaler.ckpt").unlink()
    tested = build(config, coherence=True, log_dir=tmp_path, train=False)
    again = tested.test(experiment.best)  # without the thresholds, which validation clips choose
    assert again == {name: experiment.module.test_results[name] for name in again}
    # Statistics of other features are not taken for these.
    other = fit(config, tmp_path / "other", coherence=False)
    assert other.best.exists()
    config["feats"]["f_min"] = 50
    with pytest.raises(InputError, match="other settings"):
        fit(config, tmp_path / "again", coherence=False)


def fit_and_log(config, folder, monkeypatch):
    """A training and what each of its steps logs about the term."""
    steps = {}

    def log(self, name, value, *args, **kwargs):
        if name.startswith("train/coherence/"):
            steps.setdefault(name[len("train/coherence/") :], []).append(float(value))
        return pl.LightningModule.log(self, name, value, *args, **kwargs)

    monkeypatch.setattr(CoherenceMeanTeacher, "log", log)
    return fit(config, folder, coherence=True), steps


def test_evaluation_writes_each_models_own_detections(config, tmp_path):
    # Two clips of two lengths, which one batch could not hold.
    config["training"].update(n_epochs=1, batch_size_val=4)
    trained = fit(config, tmp_path, coherence=False)
    experiment = build(config, coherence=False, log_dir=tmp_path, train=False, evaluation=True)
    assert experiment.test(trained.best) == {}
    written = {
        name: np.load(experiment.folder / "metrics_test" / name / "posteriors.npz")
        for name in ("student", "teacher")
    }
    assert list(written["student"]["lengths"]) == [15, 20]
    assert not np.array_equal(written["student"]["strong"], written["teacher"]["strong"])
    for name in written:
        folder = experiment.folder / "metrics_test" / name
        assert len(list(folder.glob("predictions_th_*.tsv"))) == 2


def test_one_training_runs_on_one_gpu(config, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="runs on one GPU"):
        build(config, coherence=False, log_dir=tmp_path, gpus="0,1")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_audio_met_in_training_is_one_sentence(config, tmp_path, dataset, monkeypatch, workers):
    monkeypatch.setattr("lab.baseline.experiment.cores", lambda: 3)
    folder = tmp_path / "unlabelled"
    shutil.copytree(config["data"]["unlabeled_folder"], folder)
    for path in folder.iterdir():
        soundfile.write(path, np.full(16000, np.nan), 16000, subtype="FLOAT")
    config["data"]["unlabeled_folder"] = str(folder)
    config["training"]["num_workers"] = workers
    with pytest.raises(InputError, match=r"^\S+\.wav holds samples that are not finite"):
        fit(config, tmp_path / "run", coherence=False)


@pytest.mark.parametrize(("least", "steps"), [(0, 6), (7, 12), (1000, 1002)])
def test_few_clips_are_gone_through_until_the_steps_are_enough(
    config, tmp_path, capsys, least, steps
):
    # Six strong clips in batches of two are three steps.
    config["training"].update(min_steps=least, n_epochs=2, batch_size=[2, 0, 0], teacher=False)
    experiment = build(config, coherence=False, log_dir=tmp_path)
    sampler = experiment.module.train_sampler
    assert config["training"]["n_epochs"] * len(sampler) == steps
    said = capsys.readouterr().err
    if steps < 1000:
        assert f"{steps} optimizer steps in all" in said
        assert "training.min_steps" in said
    else:
        assert said == ""


@pytest.mark.parametrize(
    "key", ["synth_tsv", "synth_val_tsv", "synth_val_dur", "weak_tsv", "weak_folder", "test_folder"]
)
def test_missing_data_are_named_and_nothing_is_written(config, tmp_path, key):
    config["data"][key] = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        build(config, coherence=False, log_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoint_is_refused_before_any_work(config, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match=r"last\.ckpt cannot be loaded"):
        build(config, coherence=False, log_dir=tmp_path / "run", resume=path)
    assert not (tmp_path / "run").exists()


def test_checkpoint_of_another_network_is_refused(config, tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, path)
    experiment = build(config, coherence=False, log_dir=tmp_path, train=False)
    with pytest.raises(InputError, match="does not fit the network"):
        experiment.test(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="no checkpoint"):
        experiment.test(path)
    with pytest.raises(InputError, match="does not exist"):
        experiment.test(tmp_path / "missing.ckpt")


def test_own_classes_from_training_to_scores_and_nobody_else_s(
    own_config_file, own_classes, config, tmp_path
):
    own = load_config(own_config_file)
    own["training"]["n_epochs"] = 1
    own["scaler"]["savepath"] = None
    experiment = fit(own, tmp_path / "run", coherence=True)
    assert experiment.module.sed_student.dense.out_features == 6
    scores = experiment.test()
    assert 0 <= scores["test/teacher/event_f1_macro"] <= 1
    _, classes = load_posteriors(experiment.folder / "metrics_test/teacher/posteriors.npz")
    assert classes == own_classes
    content = checkpoint(experiment)["hyper_parameters"]
    assert (content["data"]["classes"], content["net"]["nclass"]) == (own_classes, 6)
    # The configuration that was given is left alone.
    assert (own["data"]["classes"], own["net"]["nclass"]) == (None, 10)
    last = experiment.folder / "last.ckpt"
    said = r"the checkpoint \S+ has the classes car_horn, .*siren, and here they are"
    own["data"]["classes"] = own_classes[::-1]
    for other, more in ((config, "Alarm_bell_ringing"), (own, "siren, gun_shot")):
        order = ", in another order," if other is own else ""
        with pytest.raises(InputError, match=f"{said}{order} {more}"):
            build(other, coherence=True, log_dir=tmp_path / "other", resume=last)
        untrained = build(other, coherence=True, log_dir=tmp_path / "other", train=False)
        with pytest.raises(InputError, match=f"{said}{order} {more}"):
            untrained.test(experiment.best)


def test_soft_labels_train_and_the_tolerance_says_what_a_boundary_is(config, tmp_path):
    table = tmp_path / "soft.tsv"
    segments = [(k / 10, (k + 1) / 10, 0.5 + 0.1 * (k % 2) + 0.4 * (k > 5)) for k in range(10)]
    rows = [f"{c}.wav\t{a}\t{b}\tDog\t{s:.1f}" for c in range(6) for a, b, s in segments]
    table.write_text("filename\tonset\toffset\tevent_label\tconfidence\n" + "\n".join(rows) + "\n")
    config["training"].update(n_epochs=1, mixup=None, batch_size=[2, 0, 0], teacher=False)
    config["data"].update(synth_tsv=str(table), keep_mels=True)
    rates = {}
    for tolerance in (0.0, 0.2):
        config["coherence"]["tolerance"] = tolerance
        experiment = fit(config, tmp_path / f"run_{tolerance}", coherence=True)
        rates[tolerance] = experiment.module.coherence.metrics["boundary_rate"]
        labels = next(iter(experiment.module.train_dataloader()))[1]
        assert set(labels.unique().tolist()) <= {0.0, *(np.float32(x) for x in (0.5, 0.6, 0.9, 1))}
    # Eight steps of 0.1, and one of 0.3.
    assert rates[0.2] == pytest.approx(1 / 14)
    assert rates[0.0] > 4 / 14
