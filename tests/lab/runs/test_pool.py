"""Trials side by side do not take each other down, and leave what they did."""

import copy
import multiprocessing
import threading
import time

import pytest

from lab.baseline.config import load_config
from lab.errors import InputError, Stopped
from lab.runs import pool
from lab.runs.pool import run_trials
from lab.runs.trials import Trial, TrialFailed, read_record, write_record


@pytest.fixture
def trial(config_file, tmp_path):
    """A trial of one epoch; by default the baseline."""
    config = load_config(config_file)
    config["training"].update(n_epochs=1, batch_size=[2, 0, 0], teacher=False)

    def trial(name="baseline", arm=False, number=0, **changes):
        own = copy.deepcopy(config)
        for section, values in changes.items():
            own[section].update(values)
        return Trial(name, own, arm, number, tmp_path / name)

    return trial


def finish(trial):
    record = {"settings": trial.settings(), "scores": {"test/student/event_f1_macro": 0.25}}
    write_record(trial, record)
    return record


def test_other_settings_are_refused_before_any_training(trial, monkeypatch):
    monkeypatch.setattr(pool, "Pool", pytest.fail)
    finish(trial("second"))
    with pytest.raises(InputError, match=r"opt\.lr was 0\.001, is 0\.5"):
        run_trials([trial("first"), trial("second", opt={"lr": 0.5})], gpus="cpu")


def test_trials_in_the_processes_of_one_training_name_the_one_that_failed(trial, monkeypatch):
    def fail(one, *arguments, **options):
        if one.setting == "second":
            raise FloatingPointError("the training loss is nan")
        return finish(one)

    monkeypatch.setattr(pool, "run_trial", fail)
    both = [trial(name, training={"backend": "ddp"}) for name in ("first", "second")]
    kept = []
    keep = lambda trial, record: kept.append((trial.setting, record))  # noqa: E731
    assert run_trials(both[:1], keep=keep) == [finish(both[0])]
    assert kept == [("first", finish(both[0]))]
    with pytest.raises(InputError, match=r"^second, seed 1: the training loss is nan$"):
        run_trials(both)
    with pytest.raises(InputError, match="--storage"):
        run_trials(both, storage="sqlite://")


@pytest.mark.slow
def test_a_trial_that_fails_leaves_the_others_finished(trial, tmp_path):
    broken = trial("broken", data={"synth_tsv": str(tmp_path / "nowhere.tsv")})
    diverging = trial("diverging", arm=True, coherence={"alpha1": 1e300, "annealing_epochs": 0})
    good = trial("good")
    kept = {}
    keep = lambda trial, record: kept.update({trial.setting: record})  # noqa: E731
    with pytest.raises(TrialFailed, match=r"^broken, seed 1: \S+nowhere\.tsv") as error:
        run_trials([broken, diverging, good], gpus="cpu", progress=False, keep=keep)
    assert "\n" not in str(error.value)
    assert set(kept) == {"diverging", "good"}
    assert read_record(good) == kept["good"]
    assert kept["diverging"]["scores"] == {}
    assert kept["diverging"]["processor"] == kept["good"]["processor"]
    written = good.record.stat().st_mtime_ns
    with pytest.raises(TrialFailed, match=r"^diverging, seed 1: .* diverged"):
        run_trials([good, diverging], gpus="cpu", progress=False)
    # What was wrong is put right: the trial is run, the other is not.
    mended = broken._replace(config=good.config)
    again = run_trials([mended, good], gpus="cpu", progress=False)
    assert again[1] == kept["good"]
    assert good.record.stat().st_mtime_ns == written
    # The same seed and settings: the same scores.
    assert again[0]["scores"] == again[1]["scores"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strike", "expected", "words"),
    [
        ("kill", RuntimeError, "baseline, seed 1: ended with exit code -9"),
        ("terminate", Stopped, None),
    ],
)
def test_a_process_that_is_killed_or_told_to_stop(trial, strike, expected, words):
    before = multiprocessing.active_children()

    def wait_and_strike():
        children = set()
        while not children:
            children = set(multiprocessing.active_children()) - set(before)
            time.sleep(0.05)
        getattr(children.pop(), strike)()

    striker = threading.Thread(target=wait_and_strike, daemon=True)
    striker.start()
    with pytest.raises(expected, match=words) as error:
        run_trials([trial()], gpus="cpu", progress=False)
    if expected is Stopped:
        assert error.value.what == "baseline, seed 1 was told to stop"


@pytest.mark.slow
def test_a_second_command_in_the_folder_waits_and_has_nothing_to_do(trial):
    records, errors = [], []

    def run():
        try:
            records.extend(run_trials([trial()], gpus="cpu", progress=False))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert records[0] == records[1]
    assert len(list(trial().folder.glob("epoch=*.ckpt"))) == 1
