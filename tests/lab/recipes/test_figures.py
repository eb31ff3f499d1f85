"""Figures and numbers at the boundaries of events, of two trained networks."""

import json

import numpy as np
import pytest
import torch

from lab.baseline.config import load_config
from lab.baseline.experiment import build
from lab.data.desed import CLASSES, official_layout
from lab.evaluation import plots
from lab.runs.trials import Trial, run_trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trials(dataset, conf_file, tmp_path_factory):
    """Folders of a baseline's and a coherence model's trial that have learned the tones."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    config = load_config(conf_file, {"data": official_layout(dataset)})
    config["training"].update(n_epochs=20, validation_interval=20)
    folders = [folder / setting / "trial_0" for setting in ("plain", "steps")]
    for place in folders:
        run_trial(Trial("", config, place == folders[1], 0, place), "cpu")
    return folders


@pytest.fixture
def checkpoint(trials):
    return trials[0] / "last.ckpt"


@pytest.fixture
def analyse(tmp_path, main):
    def analyse(*arguments):
        main("figures.py", *arguments, "--log_dir", tmp_path / "out", "--gpus", "cpu")
        return json.loads((tmp_path / "out" / "boundaries.json").read_text())

    return analyse


def test_every_figure_of_two_trials_is_drawn(analyse, trials, tmp_path, capsys):
    numbers = analyse(*trials)
    drawn = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert {
        "event_f1_by_class",
        "change_of_z_inside_events",
        "mean_posterior_around_boundaries",
        "error_profile",
        "posteriors_of_a_clip",
    } <= drawn
    output = capsys.readouterr().out
    assert "event_f1_macro" in output
    assert "What became of the reference events (%)" in output
    for counts in numbers["profiles"].values():
        assert counts["events"] == 8
        assert counts["missed"] < 8
    assert set(numbers["scores"]) == {
        f"{model}, {name}" for model in ("plain", "steps") for name in ("validation", "public")
    }
    for result in numbers["events"].values():
        assert result["events in common"] > 0
        assert result["events found"] > 0
        assert abs(result["onset error (s), median"]) < 0.2
    for result in numbers["events"].values():
        assert 0 < result["the same over mean |z|"] < result["change of z inside, mean"]
    assert "Figure 4c" in (tmp_path / "out" / "report.md").read_text()


@pytest.fixture
def unwritten(monkeypatch):
    """Figures are made and not written, which takes most of the time."""
    monkeypatch.setattr(plots, "save", lambda figure, path: [])


@pytest.mark.usefixtures("unwritten")
def test_a_model_against_itself_gains_nothing(analyse, checkpoint):
    numbers = analyse(checkpoint, checkpoint, "--names", "one", "two")
    assert numbers["gained"] == {}
    assert numbers["events"]["one"] == numbers["events"]["two"]


@pytest.mark.usefixtures("unwritten")
def test_chosen_data_classes_and_clip(analyse, trials, dataset):
    numbers = analyse(*trials, "--data", dataset, "--clip", "1.wav", "--classes", *CLASSES[:2])
    assert numbers["posteriors"]["clip"] == "1.wav"


def test_models_that_find_nothing(analyse, checkpoint, tmp_path, capsys):
    silent = torch.load(checkpoint, weights_only=True)
    silent["state_dict"]["sed_student.dense.bias"] -= 100
    torch.save(silent, tmp_path / "silent.ckpt")
    numbers = analyse(tmp_path / "silent.ckpt", tmp_path / "silent.ckpt")
    assert "no Figure 4a and 4b: no event" in capsys.readouterr().out
    assert numbers["scores"]["baseline, validation"]["event_f1_macro"] == 0
    assert numbers["events"]["baseline"]["onset error (s), median"] is None
    assert numbers["profiles"]["baseline"]["missed"] == 8


def test_bad_arguments(analyse, trials, checkpoint, conf_file, dataset, tmp_path, capsys):
    config = load_config(conf_file, {"data": official_layout(dataset)})
    config["feats"].update(hop_length=128)
    config["data"].update(net_subsample=4)
    config["net"].update(pooling=[[2, 4], [2, 4]])
    config["scaler"].update(statistic="instance", normtype="standard")
    module = build(config, coherence=False, log_dir=tmp_path / "run", train=False).module
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content, tmp_path / "other.ckpt")
    np.savetxt(tmp_path / "text.ckpt", [1])
    for arguments, words in (
        ((checkpoint, tmp_path / "other.ckpt"), "the models differ in frame_hop"),
        ((checkpoint, tmp_path / "text.ckpt"), "cannot be loaded"),
        ((*trials, "--clip", "99.wav"), "--clip 99.wav"),
        ((*trials, "--class", "Snow"), "--class Snow"),
        ((*trials, "--names", "a", "a"), "--names"),
        ((checkpoint, tmp_path), "no folder of a finished trial"),
        ((*trials, "--data", tmp_path / "nowhere"), "nowhere"),
    ):
        with pytest.raises(SystemExit) as stop:
            analyse(*arguments)
        assert stop.value.code == 2
        output = capsys.readouterr().err
        assert words in output
        assert len(output.splitlines()) == 1
