"""Flags that the recipes share, and what is made of them."""

import argparse
from pathlib import Path

import pytest

from dcase_coherence.runs.options import (
    add_options,
    add_verify,
    check_counts,
    results_folder,
    running,
)
from dcase_coherence.system.errors import InputError


def parse(*arguments, **helps):
    parser = argparse.ArgumentParser()
    add_options(parser, **helps)
    add_verify(parser)
    return parser.parse_args(arguments)


def test_defaults():
    args = parse()
    assert (args.conf_file, args.data, args.log_dir, args.gpus) == (None,) * 4
    assert (args.trials, args.set) == (1, [])
    assert running(args) == {
        "gpus": None,
        "progress": True,
        "fast_dev_run": False,
        "verify_psds": False,
    }


def test_flags_reach_the_trials():
    args = parse(
        *("--gpus", "0,1", "--quiet", "--fast_dev_run", "--verify", "--trials", "3"),
        *("--set", "opt.lr=0.01", "coherence.normalize=true"),
    )
    assert running(args) == {
        "gpus": "0,1",
        "progress": False,
        "fast_dev_run": True,
        "verify_psds": True,
    }
    assert args.trials == 3
    assert args.set == ["opt.lr=0.01", "coherence.normalize=true"]


def test_a_recipe_gives_its_own_help(capsys):
    with pytest.raises(SystemExit):
        parse("--help", conf_file="of this recipe", log_dir="theirs", trials="many", gpus="none")
    said = capsys.readouterr().out
    for words in ("of this recipe", "theirs", "many", "none"):
        assert words in said


def test_counts_below_1_are_refused():
    check_counts(argparse.Namespace(trials=1, workers=1), "trials", "workers")
    with pytest.raises(InputError, match="--workers is 0; give at least 1"):
        check_counts(argparse.Namespace(trials=1, workers=0), "trials", "workers")


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
    assert results_folder(args, "alphas_") == Path("exp/alphas_mini")
