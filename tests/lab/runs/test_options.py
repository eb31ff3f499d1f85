"""Flags that the recipes share, and what is made of them."""

import argparse
import importlib
import importlib.util

import pytest

from lab.errors import InputError
from lab.runs.options import add_options, check_libraries, running


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_options(parser, conf_file="of this recipe", log_dir="theirs", trials="many")
    return parser.parse_args(arguments)


def test_flags_reach_the_trials(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert running(parse(), "mini") == {
        "gpus": None,
        "progress": True,
        "fast_dev_run": False,
        "verify_psds": False,
        "storage": None,
        "study": "mini",
    }
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
    assert args.set == ["opt.lr=0.01", "coherence.normalize=true"]


def test_what_trials_cannot_run_with_is_refused(monkeypatch):
    with pytest.raises(InputError, match="--trials is 0; give at least 1"):
        running(parse("--trials", "0"), "mini")
    monkeypatch.setattr(importlib.util, "find_spec", {"sqlalchemy": ""}.get)
    with pytest.raises(InputError, match=r"^optuna is not installed; pip install .*tune"):
        running(parse("--storage", "sqlite:///study.db"), "mini")


@pytest.mark.parametrize(
    ("library", "release", "reason"),
    [
        ("sed_eval", None, "sed_eval is not installed"),
        ("psds_eval", None, "psds_eval is not installed"),
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
    output = capsys.readouterr().out
    assert output.startswith(f"no score is held against sed_eval and psds_eval: {reason}; ")
    with pytest.raises(InputError, match=rf"^--verify needs psds_eval, and {reason}; .*verify"):
        check_libraries(verify=True)
