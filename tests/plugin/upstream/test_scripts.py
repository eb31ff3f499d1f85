"""The official training scripts, whole: train, checkpoint, test, with and without the term."""

import os
import subprocess
import sys

import pytest
import torch

from dcase_coherence.official import script, shims, trainers

pytestmark = pytest.mark.slow

yaml = pytest.importorskip("yaml")

FITS_ON_CPU = ("sed_trainer",)  # the pretrained trainers need embeddings of real clips


@pytest.fixture
def run(case, checkout, tiny_config, data, tmp_path, monkeypatch):
    if case.trainer not in FITS_ON_CPU:
        pytest.skip("the script needs embeddings of its clips; see test_trainers.py")
    monkeypatch.chdir(tmp_path)

    def run(*argv, arm, folder=checkout, **coherence):
        config = tiny_config(data)
        if coherence:
            config["coherence"] = coherence
        (tmp_path / "conf.yaml").write_text(yaml.safe_dump(config))
        argv = ["--conf_file", "conf.yaml", "--log_dir", f"exp/{arm}", "--fast_dev_run", *argv]
        return script.run_official(folder, case.recipe, argv, arm=arm, trainer=case.trainer)

    return run


def predictions(folder):
    """Text of each table of detections; the years differ in where they put metrics_test."""
    files = sorted(folder.glob("**/metrics_test/**/*.tsv"))
    assert files
    return {str(file).split("metrics_test")[1]: file.read_text() for file in files}


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def load(checkpoint):
    with shims.shims():
        return torch.load(checkpoint)["state_dict"]


def test_a_coherence_checkpoint_predicts_the_same_in_the_official_script(
    case, checkout, run, tmp_path
):
    trained = run(arm="coherence")
    assert trained.checkpoint.is_file()
    logged = scalars(trained.log_dir)
    assert logged["train/coherence/term"][-1][1] != 0.0
    assert 0.0 < logged["train/coherence/weight"][-1][1] < 1.0
    assert "test/teacher/event_f1_macro" in trained.metrics

    official = run("--test_from_checkpoint", str(trained.checkpoint), arm="baseline")
    assert predictions(tmp_path / "exp/baseline") == predictions(tmp_path / "exp/coherence")
    for name, value in official.metrics.items():
        if name.startswith("test/"):
            assert value == trained.metrics[name], name


def test_the_official_script_started_by_hand_takes_a_coherence_checkpoint(
    case, checkout, run, tmp_path
):
    if case.year == "2021":
        pytest.skip("--gpus of the 2021 script has no value for the CPU")
    trained = run(arm="coherence")
    folder = trainers.recipe_folder(checkout, case.recipe)
    by_hand = tmp_path / "by_hand"
    by_hand.mkdir()
    result = subprocess.run(
        [
            *(sys.executable, str(folder / trainers.SCRIPTS[case.trainer])),
            *("--conf_file", str(tmp_path / "conf.yaml"), "--gpus", "0", "--fast_dev_run"),
            *("--test_from_checkpoint", str(trained.checkpoint)),
        ],
        cwd=by_hand,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert predictions(by_hand) == predictions(tmp_path / "exp/coherence")


def test_with_both_alphas_zero_the_logs_are_the_official_ones(run):
    official = run(arm="baseline")
    ours = run(arm="coherence", alpha1=0.0, alpha2=0.0)
    expected, logged = scalars(official.log_dir), scalars(ours.log_dir)
    for name, values in expected.items():
        if "energy" not in name:
            assert logged[name] == values, name
    assert {name for name in logged if "coherence" not in name} == set(expected)
    weights, same = load(official.checkpoint), load(ours.checkpoint)
    assert set(weights) == set(same)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
