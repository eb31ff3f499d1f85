"""Settings over the same seeds: what is compared, kept and reported."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from lab.data.desed import official_layout
from lab.evaluation.significance import compare
from lab.runs.results import read_results

ROOT = Path(__file__).parents[3]
COMPARE = runpy.run_path(str(ROOT / "recipes" / "compare.py"))
SETTINGS = {
    "baseline": "coherence: {alpha1: 0, alpha2: 0}",
    "strong": "coherence: {alpha1: 1.0, alpha2: 0.3, annealing_epochs: 0}",
    "diverging": "coherence: {alpha1: 1.0e+38, alpha2: 0, annealing_epochs: 0}",
}


def write_settings(folder):
    files = [folder / f"{name}.yaml" for name in SETTINGS]
    for file, text in zip(files, SETTINGS.values()):
        file.write_text(text + "\n")
    return files


def settings_of(*arguments):
    return COMPARE["settings_of"](COMPARE["parse"]([str(one) for one in arguments]))


def test_the_reference_comes_first(tmp_path):
    files = write_settings(tmp_path)
    assert list(settings_of(*files)) == ["baseline", "strong", "diverging"]
    assert next(iter(settings_of(*files, "--reference", "strong"))) == "strong"


def test_a_grid_is_laid_over_each_setting_but_the_reference(tmp_path):
    grid = ("--grid", "coherence.alpha1=1,2", "--grid", "training.n_epochs=3,4")
    laid = settings_of(*write_settings(tmp_path)[:2], *grid)
    assert list(laid) == [
        "baseline",
        *(f"strong_alpha1={a}_n_epochs={n}" for a in (1, 2) for n in (3, 4)),
    ]
    assert laid["baseline"] == {"coherence": {"alpha1": 0, "alpha2": 0}}
    assert laid["strong_alpha1=2_n_epochs=3"] == {
        "coherence": {"alpha1": 2, "alpha2": 0.3, "annealing_epochs": 0},
        "training": {"n_epochs": 3},
    }


def test_a_grid_alone_is_laid_over_the_configuration(tmp_path):
    files = write_settings(tmp_path)
    laid = settings_of(files[0], "--grid", "coherence.lags=[1],[1, 2]")
    assert list(laid) == ["baseline", "lags=[1]", "lags=[1,2]"]
    assert laid["lags=[1,2]"] == {"coherence": {"lags": [1, 2]}}


def test_what_cannot_be_compared_is_refused(refused, dataset, conf_file, tmp_path):
    file = write_settings(tmp_path)[1]
    options = ("--conf_file", conf_file, "--data", dataset, "--log_dir", tmp_path / "exp")
    assert "--first is -1" in refused("compare.py", file, "--first", -1)
    assert "--trials is 0" in refused("compare.py", file, "--trials", 0)
    assert "--reference is 'baseline'" in refused("compare.py", file, "--reference", "baseline")
    assert "--set coherence.alpha1=[" in refused("compare.py", file, "--grid", "coherence.alpha1=[")
    (tmp_path / "other.yaml").write_text("data: {test_tsv: none.tsv}")
    words = refused("compare.py", tmp_path / "other.yaml", *options)
    assert "data.test_tsv is none.tsv" in words
    table = tmp_path / "table.csv"
    table.write_text("a,b\n")
    assert str(table) in refused("compare.py", file, *options, "--results", table)


@pytest.fixture(scope="module")
def finished(run, dataset, conf_file, tmp_path_factory):
    """Two trials of three settings, one of which diverges; the arguments and what was printed."""
    folder = tmp_path_factory.mktemp("settings")
    paths = official_layout(dataset)
    arguments = [*write_settings(folder), "--conf_file", conf_file, "--data", dataset]
    arguments += ["--trials", 2, "--first", 3, "--log_dir", folder / "exp"]
    # The public set is the test set itself.
    public = [f"data.public_{p}={paths[f'test_{p}']}" for p in ("folder", "tsv", "dur")]
    arguments += ["--results", folder / "results.csv", "--set_name", "tiny", "--set", *public]
    return folder, arguments, run("compare.py", *arguments, cwd=folder, code=2)


@pytest.mark.slow
def test_every_trial_is_a_row_for_each_test_set(finished):
    folder, _, done = finished
    table = read_results(folder / "results.csv").loc["tiny"]
    assert len(table) == 12
    for name in ("baseline", "strong"):
        for number, seed in ((3, 45), (4, 46)):
            record = json.loads((folder / "exp" / name / f"trial_{number}/trial.json").read_text())
            row = table.loc[("test", name, seed)]
            assert row["event_f1_macro"] == record["scores"]["test/student/event_f1_macro"]
            assert row["validation"] == record["validation"]
            # Four clips have two events each, one has none.
            assert row["events"] == 8
            assert row.equals(table.loc[("public", name, seed)])
    assert table.xs("diverging", level="setting")["event_f1_macro"].isna().all()
    assert table["processor"].notna().all()
    assert "error: diverging, seed 45: " in done.stderr
    entry = json.loads((folder / "configs.json").read_text())["tiny"]
    assert entry["configuration"]["training"]["n_epochs"] == 3
    assert entry["settings"]["strong"]["coherence"]["alpha2"] == 0.3
    assert str(folder) not in json.dumps(entry)


@pytest.mark.slow
def test_the_report_has_the_differences_and_what_they_rest_on(finished):
    folder, _, done = finished
    report = (folder / "exp" / "comparison.md").read_text()
    assert report.split("\n", 2)[2].rpartition("![")[0].strip() in done.stdout
    scores = read_results(folder / "results.csv").loc[("tiny", "test")]["event_f1_macro"].dropna()
    by_seed = {name: scores.loc[name].to_dict() for name in ("baseline", "strong")}
    difference = compare("baseline", by_seed).loc["strong", "difference"]
    assert "rests on 2 seeds" in report
    assert "## On the public set" in report
    assert "| diverging | 0 of 2 |" in report
    table = report.split("seeds for 2 points")[1].splitlines()[2]
    name, seeds, over_seeds, over_clips, *_ = [cell.strip() for cell in table.split("|")[1:-1]]
    assert (name, seeds) == ("strong", "2")
    assert over_seeds.startswith(f"{100 * difference:+.2f}")
    assert over_clips.startswith("[")
    assert (folder / "exp" / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_has_a_row_is_not_trained_again(finished, main, tmp_path, capsys):
    folder, arguments, done = finished
    before = (folder / "results.csv").read_text()
    shutil.move(folder / "exp", tmp_path / "away")
    main("compare.py", *arguments)
    assert (folder / "results.csv").read_text() == before
    assert not list((folder / "exp").rglob("*.ckpt"))
    text = capsys.readouterr().out
    # The scores are the same; what needs the detections is left out.
    assert text.split("| setting | seeds")[0].split("##")[1] in done.stdout
    assert "curves.png" not in text


@pytest.mark.slow
def test_another_configuration_needs_another_name(finished, refused):
    folder, arguments, _ = finished
    before = (folder / "results.csv").read_text()
    words = refused("compare.py", *arguments, "opt.lr=0.02")
    assert "opt.lr was 0.03, is 0.02" in words
    assert (folder / "results.csv").read_text() == before
