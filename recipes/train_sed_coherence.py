"""Train the mean-teacher baseline and the coherence model and compare them (the paper's Table 2).

Without any argument: generates a small data set, trains both models on it from the same seed,
tests their teachers and prints a comparison. With --data a DESED tree in the official layout; with
--baseline the official code itself. Run it again to go on with an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import time
from pathlib import Path

from lab.errors import InputError, command
from lab.packages import NETWORK, require
from lab.runs.options import add_options, check_libraries, results_name, running

CONFS = Path(__file__).resolve().parent / "confs"
ARMS = ("baseline", "coherence")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_options(
        parser,
        conf_file="YAML (default: confs/mini.yaml; with --data confs/dcase2021.yaml)",
        log_dir="folder of the results (default: exp/<configuration>)",
        trials="trials of each arm, a seed each",
        gpus=" (with --set training.backend=ddp for one training at a time on all of them)",
    )
    parser.add_argument(
        "--resume_from_checkpoint",
        help="go on from the last.ckpt of one trial (default: with all trials in --log_dir)",
    )
    parser.add_argument("--test_from_checkpoint", help="only test this checkpoint (default: none)")
    parser.add_argument(
        "--eval_from_checkpoint", help="only detect events in data.eval_folder (default: none)"
    )
    parser.add_argument(
        "--arm", choices=[*ARMS, "both"], help="default: both; with --baseline coherence"
    )
    parser.add_argument(
        "--preset",
        choices=["transitions", "steps", "exact"],
        help="settings of the term, in place of the configuration's: transitions of posteriors; "
        "steps of z, in bounds; exact is the paper's, which diverges where a network fits its "
        "clips (default: steps where the configuration has no section coherence)",
    )
    parser.add_argument(
        "--setting",
        metavar="FILE",
        help="YAML laid over the configuration, as in confs/settings (default: none)",
    )
    official = parser.add_argument_group("on the official code")
    official.add_argument(
        "--baseline",
        help="a checkout of DESED_task: its own script is run, with its own flags (default: none)",
    )
    recipe = "dcase2021_task4_baseline"
    official.add_argument("--recipe", default=recipe, help="of the checkout (default: %(default)s)")
    official.add_argument(
        "--trainer", help="sed_trainer or sed_trainer_pretrained (default: the only one)"
    )
    official.add_argument(
        "--allow_drift", action="store_true", help="train on any version of it (default: no)"
    )
    args, args.others = parser.parse_known_args(argv)
    if args.others and not args.baseline:
        parser.error(f"unknown arguments: {' '.join(args.others)}")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.baseline:
        run_official_code(args)
        return
    require(*NETWORK)
    check_libraries(args.verify)
    config = configuration(args)
    from lab.devices import own_rank
    from lab.runs.pool import run_trials

    if own_rank() == 0 and not args.quiet:
        print("bundled baseline (--baseline CHECKOUT runs the official code instead)")
    name = results_name(args, setting=args.setting or args.preset)
    log_dir = Path(args.log_dir or Path("exp", name))
    options = running(args, name)
    if args.test_from_checkpoint or args.eval_from_checkpoint:
        test_checkpoint(args, config, log_dir)
        return
    if args.resume_from_checkpoint and args.storage:
        raise InputError(
            "--resume_from_checkpoint goes on with one trial, and --storage shares all of them; "
            "leave out one of the two"
        )
    trials = planned(args, config, log_dir)
    start = time.time()
    records = run_trials(trials, **options)
    if own_rank() == 0:  # of several processes of each training the first tells the results
        seconds = None if args.quiet else time.time() - start
        report(log_dir, trials, records, seconds)


def configuration(args: argparse.Namespace) -> dict:
    """Read the configuration; generate its data set where it describes one."""
    from dcase_coherence.settings import DEFAULT_PRESET
    from lab.baseline.checkpoints import classes_in, load_checkpoint
    from lab.baseline.config import load_config, parse_overrides, read_yaml
    from lab.baseline.place import place_data

    args.conf_file = args.conf_file or CONFS / ("dcase2021.yaml" if args.data else "mini.yaml")
    overrides = parse_overrides(args.set)
    section = read_yaml(args.conf_file).get("coherence")
    preset = args.preset or (None if section else DEFAULT_PRESET)
    layers = [{"coherence": {"preset": preset}}] if preset else []
    layers += [read_yaml(args.setting)] if args.setting else []
    config = load_config(args.conf_file, *layers, overrides)
    checkpoint = args.test_from_checkpoint or args.eval_from_checkpoint
    if checkpoint and config["data"]["classes"] is None:
        # Only it is run: its classes count, whatever a table of training clips has.
        config["data"]["classes"] = classes_in(load_checkpoint(checkpoint))
    generated = Path("data", Path(args.conf_file).stem)
    options = {"few": args.fast_dev_run, "progress": not args.quiet}
    place_data(config, args.data, generated, overrides, **options)
    return config


def planned(args: argparse.Namespace, config: dict, log_dir: Path) -> list:
    """The trials of both arms, or the one that --resume_from_checkpoint names."""
    from lab.runs.trials import Trial

    if not args.resume_from_checkpoint:
        arms = [args.arm] if args.arm in ARMS else ARMS
        return [
            Trial(arm, config, arm == "coherence", n, log_dir / arm / f"trial_{n}")
            for n in range(args.trials)
            for arm in arms
        ]
    last = Path(args.resume_from_checkpoint)
    record = last.parent / "trial.json"
    if last.name != "last.ckpt" or not last.is_file() or not record.is_file():
        raise InputError(
            f"--resume_from_checkpoint is {last}; give the last.ckpt in a trial's folder"
        )
    settings = json.loads(record.read_text())["settings"]
    coherence = settings["coherence"]
    return [Trial(ARMS[coherence], config, coherence, settings["number"], last.parent)]


def test_checkpoint(args: argparse.Namespace, config: dict, log_dir: Path) -> None:
    from lab.baseline.experiment import build

    experiment = build(
        config,
        coherence=False,
        log_dir=log_dir / "test",
        gpus=args.gpus,
        train=False,
        evaluation=args.eval_from_checkpoint is not None,
        fast_dev_run=args.fast_dev_run,
        verify_psds=args.verify,
    )
    scores = experiment.test(args.eval_from_checkpoint or args.test_from_checkpoint)
    if experiment.trainer.is_global_zero:
        for name, value in scores.items():
            print(f"{name}: {value:.4f}")
        print(f"detections in {experiment.folder / 'metrics_test'}")


def report(log_dir: Path, trials: list, records: list[dict], seconds: float | None) -> None:
    """Print and write what the trials of the arms gave."""
    import pandas as pd

    from lab.runs.report import has_detections, write_report
    from lab.runs.results import COLUMNS, KEY, rows_of

    rows = [
        row
        for trial, record in zip(trials, records)
        for row in rows_of("", trial.setting, trial.seed, record)
    ]
    results = pd.DataFrame(rows, columns=COLUMNS).set_index(KEY).droplevel("set")
    write_report(log_dir, results, trials, trials[0].setting)
    if seconds is not None:
        print(f"trained and tested in {seconds:.0f} s")
    print(f"comparison.md, checkpoints, logs and detections in {log_dir}")
    first = {trial.setting: trial.folder for trial in trials if trial.number == 0}
    if len(first) == 2 and all(map(has_detections, first.values())):
        folders = shlex.join(map(str, first.values()))
        print(f"Figures 2 to 4 of the paper: python recipes/figures.py {folders}")


def run_official_code(args: argparse.Namespace) -> None:
    """Hand the official flags to the official script, with the subclass in its trainer's place."""
    from dcase_coherence.official import errors
    from dcase_coherence.official.script import run_official

    if args.data or args.trials > 1 or args.set or args.setting or args.storage:
        raise InputError(
            "--data, --trials, --set, --setting and --storage are for the bundled baseline; leave "
            "out --baseline"
        )
    flags = list(args.others)
    checkpoints = [f"{name}_from_checkpoint" for name in ("resume", "test", "eval")]
    for name in ("conf_file", "gpus", *checkpoints):
        if getattr(args, name):
            flags += [f"--{name}", getattr(args, name)]
    flags += ["--fast_dev_run"] if args.fast_dev_run else []
    # The official script does not go on by itself: nothing here may say so.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scores = {}
    for arm in ARMS if args.arm == "both" else [args.arm or "coherence"]:
        folder = Path(args.log_dir, arm) if args.log_dir and args.arm == "both" else args.log_dir
        try:
            scores[arm] = run_official(
                args.baseline,
                args.recipe,
                [*flags, *(["--log_dir", str(folder)] if folder else [])],
                arm=arm,
                trainer=args.trainer,
                allow_drift=args.allow_drift,
                preset=args.preset,
            ).scores
        except errors.InputError as error:
            raise InputError(str(error)) from None
    if len(scores) == 2 and all(scores.values()):
        print(f"\n{official_comparison(scores)}\n")


def official_comparison(by_arm: dict[str, dict[str, float]]) -> str:
    """Table of what the official test logged, under its own names, which differ by year."""
    import pandas as pd

    table = pd.DataFrame(by_arm).dropna()
    table["difference"] = (table[ARMS[1]] - table[ARMS[0]]).map("{:+.4f}".format)
    text = table.to_string(float_format="{:.4f}".format)
    note = "The differences rest on one seed and prove nothing."
    return f"test set, as the official code logs it\n\n{text}\n\n{note}"


if __name__ == "__main__":
    main()
