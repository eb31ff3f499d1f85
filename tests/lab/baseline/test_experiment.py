"""From a configuration to scores; an interrupted run ends like one that was not."""

import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
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


def assert_same(ours, theirs):
    """Equal to the bit, all through."""
    if isinstance(ours, (dict, list, tuple)):
        assert len(ours) == len(theirs)
        for key in ours if isinstance(ours, dict) else range(len(ours)):
            assert_same(ours[key], theirs[key])
    else:
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


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
        config["training"].update(time_shift=5, gain=3, frequency_mask=4)
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


@pytest.mark.slow
def test_workers_and_their_number_change_nothing(config, tmp_path, monkeypatch):
    monkeypatch.setattr("lab.baseline.experiment.cores", lambda: 3)
    config["training"]["n_epochs"] = 2
    alone = fit(config, tmp_path / "alone", coherence=False)
    config["training"]["num_workers"] = 2
    helped = fit(config, tmp_path / "helped", coherence=False)
    assert_same(checkpoint(helped)["state_dict"], checkpoint(alone)["state_dict"])


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
    result = read_strong_tsv(folder / "predictions_th_0.25.tsv")["filename"]
    assert {"1.WAV", "a/2.wav"} <= set(result)
    config["data"]["eval_folder"] = config["data"]["weak_folder"]
    evaluated = build(config, coherence=False, log_dir=tmp_path, train=False, evaluation=True)
    evaluated.test(experiment.best)
    assert {"1.WAV", "a/2.wav"} < set(evaluated.module.test_posteriors["student"].filenames)


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


def test_what_a_run_leaves_behind_and_is_not_overwritten(config, tmp_path):
    config["training"]["n_epochs"] = 1
    experiment = fit(config, tmp_path, coherence=True)
    assert isinstance(experiment.module, CoherenceMeanTeacher)
    results = experiment.test()
    folder = experiment.folder
    assert json.loads((folder / "metrics_test" / "metrics.json").read_text()) == results
    posteriors = np.load(folder / "metrics_test" / "teacher" / "posteriors.npz")
    assert posteriors["strong"].shape == (3 * 15, 10)
    state = torch.load(experiment.best, weights_only=True)
    assert type(state["hyper_parameters"]) is dict
    assert {"sed_student", "sed_teacher"} < set(state)
    names = {key.split(".")[0] for key in state["state_dict"]}
    assert names == {"sed_student", "sed_teacher", "mel_spec"}
    assert not list(folder.glob(".*"))
    before = checkpoint(experiment)
    with pytest.raises(InputError, match="holds a training"):
        build(config, coherence=False, log_dir=tmp_path)
    # A finished run resumes to its end.
    resumed = fit(config, tmp_path, coherence=True, resume=folder / "last.ckpt")
    assert resumed.best == experiment.best
    assert resumed.test() == results
    assert_same(checkpoint(resumed)["state_dict"], before["state_dict"])
    # Arms start alike, trials do not.
    start = [
        build(config, log_dir=tmp_path / "n", trial=trial, coherence=arm).module.state_dict()
        for arm, trial in ((False, 0), (True, 0), (False, 1))
    ]
    assert_same(start[1], start[0])
    name = "sed_student.dense.weight"
    assert not torch.equal(start[2][name], start[0][name])


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
    fitted = torch.load(tmp_path / "scaler.ckpt", weights_only=True)["mean"]
    assert torch.equal(state["state_dict"]["scaler.mean"], fitted)
    assert experiment.module.opt.param_groups[0]["lr"] == pytest.approx(0.001 * 0.8**2)
    assert "test/student/event_f1_macro" in experiment.test()
    # Only tested: the statistics come from the checkpoint.
    (tmp_path / "scaler.ckpt").rename(tmp_path / "kept.ckpt")
    tested = build(config, coherence=True, log_dir=tmp_path, train=False)
    again = tested.test(experiment.best)  # without the thresholds, which validation clips choose
    assert again == {name: experiment.module.test_results[name] for name in again}
    # Statistics of other features are not taken for these.
    (tmp_path / "kept.ckpt").rename(tmp_path / "scaler.ckpt")
    config["feats"]["f_min"] = 50
    with pytest.raises(InputError, match="another feats"):
        fit(config, tmp_path / "again", coherence=False)


