"""Flags that the recipes share, and what is made of them."""

import argparse
import importlib.util
from pathlib import Path

import pytest

from lab.errors import InputError
from lab.runs.options import add_options, results_folder, results_name, running


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


def test_flags_reach_the_trials():
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
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda one: None if one == name else find(one))
    running(parse(), "mini")
    with pytest.raises(InputError, match=rf"^{name} is not installed; pip install .*tune"):
        running(parse("--storage", "sqlite:///study.db"), "mini")


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
