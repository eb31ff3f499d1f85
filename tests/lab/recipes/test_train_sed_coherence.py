import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dcase_coherence.settings import DEFAULTS
from lab.errors import RESUME_ME
from lab.soundscapes import generate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
RECIPE = "train_sed_coherence.py"
TINY = {
    "training": {
        "batch_size": [2, 1, 1],
        "batch_size_val": 4,
        "n_epochs": 4,
        "n_epochs_warmup": 1,
        "num_workers": 0,
        "n_test_thresholds": 3,
        "obj_metric_synth_type": "event",
    },
    "scaler": {"savepath": None},
    "data": {"net_subsample": 8},
    "feats": {"n_mels": 16, "n_window": 1024, "n_filters": 1024, "hop_length": 512},
    "net": {
        "n_RNN_cell": 8,
        "kernel_size": [3, 3],
        "padding": [1, 1],
        "stride": [1, 1],
        "nb_filters": [4, 8],
        "pooling": [[4, 4], [2, 4]],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a data set `data` and a configuration `tiny.yaml`."""
    path = tmp_path_factory.mktemp("work")
    generate(path / "data", strong=6, weak=4, unlabelled=4, validation=3, test=3, progress=False)
    (path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return path


OPTIONS = ("--conf_file", "tiny.yaml", "--data", "data", "--gpus", "cpu")


@pytest.fixture(scope="module")
def finished(run, folder):
    """An uninterrupted run of both arms in `exp/tiny`: what it printed."""
    done = run(RECIPE, *OPTIONS, cwd=folder)
    progress = r"(baseline|coherence), seed 42: epoch [\d.]+ of 4, .*"
    few = r"\S+/trial_0: \d+ optimizer steps in all, .*"
    others = [x for x in done.stderr.split("\n") if not re.fullmatch(f"{progress}|{few}", x)]
    assert others == [""]  # after the last line
    assert len(re.findall(few, done.stderr)) == 2
    return done.stdout


def scores(folder, log_dir):
    """Scores of the trials, and the tables of the comparison without the command above them."""
    records = {
        arm: json.loads((folder / log_dir / arm / "trial_0" / "trial.json").read_text())["scores"]
        for arm in ("baseline", "coherence")
    }
    return records, tables(folder / log_dir)


def tables(log_dir):
    text = (log_dir / "comparison.md").read_text()
    return [line for line in text.splitlines() if line.startswith("|")]


def test_compares_both_models_and_leaves_everything_behind(finished, folder):
    assert "bundled baseline" in finished
    for words in ("baseline", "coherence", "difference", "event F1, macro (%)", "PSDS 1", "PSDS 2"):
        assert words in finished
    results = folder / "exp" / "tiny"
    for arm in ("baseline", "coherence"):
        trial = results / arm / "trial_0"
        for name in ("last.ckpt", "hparams.yaml", "trial.json", "epochs.tsv"):
            assert (trial / name).is_file(), name
        assert list(trial.glob("epoch=*.ckpt"))
        assert list(trial.glob("events.out.tfevents.*"))
        detections = pd.read_csv(
            trial / "metrics_test" / "teacher" / "predictions_05_teacher.tsv", sep="\t"
        )
        assert list(detections.columns) == ["event_label", "onset", "offset", "filename"]
        epochs = pd.read_csv(trial / "epochs.tsv", sep="\t")
        assert epochs["epoch"].tolist() == [0, 1, 2, 3]
        assert ("d_boundary" in epochs) == (arm == "coherence")
    assert (results / "curves.png").stat().st_size > 10_000
    assert set(tables(results)) < set(finished.splitlines())
    assert "reference events (%)" in finished
    assert "official, on DESED" in finished
    assert "rests on 1 seed" in finished
    trials = [f"exp/tiny/{arm}/trial_0" for arm in ("baseline", "coherence")]
    assert f"python recipes/figures.py {' '.join(trials)}" in finished


def test_stopped_and_started_again_it_ends_with_the_same_scores(
    main, finished, folder, monkeypatch
):
    log_dir = folder / "exp" / "stopped"
    command = [sys.executable, ROOT / "recipes" / RECIPE, *OPTIONS, "--log_dir", log_dir]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE)
    table = log_dir / "coherence" / "trial_0" / "epochs.tsv"
    deadline = time.time() + 200
    while time.time() < deadline and not (
        table.exists() and len(table.read_text().splitlines()) > 2
    ):
        time.sleep(0.05)
    process.terminate()
    _, output = process.communicate()
    assert (process.returncode, output.count(b"stopped by SIGTERM")) == (RESUME_ME, 1)
    assert not (log_dir / "comparison.md").exists()
    monkeypatch.chdir(folder)
    main(RECIPE, *OPTIONS, "--log_dir", log_dir)
    assert scores(folder, "exp/stopped") == scores(folder, "exp/tiny")


def test_the_same_seed_gives_the_same_numbers_and_quiet_the_results_alone(run, finished, folder):
    done = run(RECIPE, *OPTIONS, "--log_dir", "exp/again", "--quiet", cwd=folder)
    # A line of each training: it has few steps.
    assert ["optimizer steps in all" in line for line in done.stderr.splitlines()] == [True, True]
    assert "trained and tested" not in done.stdout
    assert set(tables(folder / "exp" / "again")) < set(done.stdout.splitlines())
    assert scores(folder, "exp/again") == scores(folder, "exp/tiny")


def test_another_machine_reports_what_this_one_trained(main, finished, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    options = (*OPTIONS, "--storage", f"sqlite:///{folder}/study.db?timeout=60")
    main(RECIPE, *options)
    capfd.readouterr()
    main(RECIPE, *options, "--log_dir", "exp/elsewhere")
    output = capfd.readouterr().out
    here, elsewhere = (
        [[cell.strip(" :-") for cell in line.split("|")] for line in tables(folder / "exp" / name)]
        for name in ("tiny", "elsewhere")
    )
    # The interval over clips takes detections, which are on the other machine.
    assert here[6][4].startswith("[")
    here[6][4] = ""
    assert elsewhere == here
    assert "Figures 2 to 4" not in output
    assert not (folder / "exp" / "elsewhere" / "curves.png").exists()
    assert not list((folder / "exp" / "elsewhere").rglob("*.ckpt"))


def test_the_loss_stays_in_bounds_unless_the_papers_is_asked_for(
    main, run, finished, folder, monkeypatch
):
    def settings(log_dir):
        record = folder / "exp" / log_dir / "coherence" / "trial_0" / "trial.json"
        return json.loads(record.read_text())["settings"]["config"]["coherence"]

    assert settings("tiny")["lags"] == [1, 2, 4, 8]
    flags = ("--preset", "exact", "--arm", "coherence", "--fast_dev_run")
    monkeypatch.chdir(folder)
    main(RECIPE, *OPTIONS, *flags)
    assert settings("tiny_exact_fast_dev_run") == {**DEFAULTS, "alpha1": 0.1, "alpha2": 0.03}
    assert "unknown arguments: --hop" in run(RECIPE, "--hop", cwd=folder, code=2).stderr


def test_the_official_test_and_evaluation_flags(main, finished, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    best = next((folder / "exp" / "tiny" / "coherence" / "trial_0").glob("epoch=*.ckpt"))
    capfd.readouterr()
    main(RECIPE, *OPTIONS, "--test_from_checkpoint", best)
    output = capfd.readouterr().out
    expected = scores(folder, "exp/tiny")[0]["coherence"]["test/teacher/event_f1_macro"]
    assert f"test/teacher/event_f1_macro: {expected:.4f}" in output
    (folder / "data" / "audio" / "eval21_16k").symlink_to(
        folder / "data" / "audio" / "validation" / "validation_16k"
    )
    main(RECIPE, *OPTIONS, "--eval_from_checkpoint", best, "--log_dir", "exp/evaluated")
    assert list((folder / "exp" / "evaluated").rglob("predictions_05_teacher.tsv"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--trials", "0"), "--trials is 0; give at least 1"),
        (("--conf_file", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("--data", "nowhere"), "nowhere"),
        (("--set", "training.n_epoch=3"), "did you mean 'n_epochs'?"),
        (("--set", "training.n_epochs=3"), "training.n_epochs was 4, is 3"),
        (("--set", "data.test_tsv=none.tsv"), "data.test_tsv is none.tsv, and there is no such"),
        (("--resume_from_checkpoint", "tiny.yaml"), "give the last.ckpt in a trial's folder"),
        (("--test_from_checkpoint", "tiny.yaml"), "tiny.yaml"),
        (("--storage", "nonsense"), "--storage nonsense cannot be used"),
        (("--storage", "sqlite:///x.db", "--resume_from_checkpoint", "x"), "leave out one of the"),
    ],
)
def test_bad_input_is_one_sentence_and_overwrites_nothing(
    refused, finished, folder, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(folder)
    before = {p: p.stat().st_mtime_ns for p in (folder / "exp" / "tiny").rglob("*") if p.is_file()}
    assert sentence in refused(RECIPE, *OPTIONS, *arguments)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_fast_dev_run_validates_whatever_the_interval_and_is_resumed(main, folder, monkeypatch):
    # Of a student alone: it is then the student that is compared.
    settings = ("training.validation_interval=4", "training.teacher=false")
    options = (*OPTIONS, "--fast_dev_run", "--set", *settings)
    monkeypatch.chdir(folder)
    main(RECIPE, *options, "--arm", "baseline")
    log_dir = folder / "exp" / "tiny_fast_dev_run"
    before = tables(log_dir)
    record = log_dir / "baseline" / "trial_0" / "trial.json"
    content = json.loads(record.read_text())
    held = content.pop("scores")
    record.write_text(json.dumps(content))
    last = record.parent / "last.ckpt"
    main(RECIPE, *options, "--resume_from_checkpoint", last)
    assert json.loads(record.read_text())["scores"] == held
    assert tables(log_dir) == before
