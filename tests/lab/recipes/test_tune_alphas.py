"""The grid, by two workers on one study, stopped and gone on with."""

import json
import shutil
import sqlite3
from collections import Counter

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("optuna", reason="needs pip install '.[tune]'")


@pytest.fixture(scope="module")
def arguments(dataset, conf_file):
    grid = ("--ratio", 0.3, 3, 10, "--scale", 0.1)
    return ("tune_alphas.py", "--conf_file", conf_file, "--data", dataset, *grid, "--fast_dev_run")


@pytest.fixture(scope="module")
def finished(run, arguments, tmp_path_factory):
    """A grid that two workers have trained."""
    folder = tmp_path_factory.mktemp("alphas")
    options = ("--workers", 2, "--quiet", "--log_dir", folder / "exp")
    done = run(*arguments, *options, cwd=folder)
    assert done.stderr == ""
    assert done.stdout.startswith("ratio=")
    return folder / "exp", done.stdout


def test_two_workers_share_a_study(finished):
    folder, said = finished
    content = json.loads((folder / "alphas.json").read_text())
    places = [(cell["ratio"], cell["scale"]) for cell in content["cells"]]
    assert places == [(0.3, 0.1), (3.0, 0.1), (10.0, 0.1)]
    assert {cell["state"] for cell in content["cells"]} <= {"ok", "collapsed", "diverged"}
    assert "best: alpha1" in said
    for suffix in ("png", "svg"):
        assert (folder / "figures" / f"alphas.{suffix}").stat().st_size > 1000
    with sqlite3.connect(folder / "study.db") as database:
        states = Counter(row[0] for row in database.execute("SELECT state FROM trials"))
    assert states["COMPLETE"] >= 3
    assert set(states) == {"COMPLETE"}
    # Each cell was trained, with its own weights.
    for ratio, scale in places:
        record = folder / f"ratio={ratio:g}_scale={scale:g}" / "trial_0" / "trial.json"
        coherence = json.loads(record.read_text())["settings"]["config"]["coherence"]
        assert (coherence["alpha1"], coherence["alpha2"]) == (ratio * scale, scale)


def test_it_goes_on_where_it_was_stopped(finished, run, arguments, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "exp")
    # A lost database costs no training, and a lost cell costs that cell.
    (tmp_path / "exp" / "study.db").unlink()
    lost = tmp_path / "exp" / "ratio=3_scale=0.1"
    shutil.rmtree(lost)
    kept = tmp_path / "exp" / "ratio=0.3_scale=0.1" / "trial_0" / "last.ckpt"
    before = kept.stat().st_mtime_ns
    # As many workers as before: the number of threads of each changes roundings.
    run(*arguments, "--workers", 2, "--log_dir", tmp_path / "exp", cwd=tmp_path)
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
    assert "was begun with other settings (trials was 1, is 2)" in said


def test_other_settings_are_those_of_the_study(finished, refused, arguments):
    folder, _ = finished
    said = refused(*arguments, "--set", "coherence.normalize=true", "--log_dir", folder)
    assert "other settings (coherence.normalize was False, is True)" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--ratio", 0], "--ratio is [0.0]"),
        (["--workers", 0], "--workers is 0"),
        (["--storage", "nonsense"], "nonsense cannot be used"),
        (["--set", "data.test_tsv=none.tsv"], "data.test_tsv is none.tsv, and there is no such"),
        (["--set", "coherence.alpha1=1"], "--set coherence.alpha1 would be replaced"),
    ],
)
def test_bad_arguments(refused, arguments, tmp_path, changed, words):
    assert words in refused(*arguments, *changed, "--log_dir", tmp_path / "exp")
