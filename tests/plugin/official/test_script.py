"""The official script with the coherence subclass, on a small stand-in."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from stand_in import CONFIG, write_checkout

from dcase_coherence.official import script, trainers
from dcase_coherence.official.errors import InputError

pytest.importorskip("pytorch_lightning")
yaml = pytest.importorskip("yaml")


@pytest.fixture
def run(checkout, tmp_path, monkeypatch):
    """Run the stand-in's script, with a section `coherence:` in its yaml if one is given."""
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)

    def run(*argv, section=None, net=(), **options):
        if section is not None or net:
            config = {**CONFIG, "net": {**CONFIG["net"], **dict(net)}, "coherence": section}
            (tmp_path / "conf.yaml").write_text(yaml.safe_dump(config))
            argv = ("--conf_file", "conf.yaml", *argv)
        return script.run_official(checkout, argv=argv, **options)

    return run


def test_both_arms_train_test_and_keep_their_checkpoint(run, tmp_path, capsys):
    import pytorch_lightning

    before = (sys.argv, list(sys.path), os.getcwd(), pytorch_lightning.Trainer)
    result = run()
    assert (sys.argv, sys.path, os.getcwd(), pytorch_lightning.Trainer) == before
    assert "local" not in sys.modules
    out = capsys.readouterr().out
    assert result.checkpoint.is_file()
    assert result.checkpoint.parent == result.log_dir
    assert tmp_path / "exp/dcase2021_task4_baseline_coherence" in result.log_dir.parents
    mean = result.metrics["test/teacher/mean"]
    assert 0.0 < mean < 1.0
    assert result.scores == {"test/teacher/mean": mean}
    assert out.endswith(f"test/teacher/mean: {mean:.4f}\n")
    assert out.index("coherence: alpha1=0.3, alpha2=0.3, ") < out.index("preparing the data")
    if not torch.cuda.is_available():
        assert "no GPU found" in out
    baseline = run("--log_dir", "logs/base", arm="baseline")
    assert "alpha1" not in capsys.readouterr().out
    assert tmp_path / "logs/base" in baseline.log_dir.parents
    kept = torch.load(result.checkpoint)
    assert kept["hyper_parameters"]["coherence"]["alpha1"] == 0.3
    assert "coherence" not in torch.load(baseline.checkpoint)["hyper_parameters"]
    # A coherence checkpoint gives the same in the untouched script.
    again = run("--test_from_checkpoint", str(result.checkpoint), arm="baseline")
    assert again.metrics["test/teacher/mean"] == mean


def test_a_run_is_resumed_from_its_last_checkpoint(run, checkout):
    trained = run()
    script = checkout / "recipes/dcase2021_task4_baseline/train_sed.py"
    script.write_text(script.read_text().replace("max_epochs=2", "max_epochs=3"))
    last = trained.checkpoint.parent / "last.ckpt"
    resumed = run("--resume_from_checkpoint", str(last), "--log_dir", "resumed")
    kept = torch.load(resumed.checkpoint.parent / "last.ckpt")
    assert torch.load(last)["global_step"] == 4  # two epochs of two batches
    assert kept["global_step"] == 6
    assert kept["lr_schedulers"][0]["step_num"] == 6


def test_with_both_alphas_zero_the_two_arms_end_equal(run):
    weights = []
    for arm in script.ARMS:
        result = run("--log_dir", arm, arm=arm, section={"alpha1": 0.0, "alpha2": 0.0})
        weights.append(torch.load(result.checkpoint)["state_dict"])
    assert set(weights[0]) == set(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_both_arms_are_compared(checkout, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).resolve().parents[3] / "recipes" / "train_sed_coherence.py"
    main = runpy.run_path(str(recipe))["main"]
    strong_term = {**CONFIG, "coherence": {"alpha1": 90.0, "alpha2": 0.03, "annealing_epochs": 0}}
    Path("conf.yaml").write_text(yaml.safe_dump(strong_term))
    options = ["--arm", "both", "--log_dir", "logs", "--conf_file", "conf.yaml"]
    main(["--baseline", str(checkout), *options])
    out = capsys.readouterr().out
    values = [float(line.split()[1]) for line in out.splitlines() if line.startswith("test/")]
    (row,) = [line.split() for line in out.splitlines() if line.startswith("test/teacher/mean  ")]
    assert row[1:3] == [f"{value:.4f}" for value in values[:2]]
    assert float(row[3]) == pytest.approx(values[1] - values[0], abs=1.5e-4)
    assert values[0] != values[1]
    assert out.count("coherence: alpha1=90.0, alpha2=0.03, lags=[1], ") == 1
    # What the official code refuses is a sentence of the command, too.
    with pytest.raises(SystemExit) as stop:
        main(["--baseline", str(tmp_path), "--conf_file", "conf.yaml"])
    assert stop.value.code == 2
    assert f"error: {tmp_path} is not a checkout of DESED_task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "preset", "alphas"),
    [
        (None, None, (0.3, 0.3)),
        (None, "exact", (0.1, 0.03)),
        ({"alpha1": 0.2}, None, (0.2, 0.0)),
        (None, "transitions", (0.0, 0.0)),
        ({"preset": "steps", "alpha1": 0.2}, None, (0.2, 0.3)),
        ({"alpha1": 0.2}, "steps", (0.3, 0.3)),
        ({"preset": "steps", "margin": 4.0}, "exact", (0.1, 0.03)),
    ],
)
def test_a_preset_of_the_command_goes_before_the_section(checkout, section, preset, alphas):
    config = {**CONFIG, "coherence": section}
    with trainers.importable(checkout):
        settings = trainers.check_section("dcase2021_task4_baseline", config, preset)
    assert (settings["alpha1"], settings["alpha2"]) == alphas
    assert settings["margin"] is None
    assert "strong" not in settings


