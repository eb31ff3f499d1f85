"""The official script with the coherence subclass, on a small stand-in."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from stand_in import CONFIG, write_checkout

from dcase_coherence.official import script, trainers
from lab.errors import InputError

pytest.importorskip("pytorch_lightning")
yaml = pytest.importorskip("yaml")


@pytest.fixture
def run(checkout, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)

    def run(*argv, **options):
        return script.run_official(checkout, argv=argv, **options)

    return run


def test_both_arms_train_test_and_keep_their_checkpoint(run, tmp_path, capsys):
    result = run()
    assert result.checkpoint.is_file()
    assert result.checkpoint.parent == result.log_dir
    assert tmp_path / "exp/dcase2021_task4_baseline_coherence" in result.log_dir.parents
    assert 0.0 < result.metrics["test/teacher/mean"] < 1.0
    baseline = run("--log_dir", "logs/base", arm="baseline")
    assert tmp_path / "logs/base" in baseline.log_dir.parents
    kept = torch.load(result.checkpoint)
    assert kept["hyper_parameters"]["coherence"]["alpha1"] == 0.3
    assert "coherence" not in torch.load(baseline.checkpoint)["hyper_parameters"]
    if not torch.cuda.is_available():
        assert "no GPU found" in capsys.readouterr().out


def test_a_coherence_checkpoint_gives_the_same_in_the_untouched_script(run, tmp_path):
    trained = run()
    again = run("--test_from_checkpoint", str(trained.checkpoint), arm="baseline")
    assert again.metrics["test/teacher/mean"] == trained.metrics["test/teacher/mean"]


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


def test_with_both_alphas_zero_the_two_arms_end_equal(run, tmp_path):
    config = {**CONFIG, "coherence": {"alpha1": 0.0, "alpha2": 0.0}}
    (tmp_path / "zero.yaml").write_text(yaml.safe_dump(config))
    weights = []
    for arm in script.ARMS:
        result = run("--conf_file", "zero.yaml", "--log_dir", arm, arm=arm)
        weights.append(torch.load(result.checkpoint)["state_dict"])
    assert set(weights[0]) == set(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_run_leaves_the_process_as_it_was(run, tmp_path):
    import pytorch_lightning

    before = (sys.argv, list(sys.path), os.getcwd(), pytorch_lightning.Trainer)
    run("--fast_dev_run")
    assert (sys.argv, sys.path, os.getcwd(), pytorch_lightning.Trainer) == before
    assert "local" not in sys.modules


def test_the_settings_and_the_test_scores_are_printed_once(run, capsys):
    result = run()
    out = capsys.readouterr().out
    assert out.count("coherence: alpha1=0.3, alpha2=0.3, ") == 1
    assert out.index("coherence: alpha1") < out.index("preparing the data")
    mean = result.metrics["test/teacher/mean"]
    assert out.endswith(f"test/teacher/mean: {mean:.4f}\n")
    assert out.count("test/teacher/mean:") == 1
    assert result.scores == {"test/teacher/mean": mean}
    run("--fast_dev_run", arm="baseline")
    assert "alpha1" not in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("section", "preset", "settings"),
    [
        (None, None, "alpha1=0.3, alpha2=0.3, lags=[1, 2, 4, 8], "),
        (None, "exact", "alpha1=0.1, alpha2=0.03, lags=[1], "),
        ({"alpha1": 0.2}, None, "alpha1=0.2, alpha2=0.0, lags=[1], "),
        (None, "transitions", "alpha1=0.0, alpha2=0.0, lags=[1], "),
        ({"preset": "steps", "alpha1": 0.2}, None, "alpha1=0.2, alpha2=0.3, lags=[1, 2, 4, 8], "),
        ({"alpha1": 0.2}, "steps", "alpha1=0.3, alpha2=0.3, lags=[1, 2, 4, 8], "),
        ({"preset": "steps", "margin": 4.0}, "exact", "alpha1=0.1, alpha2=0.03, lags=[1], "),
    ],
)
def test_a_preset_of_the_command_goes_before_the_section(
    run, tmp_path, capsys, section, preset, settings
):
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump({**CONFIG, "coherence": section}))
    run("--conf_file", "conf.yaml", "--fast_dev_run", preset=preset)
    out = capsys.readouterr().out
    assert out.count(f"coherence: {settings}") == 1
    assert "margin=4.0" not in out


@pytest.mark.parametrize("arm", script.ARMS)
@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"alpha": 1.0}, "unknown key 'alpha'"),
        ({"alpha1": -1.0}, "alpha1"),
        ({"strong": ["synthetic"]}, "unknown key 'strong'"),
        ({"path": "conv"}, "no submodule 'conv'; its children are: cnn, dense"),
        (0.1, r"coherence: is 0\.1; give a section of keys"),
        ({"pseudo": {}}, "unknown key 'pseudo'"),
    ],
)
def test_a_wrong_section_is_said_before_the_data_are_prepared(
    run, tmp_path, capsys, section, reason, arm
):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**CONFIG, "coherence": section}))
    with pytest.raises(InputError, match=reason):
        run("--conf_file", "bad.yaml", arm=arm)
    assert "preparing" not in capsys.readouterr().out


def test_an_empty_section_is_the_preset_steps(checkout, tmp_path):
    with trainers.importable(checkout):
        settings = trainers.check_section("dcase2021_task4_baseline", {**CONFIG, "coherence": None})
    assert (settings["alpha1"], settings["alpha2"]) == (0.3, 0.3)
    assert "strong" not in settings


def test_the_strong_sets_of_2024_are_checked_with_the_section(checkout):
    config = {**CONFIG, "coherence": {"strong": ["synth"]}}
    with trainers.importable(checkout):
        with pytest.raises(InputError, match="strong holds 'synth'"):
            trainers.check_section("dcase2024_task4_baseline", config)
        config["coherence"]["strong"] = ["real"]
        settings = trainers.check_section("dcase2024_task4_baseline", config)
    assert settings["strong"] == ["real"]


def test_a_network_that_cannot_be_is_said(run, tmp_path):
    config = {**CONFIG, "net": {"nb_filters": 4}}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="the section `net:` cannot be used"):
        run("--conf_file", "bad.yaml", allow_drift=True)


def test_a_recipe_of_lightning_1_is_refused_before_anything_is_imported(checkout, tmp_path):
    import pytorch_lightning

    if pytorch_lightning.__version__.startswith("1."):
        pytest.skip("this environment may be the recipe's own")
    conf = tmp_path / "conf.yaml"
    conf.write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(InputError, match=r"requirements-dcase2024\.txt, built with: python3\.8"):
        script.run_official(checkout, "dcase2024_task4_baseline", ["--conf_file", str(conf)])


def test_a_package_that_is_missing_is_said_with_the_environment(checkout):
    file = checkout / "recipes/dcase2021_task4_baseline/local/sed_trainer.py"
    file.write_text("import no_such_package.inside\n" + file.read_text())
    with pytest.raises(InputError, match=r"'no_such_package'.*requirements-dcase2021\.txt"):
        trainers.load_baseline(checkout)


def test_without_a_gpu_no_backend_is_named(capsys):
    later = {"strategy": None, "accelerator": "gpu", "devices": 1}
    assert script.on_cpu(later) == {"accelerator": "cpu", "devices": 1}
    assert script.on_cpu({"strategy": "dp", "distributed_backend": "ddp"}) == {}


def test_processes_that_would_train_without_the_term_are_refused():
    for name in ("strategy", "distributed_backend"):
        with pytest.raises(InputError, match="backend is 'ddp'"):
            script.refuse_ddp({name: "ddp"})
        script.refuse_ddp({name: None})


def test_a_yaml_of_settings_that_cannot_be_is_refused(run, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InputError, match=r"empty\.yaml holds no sections"):
        run("--conf_file", "empty.yaml")
    with pytest.raises(InputError, match=r"cannot read the configuration .*nowhere.yaml"):
        run("--conf_file", "nowhere.yaml")
    with pytest.raises(InputError, match=r"--test_from_checkpoint .*no.ckpt is not a file"):
        run("--test_from_checkpoint", "no.ckpt")
    with pytest.raises(InputError, match="arm is 'both'"):
        run(arm="both")


def test_training_beside_a_drifted_desed_task_is_refused(tmp_path, monkeypatch):
    drifted = write_checkout(tmp_path / "head", rescale="* 2 - 1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        script.run_official(drifted)
    assert not (tmp_path / "exp").exists()