@pytest.mark.parametrize(("least", "steps"), [(0, 6), (1000, 1002)])
def test_few_clips_are_gone_through_until_the_steps_are_enough(
    config, tmp_path, capsys, least, steps
):
    # Six strong clips in batches of two are three steps.
    config["training"].update(min_steps=least, n_epochs=2, batch_size=[2, 0, 0], teacher=False)
    experiment = build(config, coherence=False, log_dir=tmp_path)
    assert config["training"]["n_epochs"] * len(experiment.module.train_sampler) == steps
    assert ("6 optimizer steps in all" in capsys.readouterr().err) == (steps == 6)


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({"coherence": {"path": "conv"}}, {"coherence": True}, "no submodule 'conv'"),
        ({}, {"gpus": "0,1"}, "--gpus is '0,1'"),
        ({"data": {"synth_tsv": "nowhere"}}, {}, "nowhere does not exist"),
        ({"data": {"synth_val_dur": "nowhere"}}, {}, "nowhere does not exist"),
        ({"data": {"weak_folder": "nowhere"}}, {}, "nowhere does not exist"),
        ({"data": {"test_folder": "nowhere"}}, {}, "nowhere does not exist"),
        ({}, {"resume": "damaged.ckpt"}, r"damaged\.ckpt cannot be loaded"),
    ],
)
def test_bad_input_is_refused_before_any_work(config, tmp_path, change, arguments, words):
    for section, keys in change.items():
        config[section].update(keys)
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04" + bytes(100))
    if "resume" in arguments:
        arguments = {"resume": tmp_path / arguments["resume"]}
    with pytest.raises(InputError, match=words):
        build(config, log_dir=tmp_path / "run", **{"coherence": False, **arguments})
    assert not (tmp_path / "run").exists()


def test_checkpoint_of_another_network_is_refused(config, tmp_path):
    path = tmp_path / "other.ckpt"
    experiment = build(config, coherence=False, log_dir=tmp_path, train=False)
    for content, words in (
        ({"state_dict": {"weight": torch.zeros(1)}}, "does not fit the network"),
        ([1], "no checkpoint"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=words):
            experiment.test(path)
    with pytest.raises(InputError, match="does not exist"):
        experiment.test(tmp_path / "missing.ckpt")


def test_own_classes_from_training_to_scores_and_nobody_else_s(
    own_config_file, own_classes, config, tmp_path
):
    own = load_config(own_config_file)
    own["training"]["n_epochs"] = 1
    experiment = fit(own, tmp_path / "run", coherence=True, verify_psds=True)
    assert 0 <= experiment.test()["test/teacher/event_f1_macro"] <= 1
    _, classes = load_posteriors(experiment.folder / "metrics_test/teacher/posteriors.npz")
    assert classes == own_classes
    content = checkpoint(experiment)["hyper_parameters"]
    assert (content["data"]["classes"], content["net"]["nclass"]) == (own_classes, 6)
    # The configuration that was given is left alone.
    assert (own["data"]["classes"], own["net"]["nclass"]) == (None, 10)
    last = experiment.folder / "last.ckpt"
    own["data"]["classes"] = own_classes[::-1]
    for other, words in ((config, "Alarm_bell_ringing"), (own, "in another order, siren")):
        sentence = rf"the checkpoint \S+ has the classes NA, .* {words}"
        with pytest.raises(InputError, match=sentence):
            build(other, coherence=True, log_dir=tmp_path / "other", resume=last)
        untrained = build(other, coherence=True, log_dir=tmp_path / "other", train=False)
        with pytest.raises(InputError, match=sentence):
            untrained.test(experiment.best)