@pytest.mark.parametrize("arm", script.ARMS)
@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"alpha": 1.0}, "unknown key 'alpha'"),
        ({"strong": ["synthetic"]}, "unknown key 'strong'"),
        ({"path": "conv"}, "no submodule 'conv'; its children are: cnn, dense"),
        (0.1, r"coherence: is 0\.1; give a section of keys"),
    ],
)
def test_a_wrong_section_is_said_before_the_data_are_prepared(run, capsys, section, reason, arm):
    with pytest.raises(InputError, match=reason):
        run(section=section, arm=arm)
    assert "preparing" not in capsys.readouterr().out


def test_the_strong_sets_of_2024_are_checked_with_the_section(checkout):
    config = {**CONFIG, "coherence": {"strong": ["synth"]}}
    with trainers.importable(checkout):
        with pytest.raises(InputError, match=r"strong is .*synth"):
            trainers.check_section("dcase2024_task4_baseline", config)
        config["coherence"]["strong"] = ["real"]
        settings = trainers.check_section("dcase2024_task4_baseline", config)
    assert settings["strong"] == ["real"]
    assert settings["alpha1"] == 0.3  # besides naming the sets the section is empty: steps


def test_what_cannot_be_used_is_refused(run, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    for argv, options, message in (
        (["--conf_file", "empty.yaml"], {}, r"empty\.yaml has no section 'training'"),
        (["--conf_file", "nowhere.yaml"], {}, r"cannot read the configuration .*nowhere.yaml"),
        (["--test_from_checkpoint", "no.ckpt"], {}, r"--test_from_checkpoint .*no.ckpt is not a"),
        ([], {"arm": "both"}, "arm is 'both'"),
        ([], {"net": {"nb_filters": 4}, "allow_drift": True}, "section `net:` cannot be used"),
    ):
        with pytest.raises(InputError, match=message):
            run(*argv, **options)


def test_an_environment_that_cannot_run_the_recipe_is_said(checkout, tmp_path):
    import pytorch_lightning

    conf = tmp_path / "conf.yaml"
    conf.write_text(yaml.safe_dump(CONFIG))
    if not pytorch_lightning.__version__.startswith("1."):
        with pytest.raises(InputError, match=r"requirements-dcase2024\.txt, built with"):
            script.run_official(checkout, "dcase2024_task4_baseline", ["--conf_file", str(conf)])
    file = checkout / "recipes/dcase2021_task4_baseline/local/sed_trainer.py"
    file.write_text("import no_such_package.inside\n" + file.read_text())
    with pytest.raises(InputError, match=r"'no_such_package'.*requirements-dcase2021\.txt"):
        trainers.load_baseline(checkout)


def test_without_a_gpu_no_backend_is_named():
    later = {"strategy": None, "accelerator": "gpu", "devices": 1}
    assert script.on_cpu(later) == {"accelerator": "cpu", "devices": 1}
    assert script.on_cpu({"strategy": "dp", "distributed_backend": "ddp"}) == {}


@pytest.mark.parametrize("name", ["strategy", "distributed_backend"])
def test_processes_that_would_train_without_the_term_are_refused(name):
    with pytest.raises(InputError, match="backend is 'ddp'"):
        script.refuse_ddp({name: "ddp"})
    script.refuse_ddp({name: None})


def test_training_beside_a_drifted_desed_task_is_refused(tmp_path, monkeypatch):
    drifted = write_checkout(tmp_path / "head", rescale="* 2 - 1", masks=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\[-1, 1\].*SpecAugment"):
        script.run_official(drifted)
    assert not (tmp_path / "exp").exists()
