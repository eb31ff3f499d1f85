"""The grid, by two workers on one study, stopped and gone on with."""

import json
import shutil
import sqlite3
from collections import Counter

import pytest


@pytest.fixture(scope="module")
def arguments(dataset, conf_file):
    grid = ("--alpha1", 0.03, 0.3, 1, "--alpha2", 0.1)
    return ("tune_alphas.py", "--conf_file", conf_file, "--data", dataset, *grid, "--fast_dev_run")


@pytest.fixture(scope="module")
def finished(run, arguments, tmp_path_factory):
    """A grid that two workers have trained."""
    folder = tmp_path_factory.mktemp("alphas")
    options = ("--workers", 2, "--quiet", "--log_dir", folder / "exp")
    done = run(*arguments, *options, cwd=folder)
    assert done.stderr == ""
    assert done.stdout.startswith("alpha1=")
    return folder / "exp", done.stdout


def test_two_workers_share_a_study(finished):
    folder, said = finished
    content = json.loads((folder / "alphas.json").read_text())
    pairs = [(cell["alpha1"], cell["alpha2"]) for cell in content["cells"]]
    assert pairs == [(0.03, 0.1), (0.3, 0.1), (1.0, 0.1)]
    assert {cell["state"] for cell in content["cells"]} <= {"ok", "collapsed", "diverged"}
    assert "best: alpha1" in said
    for suffix in ("png", "svg"):
        assert (folder / "figures" / f"alphas.{suffix}").stat().st_size > 1000
    with sqlite3.connect(folder / "study.db") as database:
        states = Counter(row[0] for row in database.execute("SELECT state FROM trials"))
    assert states["COMPLETE"] >= 3
    assert set(states) == {"COMPLETE"}
    # Each cell was trained, with its own weights.
    for alpha1, alpha2 in pairs:
        record = folder / f"alpha1={alpha1:g}_alpha2={alpha2:g}" / "trial_0" / "trial.json"
        coherence = json.loads(record.read_text())["settings"]["config"]["coherence"]
        assert (coherence["alpha1"], coherence["alpha2"]) == (alpha1, alpha2)


def test_it_goes_on_where_it_was_stopped(finished, main, arguments, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "exp")
    # A lost database costs no training, and a lost cell costs that cell.
    (tmp_path / "exp" / "study.db").unlink()
    lost = tmp_path / "exp" / "alpha1=0.3_alpha2=0.1"
    shutil.rmtree(lost)
    kept = tmp_path / "exp" / "alpha1=0.03_alpha2=0.1" / "trial_0" / "last.ckpt"
    before = kept.stat().st_mtime_ns
    main(*arguments, "--log_dir", tmp_path / "exp")
    assert kept.stat().st_mtime_ns == before
    ours, theirs = (
        json.loads((place / "alphas.json").read_text()) for place in (tmp_path / "exp", folder)
    )
    assert ours["cells"] == theirs["cells"]


def test_a_study_that_another_process_holds(finished, refused, arguments, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "exp")
    storage = f"sqlite:///{tmp_path}/exp/study.db?timeout=1"
    holder = sqlite3.connect(tmp_path / "exp" / "study.db")
    holder.execute("BEGIN EXCLUSIVE")
    said = refused(*arguments, "--storage", storage, "--log_dir", tmp_path / "exp")
    assert "database is locked" in said
    holder.rollback()


def test_a_study_with_other_settings(finished, refused, arguments):
    folder, _ = finished
    said = refused(*arguments, "--trials", 2, "--log_dir", folder)
    assert "was begun with another trials (1, now 2)" in said


def test_other_settings_are_those_of_the_study(finished, refused, arguments):
    folder, _ = finished
    said = refused(*arguments, "--set", "coherence.normalize=true", "--log_dir", folder)
    assert "was begun with another coherence" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--alpha1", 0], "--alpha1 is [0.0]"),
        (["--workers", 0], "--workers is 0"),
        (["--storage", "nonsense"], "nonsense cannot be used"),
        (["--set", "data.test_tsv=none.tsv"], "data.test_tsv is none.tsv, and there is no such"),
        (["--set", "coherence.alpha1=1"], "--set coherence.alpha1 would be replaced"),
    ],
)
def test_bad_arguments(refused, arguments, tmp_path, changed, words):
    assert words in refused(*arguments, *changed, "--log_dir", tmp_path / "exp")
