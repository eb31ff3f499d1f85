"""Flags that the recipes share, and what is made of them."""

import argparse
import importlib
import importlib.util
from pathlib import Path

import pytest

from lab.errors import InputError
from lab.runs.options import (
    add_options,
    check_libraries,
    results_folder,
    results_name,
    running,
)


def parse(*arguments, **helps):
    parser = argparse.ArgumentParser()
    add_options(parser, **helps)
    return parser.parse_args(arguments)


def test_defaults():
    args = parse()
    assert (args.conf_file, args.data, args.log_dir, args.gpus) == (None,) * 4
    assert (args.trials, args.set) == (1, [])
    assert running(args, "mini") == {
        "gpus": None,
        "progress": True,
        "fast_dev_run": False,
        "verify_psds": False,
        "storage": None,
        "study": "mini",
    }


def test_flags_reach_the_trials(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    args = parse(
        *("--gpus", "0,1", "--quiet", "--fast_dev_run", "--verify", "--trials", "3"),
        *("--set", "opt.lr=0.01", "coherence.normalize=true"),
        *("--storage", "sqlite:///study.db", "--study", "mine"),
    )
    assert running(args, "mini") == {
        "gpus": "0,1",
        "progress": False,
        "fast_dev_run": True,
        "verify_psds": True,
        "storage": "sqlite:///study.db",
        "study": "mine",
    }
    assert args.trials == 3
    assert args.set == ["opt.lr=0.01", "coherence.normalize=true"]


@pytest.mark.parametrize("name", ["optuna", "sqlalchemy"])
def test_trials_are_not_shared_without_optuna(monkeypatch, name):
    there = {"optuna": "", "sqlalchemy": ""}
    del there[name]
    monkeypatch.setattr(importlib.util, "find_spec", there.get)
    running(parse(), "mini")
    with pytest.raises(InputError, match=rf"^{name} is not installed; pip install .*tune"):
        running(parse("--storage", "sqlite:///study.db"), "mini")


@pytest.mark.parametrize(
    ("library", "release", "reason"),
    [
        ("sed_eval", None, "sed_eval is not installed"),
        ("psds_eval", None, "psds_eval is not installed"),
        ("pkg_resources", None, "pkg_resources is not installed"),
        ("numpy", "2.10.0", "psds_eval does not run on numpy 2.10.0"),
        ("pandas", "3.0.1", "psds_eval does not run on pandas 3.0.1"),
    ],
)
def test_a_run_says_that_no_score_is_held(monkeypatch, capsys, library, release, reason):
    there = {"sed_eval": "", "psds_eval": "", "pkg_resources": ""}
    if release is None:
        del there[library]
    for name, known in (("numpy", "2.3.5"), ("pandas", "2.3.3")):
        version = release if name == library else known
        monkeypatch.setattr(importlib.import_module(name), "__version__", version)
    monkeypatch.setattr(importlib.util, "find_spec", there.get)
    check_libraries()
    said = capsys.readouterr().out
    assert said.startswith(f"no score is held against sed_eval and psds_eval: {reason}; ")
    assert said.endswith("pip install -c recipes/envs/constraints.txt '.[recipes,verify]'\n")
    with pytest.raises(InputError, match=rf"^--verify needs psds_eval, and {reason}; .*verify"):
        check_libraries(verify=True)


def test_nothing_is_said_where_the_libraries_are(monkeypatch, capsys):
    monkeypatch.setattr("lab.evaluation.reference.missing", lambda: "")
    check_libraries(verify=True)
    assert capsys.readouterr().out == ""


def test_the_name_of_a_study_is_the_same_on_all_machines():
    args = parse("--conf_file", "confs/mini.yaml", "--log_dir", "here/mine", "--fast_dev_run")
    assert results_name(args, "compare_") == "compare_mini_fast_dev_run"
    assert results_name(args, setting="confs/settings/exact.yaml") == "mini_exact_fast_dev_run"


def test_a_recipe_gives_its_own_help(capsys):
    with pytest.raises(SystemExit):
        parse("--help", conf_file="of this recipe", log_dir="theirs", trials="many", gpus="none")
    said = capsys.readouterr().out
    for words in ("of this recipe", "theirs", "many", "none"):
        assert words in said


def test_trials_below_1_are_refused():
    with pytest.raises(InputError, match="--trials is 0; give at least 1"):
        running(parse("--trials", "0"), "mini")


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["--conf_file", "confs/mini.yaml"], "exp/mini"),
        (["--conf_file", "confs/mini.yaml", "--fast_dev_run"], "exp/mini_fast_dev_run"),
        (["--conf_file", "confs/mini.yaml", "--log_dir", "mine", "--fast_dev_run"], "mine"),
    ],
)
def test_folder_of_the_results(arguments, folder):
    assert results_folder(parse(*arguments)) == Path(folder)


def test_folder_of_other_results_than_a_trainings():
    args = parse("--conf_file", "confs/mini.yaml")
    assert results_folder(args, "compare_") == Path("exp/compare_mini")
