"""Settings over the same seeds: what is compared, and what becomes of one that diverges."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dcase_coherence.lightning import build_regularizer
from lab.baseline.config import load_config, read_yaml
from lab.baseline.crnn import CRNN
from lab.data.desed import official_layout

pytestmark = pytest.mark.slow

CONFS = Path(__file__).parents[3] / "recipes" / "confs"
SETTINGS = {
    "baseline": "coherence: {alpha1: 0, alpha2: 0}",
    "strong": "coherence: {alpha1: 1.0, alpha2: 0.3, annealing_epochs: 0}",
    "diverging": "coherence: {alpha1: 1.0e+38, alpha2: 0, annealing_epochs: 0}",
}


@pytest.fixture(scope="module")
def finished(run, dataset, conf_file, tmp_path_factory):
    """Two trials of three settings, one of which diverges; the arguments and what was printed."""
    folder = tmp_path_factory.mktemp("settings")
    files = [folder / f"{name}.yaml" for name in SETTINGS]
    for file, text in zip(files, SETTINGS.values()):
        file.write_text(text + "\n")
    arguments = (*files, "--conf_file", conf_file, "--data", dataset, "--trials", 2)
    arguments += ("--log_dir", folder / "exp", "--first", 3)
    arguments += public_as_test(dataset)
    done = run("compare_settings.py", *arguments, cwd=folder, code=2)
    return folder / "exp", done


def public_as_test(dataset):
    """Flags that make the test set the public one, too."""
    paths = official_layout(dataset)
    return ("--set", *(f"data.public_{p}={paths[f'test_{p}']}" for p in ("folder", "tsv", "dur")))


def test_one_that_diverges_is_said_and_costs_the_others_nothing(finished):
    folder, done = finished
    assert "error: diverging 4: the coherence term is" in done.stderr
    content = json.loads((folder / "settings.json").read_text())
    finished = {name: [bool(one) for one in found] for name, found in content["scores"].items()}
    assert finished == {
        "baseline": [True, True],
        "strong": [True, True],
        "diverging": [False, False],
    }
    assert "diverging" in (folder / "report.md").read_text()
    written = {path.name for path in folder.rglob("*")}
    assert {"scores.tex", "training.svg", "error_profile.svg"} <= written
    assert "posteriors_of_a_clip.png" in written
    assert "Reference events (%)" in done.stdout
    # Two trials on five clips, of which one has no event and the others have two.
    events = {name: counts["events"] for name, counts in content["profiles"].items()}
    assert events == {"baseline": 16, "strong": 16}


def test_scores_and_differences_are_those_of_the_trials(finished):
    folder, _ = finished
    content = json.loads((folder / "settings.json").read_text())
    means = {}
    for name in ("baseline", "strong"):
        records = [
            json.loads((folder / name / f"trial_{n}" / "trial.json").read_text()) for n in (3, 4)
        ]
        own = [record["scores"]["test/student/event_f1_macro"] for record in records]
        assert [one["event_f1_macro"] for one in content["scores"][name]] == own
        means[name] = np.mean(own)
    assert set(content["differences"]) == {"strong"}
    difference = content["differences"]["strong"]["difference"]
    assert difference == pytest.approx(means["strong"] - means["baseline"])
    assert content["differences"]["strong"]["pairs"] == 2
    assert content["seeds"] == [seed_of_trial_0(folder) + 3, seed_of_trial_0(folder) + 4]


def seed_of_trial_0(folder):
    record = json.loads((folder / "baseline" / "trial_3" / "trial.json").read_text())
    assert record["settings"]["number"] == 3
    return record["settings"]["config"]["training"]["seed"]


def test_a_public_set_is_tested_too(finished):
    folder, done = finished
    content = json.loads((folder / "settings.json").read_text())
    # Here it is the test set itself.
    public = content["public"]
    assert public["scores"] == content["scores"]
    assert public["differences"] == content["differences"]
    assert public["profiles"] == content["profiles"]
    assert "\nScores, public set\n" in done.stdout
    assert "student on the public set" in done.stdout
    assert {"against_baseline_public_set.tex", "error_profile_public_set.svg"} <= {
        path.name for path in folder.rglob("*")
    }


def test_the_monitor_runs_without_the_term(finished):
    folder, _ = finished
    table = (folder / "baseline" / "trial_3" / "epochs.tsv").read_text().splitlines()
    row = dict(zip(table[0].split("\t"), table[-1].split("\t")))
    assert float(row["z_norm"]) > 0
    assert float(row["d_inside"]) > 0
    assert float(row["term"]) == 0


def test_a_path_of_a_setting_must_exist(refused, conf_file, dataset, tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("data: {test_tsv: none.tsv}")
    arguments = (file, "--conf_file", conf_file, "--data", dataset, "--reference", "other")
    said = refused("compare_settings.py", *arguments, "--log_dir", tmp_path / "exp")
    assert "data.test_tsv is none.tsv, and there is no such file" in said


def test_kept_records_are_enough(finished, main, dataset, conf_file, tmp_path, capsys):
    folder, _ = finished
    for name in ("baseline", "strong"):
        for trial in (3, 4):
            place = tmp_path / "exp" / name / f"trial_{trial}"
            place.mkdir(parents=True)
            for file in ("trial.json", "epochs.tsv"):
                shutil.copy(folder / name / f"trial_{trial}" / file, place)
        (tmp_path / f"{name}.yaml").write_text(SETTINGS[name] + "\n")
    files = [tmp_path / f"{name}.yaml" for name in ("baseline", "strong")]
    arguments = (*files, "--conf_file", conf_file, "--data", dataset, "--trials", 2)
    again = public_as_test(dataset)
    main("compare_settings.py", *arguments, "--first", 3, "--log_dir", tmp_path / "exp", *again)
    ours, theirs = (
        json.loads((place / "settings.json").read_text()) for place in (tmp_path / "exp", folder)
    )
    assert ours["profiles"] == theirs["profiles"]
    assert ours["scores"] == {name: theirs["scores"][name] for name in ("baseline", "strong")}
    assert "Reference events (%)" in capsys.readouterr().out
    said = "There is none to show: no trial has left posteriors."
    assert said in (tmp_path / "exp" / "report.md").read_text()


def test_there_is_no_trial_before_the_first(refused, conf_file, tmp_path):
    said = refused("compare_settings.py", CONFS / "settings" / "baseline.yaml", "--first", -1)
    assert "--first is -1; give 0 or more" in said


def test_two_machines_share_the_trials_and_each_can_report_them(
    finished, server, run, main, dataset, conf_file, tmp_path, monkeypatch
):
    theirs, _ = finished
    for name in ("baseline", "strong"):
        (tmp_path / f"{name}.yaml").write_text(SETTINGS[name] + "\n")
    files = [tmp_path / f"{name}.yaml" for name in ("baseline", "strong")]
    arguments = (*files, "--conf_file", conf_file, "--data", dataset, "--trials", 2)
    arguments += ("--storage", server.database(), "--first", 3, *public_as_test(dataset))
    for machine in ("first", "second"):
        (tmp_path / machine).mkdir()
    with ThreadPoolExecutor() as pool:
        machines = pool.map(
            lambda machine: run("compare_settings.py", *arguments, cwd=tmp_path / machine),
            ("first", "second"),
        )
        said = [done.stdout for done in machines]
    assert any("settings.json in exp/settings_tiny" in one for one in said)
    trained = [path.parent for path in tmp_path.rglob("last.ckpt")]
    assert sorted(str(path.relative_to(path.parents[3])) for path in trained) == [
        f"exp/settings_tiny/{name}/trial_{n}" for name in ("baseline", "strong") for n in (3, 4)
    ]
    for machine in ("first", "second"):
        monkeypatch.chdir(tmp_path / machine)
        main("compare_settings.py", *arguments)
        ours, alone = (
            json.loads((place / "settings.json").read_text())
            for place in (tmp_path / machine / "exp" / "settings_tiny", theirs)
        )
        for one, other in ((ours, alone), (ours["public"], alone["public"])):
            assert one["scores"] == {name: other["scores"][name] for name in ("baseline", "strong")}
            assert one["profiles"] == other["profiles"]


def test_the_reference_must_be_compared(refused, conf_file, tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("")
    said = refused("compare_settings.py", file, "--conf_file", conf_file)
    assert "--reference is 'baseline'; it must be one of other" in said


@pytest.mark.parametrize("file", sorted((CONFS / "settings").glob("*.yaml")), ids=lambda f: f.stem)
@pytest.mark.parametrize("base", ["table1_mini", "table1", "recordings_strong"])
def test_every_setting_fits_the_configurations(file, base):
    config = load_config(CONFS / f"{base}.yaml", read_yaml(file))
    build_regularizer(CRNN(**config["net"]), config["coherence"])
