"""Table 1: two models, several seeds, two sets, one report."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dcase_coherence.tap import FeatureTap
from lab.baseline.config import load_config
from lab.baseline.crnn import CRNN
from lab.baseline.experiment import make_scheduler
from lab.data.labels import make_encoder

pytestmark = pytest.mark.slow

CONFS = Path(__file__).parents[3] / "recipes" / "confs"


@pytest.fixture(scope="module")
def finished(run, dataset, conf_file, tmp_path_factory):
    """Two trials of each model; the folder and what was printed."""
    folder = tmp_path_factory.mktemp("table1")
    arguments = ("--conf_file", conf_file, "--data", dataset, "--trials", 2)
    done = run("train_synthetic.py", *arguments, "--log_dir", folder / "exp", cwd=folder)
    return folder / "exp", done.stdout, arguments


def test_what_a_run_prints_and_leaves(finished):
    folder, said, _ = finished
    for words in ("validation, event F1, macro", "public, event F1, micro", "Welch", "95 %"):
        assert words in said
    content = json.loads((folder / "metrics.json").read_text())
    assert content["trials"] == 2
    assert set(content["sets"]) == {"validation", "public"}
    for found in content["sets"].values():
        scores = found["scores"]
        assert len(scores["baseline"]["event_f1_macro"]) == 2
        by_name = {row["score"]: row for row in found["tests"]}
        means = [np.mean(scores[arm]["event_f1_macro"]) for arm in ("baseline", "coherence")]
        assert by_name["event_f1_macro"]["difference"] == pytest.approx(means[1] - means[0])
        assert found["bootstrap"]["low"] <= found["bootstrap"]["high"]
        assert len(found["classwise"]) == 10
    written = {path.name for path in folder.rglob("*")}
    assert {"report.md", "table_1.tex", "training.svg"} <= written
    assert {"error_profile_validation.svg", "reference_events_public.tex"} <= written
    assert "validation: What became of the reference events (%)" in said
    for name, clips in (("validation", 5), ("public", 4)):
        # Two trials; all clips but the last have two events.
        assert content["profiles"][name]["coherence"]["events"] == 2 * 2 * (clips - 1)
    assert "Table 1" in (folder / "report.md").read_text()
    assert "posteriors_of_a_clip.svg" in written
    # Of one clip alone, whatever the number of trials and sets.


def test_scores_are_those_of_the_trainers_own_test(finished):
    folder, _, _ = finished
    sets = json.loads((folder / "metrics.json").read_text())["sets"]
    for arm in ("baseline", "coherence"):
        for number in range(2):
            trial = folder / arm / f"trial_{number}"
            for name, place in (("validation", trial), ("public", trial / "public")):
                own = json.loads((place / "metrics_test" / "metrics.json").read_text())
                ours = sets[name]["scores"][arm]
                for key in ("event_f1_macro", "event_f1_micro", "intersection_f1_macro"):
                    assert ours[key][number] == pytest.approx(own[f"test/student/{key}"])


def test_the_epoch_is_chosen_on_validation(finished):
    folder, _, _ = finished
    sets = json.loads((folder / "metrics.json").read_text())["sets"]
    for number in range(2):
        lines = (folder / "coherence" / f"trial_{number}" / "epochs.tsv").read_text().splitlines()
        column = lines[0].split("\t").index("val/obj_metric")
        best = max(float(line.split("\t")[column]) for line in lines[1:])
        tested = sets["validation"]["scores"]["coherence"]["event_f1_macro"][number]
        assert tested == pytest.approx(best, abs=1e-5)


def test_both_arms_take_the_same_seeds(finished):
    folder, _, _ = finished
    records = {
        (arm, n): json.loads((folder / arm / f"trial_{n}" / "trial.json").read_text())
        for arm in ("baseline", "coherence")
        for n in range(2)
    }
    for n in range(2):
        assert records["baseline", n]["settings"]["number"] == n
        assert records["coherence", n]["settings"]["number"] == n
    assert records["baseline", 0]["scores"] != records["baseline", 1]["scores"]


def test_it_goes_on_where_it_was_stopped(finished, main, tmp_path, capfd):
    folder, _, arguments = finished
    shutil.copytree(folder, tmp_path / "exp")
    stopped = tmp_path / "exp" / "coherence" / "trial_1"
    record = json.loads((stopped / "trial.json").read_text())
    (stopped / "trial.json").write_text(json.dumps({"settings": record["settings"]}))
    shutil.rmtree(stopped / "public")
    kept = os.stat(tmp_path / "exp" / "baseline" / "trial_0" / "last.ckpt").st_mtime_ns
    main("train_synthetic.py", *arguments, "--log_dir", tmp_path / "exp", "--quiet")
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.startswith("\nTable 1\n")
    sets = [
        json.loads((place / "metrics.json").read_text()) for place in (folder, tmp_path / "exp")
    ]
    assert sets[0]["sets"] == sets[1]["sets"]
    again = json.loads((stopped / "trial.json").read_text())
    assert again["scores"] == record["scores"]
    assert again["public"] == record["public"]
    assert os.stat(tmp_path / "exp" / "baseline" / "trial_0" / "last.ckpt").st_mtime_ns == kept


def test_data_without_a_public_set(finished, main, dataset, tmp_path, capsys):
    folder, _, (first, conf_file, *_) = finished
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    shutil.rmtree(data / "metadata" / "eval")
    shutil.copytree(folder, tmp_path / "exp")
    for record in (tmp_path / "exp").glob("*/*/trial.json"):
        record.write_text(record.read_text().replace(str(dataset), str(data)))
    arguments = (first, conf_file, "--data", data, "--trials", 1)
    main("train_synthetic.py", *arguments, "--log_dir", tmp_path / "exp")
    assert "no public set" in capsys.readouterr().out
    content = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert set(content["sets"]) == {"validation"}
    # One trial: there is no test over trials, and no number is made up.
    assert content["sets"]["validation"]["tests"][0]["p (t-test)"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trials", "0"], "--trials is 0"),
        (["--data", "nowhere"], "--data is nowhere"),
        (["--conf_file", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--set", "data.test_tsv=none.tsv"], "data.test_tsv is none.tsv, and there is no such"),
    ],
)
def test_bad_arguments(refused, arguments, words):
    assert words in refused("train_synthetic.py", *arguments)


def test_the_configuration_is_the_papers():
    config = load_config(CONFS / "table1.yaml")
    encoder = make_encoder(config)
    assert encoder.frame_seconds == pytest.approx(1 / 12.5)
    assert config["training"]["median_window"] * encoder.frame_seconds == pytest.approx(0.4)
    module = CRNN(**config["net"]).eval()
    with FeatureTap(module, "cnn") as tap, torch.no_grad():
        strong, _ = module(torch.zeros(1, 128, 1001))
        assert tap.pop().shape == (1, 125, 128)
    assert strong.shape == (1, 10, 125)
    coherence = config["coherence"]
    assert (coherence["alpha1"], coherence["alpha2"]) == (0.1, 0.03)
    assert coherence["annealing_epochs"] == 5
    scheduler = make_scheduler(config, torch.optim.Adam(module.parameters(), 1e-3), batches=10)
    rates = []
    for _ in range(500):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates[:50] == [0.001] * 50
    assert rates[50] == pytest.approx(0.0008)
    assert rates[-1] == pytest.approx(0.001 * 0.8**9)
