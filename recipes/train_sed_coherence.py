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
import statistics
import sys
import time
from pathlib import Path

from lab.errors import InputError, command
from lab.packages import NETWORK, require
from lab.runs.options import (
    add_options,
    add_storage,
    add_verify,
    check_counts,
    check_libraries,
    results_folder,
    results_name,
    running,
)

CONFS = Path(__file__).resolve().parent / "confs"
ARMS = ("baseline", "coherence")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_options(
        parser,
        conf_file="YAML (default: confs/mini.yaml; with --data confs/dcase2021.yaml)",
        trials="trials of each arm, a seed each",
        gpus="index, several (0,1) for trials side by side (with --set training.backend=ddp for "
        "one training at a time on all of them), or cpu",
    )
    parser.add_argument("--resume_from_checkpoint", help="go on from the last.ckpt of one trial")
    parser.add_argument("--test_from_checkpoint", help="only test this checkpoint")
    parser.add_argument("--eval_from_checkpoint", help="only detect events in data.eval_folder")
    parser.add_argument("--arm", choices=[*ARMS, "both"], help="default: both")
    parser.add_argument(
        "--preset",
        choices=["steps", "exact"],
        help="settings of the loss, in place of the configuration's: steps stays in bounds, exact "
        "is the paper's, which diverges where a network fits its clips (default: steps where the "
        "configuration has no section coherence)",
    )
    parser.add_argument(
        "--setting", metavar="FILE", help="YAML laid over the configuration, as in confs/settings"
    )
    add_verify(parser)
    add_storage(parser)
    official = parser.add_argument_group("on the official code")
    official.add_argument(
        "--baseline", help="a checkout of DESED_task: its own script is run, with its own flags"
    )
    official.add_argument("--recipe", default="dcase2021_task4_baseline")
    official.add_argument("--trainer", help="sed_trainer or sed_trainer_pretrained")
    official.add_argument("--allow-drift", action="store_true", help="train on any version of it")
    args, args.others = parser.parse_known_args(argv)
    if args.others and not args.baseline:
        parser.error(f"unknown arguments: {' '.join(args.others)}")
    check_counts(args, "trials")
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

    if own_rank() == 0 and not args.quiet:
        print("bundled baseline (--baseline CHECKOUT runs the official code instead)")
    log_dir = results_folder(args, setting=args.setting or args.preset)
    if args.test_from_checkpoint or args.eval_from_checkpoint:
        test_checkpoint(args, config, log_dir)
        return
    from lab.evaluation import plots
    from lab.evaluation.profile import of_systems, profile_text
    from lab.runs.profiles import has_detections
    from lab.runs.trials import run_trials

    if args.resume_from_checkpoint and args.storage:
        raise InputError(
            "--resume_from_checkpoint goes on with one trial, and --storage shares all of them; "
            "leave out one of the two"
        )
    trials = resumed(args, config) or planned(args, config, log_dir)
    start = time.time()
    scores = run_trials(
        trials, **running(args, results_name(args, setting=args.setting or args.preset))
    )
    if own_rank() or not scores:
        # One of several processes of each training: the first of them tells the results. So does
        # the last of the workers that share the trials.
        return
    by_arm: dict[str, list[dict[str, float]]] = {}
    for trial, found in zip(trials, scores):
        by_arm.setdefault(ARMS[trial.coherence], []).append(found)
    profiles, errors = profile(config, trials, scores, tested(scores[0]))
    table = f"{comparison(by_arm)}\n\n{profile_text(of_systems(profiles))}"
    print(f"\n{table}\n")
    if not args.quiet:
        print(f"trained and tested in {time.time() - start:.0f} s")
    write_results(log_dir, table, trials, scores, profiles)
    plots.save(plots.error_profiles(profiles, errors), log_dir / "profile")
    if len(by_arm) == 2:
        model = tested(scores[0])
        here = {(t.number, ARMS[t.coherence]) for t in trials if has_detections(t.folder, model)}
        shown = [t for t in trials if {(t.number, arm) for arm in ARMS} <= here]
        folders = {ARMS[t.coherence]: t.folder for t in reversed(shown or trials)}
        if shown:
            draw_posteriors(log_dir, config, folders, model)
        else:
            print("posteriors of both models: none, as no seed was tested here with both")
        draw_curves(log_dir, folders, model)
    print(f"results, checkpoints, logs and detections in {log_dir}")


def configuration(args: argparse.Namespace) -> dict:
    """Read the configuration; generate its data set where it describes one."""
    from dcase_coherence.lightning import preset_over
    from lab.baseline.checkpoints import classes_in, load_checkpoint
    from lab.baseline.config import load_config, parse_overrides, read_yaml
    from lab.baseline.place import place_data

    args.conf_file = args.conf_file or CONFS / ("dcase2021.yaml" if args.data else "mini.yaml")
    overrides = parse_overrides(args.set)
    preset = preset_over(read_yaml(args.conf_file).get("coherence"), args.preset)
    layers = [{"coherence": {"preset": preset}}] if preset else []
    layers += [read_yaml(args.setting)] if args.setting else []
    config = load_config(args.conf_file, *layers, overrides)
    checkpoint = args.test_from_checkpoint or args.eval_from_checkpoint
    if checkpoint and config["data"]["classes"] is None:
        # Only it is run: its classes count, whatever a table of training clips has.
        config["data"]["classes"] = classes_in(load_checkpoint(checkpoint))
    generated = Path("data", Path(args.conf_file).stem)
    place_data(
        config,
        args.data,
        generated,
        overrides,
        few=args.fast_dev_run,
        progress=not args.quiet,
    )
    return config


def planned(args: argparse.Namespace, config: dict, log_dir: Path) -> list:
    from lab.runs.trials import Trial

    arms = [args.arm] if args.arm in ARMS else ARMS
    return [
        Trial(f"{arm} {n + 1}", config, arm == "coherence", n, log_dir / arm / f"trial_{n}")
        for n in range(args.trials)
        for arm in arms
    ]


def resumed(args: argparse.Namespace, config: dict) -> list:
    """The one trial that --resume_from_checkpoint names, with the arm and seed it had."""
    if not args.resume_from_checkpoint:
        return []
    from lab.runs.trials import Trial

    last = Path(args.resume_from_checkpoint)
    record = last.parent / "trial.json"
    if last.name != "last.ckpt" or not last.is_file() or not record.is_file():
        raise InputError(
            f"--resume_from_checkpoint is {last}; give the last.ckpt in a trial's folder"
        )
    settings = json.loads(record.read_text())["settings"]
    arm, number = ARMS[settings["coherence"]], settings["number"]
    return [Trial(f"{arm} {number + 1}", config, settings["coherence"], number, last.parent)]


def test_checkpoint(args: argparse.Namespace, config: dict, log_dir: Path) -> None:
    from lab.baseline.experiment import build

    evaluation = args.eval_from_checkpoint is not None
    experiment = build(
        config,
        coherence=False,
        log_dir=log_dir / "test",
        gpus=args.gpus,
        train=False,
        evaluation=evaluation,
        fast_dev_run=args.fast_dev_run,
        verify_psds=args.verify,
    )
    scores = experiment.test(args.eval_from_checkpoint or args.test_from_checkpoint)
    if experiment.trainer.is_global_zero:
        for name, value in scores.items():
            print(f"{name}: {value:.4f}")
        print(f"detections in {experiment.folder / 'metrics_test'}")


def tested(scores: dict[str, float]) -> str:
    """Name of the model that is judged: the student where there is no teacher."""
    return "teacher" if "test/teacher/event_f1_macro" in scores else "student"


def comparison(by_arm: dict[str, list[dict[str, float]]]) -> str:
    """Table of the scores, mean and standard deviation over trials."""
    from lab.evaluation.significance import t_test
    from lab.evaluation.tables import SCORES, mean_and_deviation, probability, scale_of

    trials = max(map(len, by_arm.values()))
    model = tested(next(iter(by_arm.values()))[0])
    lines = [f"{model} on the test set, {trials} trial{'s' * (trials > 1)} of each model", ""]
    heads = [*by_arm, *(["difference"] if len(by_arm) == 2 else [])]
    heads += ["p (t-test)"] if len(by_arm) == 2 and trials > 1 else []
    lines.append(f"{'':22}" + "".join(f"{head:>16}" for head in heads))
    for key, name in SCORES.items():
        values = {
            arm: [found[f"test/{model}/{key}"] for found in scores]
            for arm, scores in by_arm.items()
        }
        cells = [mean_and_deviation(found, name) for found in values.values()]
        if len(values) == 2:
            baseline, coherence = (values[arm] for arm in ARMS)
            scale, digits = scale_of(name)
            difference = scale * (statistics.mean(coherence) - statistics.mean(baseline))
            cells.append(f"{difference:+.{digits}f}")
            if trials > 1:
                cells.append(probability(t_test(baseline, coherence).p_student))
        lines.append(f"{name:22}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def profile(config: dict, trials: list, scores: list, model: str) -> tuple[dict, dict]:
    """What became of the events of the test set, and the errors of the edges, by arm.

    The detections of another machine's trial are not here; what became of the events is known from
    its scores.
    """
    from lab.data.annotations import read_reference
    from lab.evaluation.profile import pooled
    from lab.runs.profiles import has_detections, profile_of_scores, profiles_of_trials

    arms = {arm: [trial for trial in trials if ARMS[trial.coherence] == arm] for arm in ARMS}
    here = {
        arm: [t.folder for t in own if has_detections(t.folder, model)] for arm, own in arms.items()
    }
    data = config["data"]
    reference = read_reference(data["test_tsv"], data["classes"])
    profiles, errors = profiles_of_trials(here, model, reference)
    for arm, own in arms.items():
        if len(here[arm]) < len(own):
            found = [scores[trials.index(trial)] for trial in own]
            profiles[arm] = pooled([profile_of_scores(one, model) for one in found])
    return {arm: profiles[arm] for arm in ARMS if arm in profiles}, errors


def write_results(log_dir: Path, table: str, trials: list, scores: list, profiles: dict) -> None:
    from lab.evaluation.tables import to_json
    from lab.files import write_whole

    content = {
        "command": shlex.join(sys.argv),
        "trials": [
            {"arm": ARMS[trial.coherence], "folder": str(trial.folder), **found}
            for trial, found in zip(trials, scores)
        ],
        "profiles": {arm: found.loc["all"].to_dict() for arm, found in profiles.items()},
    }
    write_whole(log_dir / "metrics.json", to_json(content))
    write_whole(log_dir / "comparison.txt", table + "\n")


def draw_posteriors(log_dir: Path, config: dict, folders: dict[str, Path], model: str) -> None:
    """Posteriors of both models on a test clip."""
    from lab.evaluation import plots
    from lab.runs.shown import shown_clip

    ordered = {arm: folders[arm] for arm in ARMS}
    figure = shown_clip(ordered, model, config).figure
    print(f"posteriors of both models: {plots.save(figure, log_dir / 'posteriors')[0]}")


def draw_curves(log_dir: Path, folders: dict[str, Path], model: str) -> None:
    """Curves of the training of both models."""
    import pandas as pd

    from lab.evaluation import plots

    score = f"val/synth/{model}/event_f1_macro"
    names = {"loss": "training loss", score: f"validation: event F1 of the {model}, macro"}
    epochs = {
        arm: pd.read_csv(folders[arm] / "epochs.tsv", sep="\t", index_col="epoch")
        .rename(index=lambda epoch: epoch + 1)
        .rename(columns=names)
        for arm in ARMS
    }
    figure = plots.curves(epochs, panels=list(names.values()))
    print(f"curves of the training: {plots.save(figure, log_dir / 'curves')[0]}")


def run_official_code(args: argparse.Namespace) -> None:
    """Hand the official flags to the official script, with the subclass in its trainer's place."""
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
    arms = ARMS if args.arm == "both" else [args.arm or "coherence"]
    # The official script does not go on by itself: nothing here may say so.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scores = {}
    for arm in arms:
        folder = args.log_dir
        if folder and args.arm == "both":
            folder = str(Path(folder, arm))
        result = run_official(
            args.baseline,
            args.recipe,
            flags + (["--log_dir", folder] if folder else []),
            arm=arm,
            trainer=args.trainer,
            allow_drift=args.allow_drift,
            preset=args.preset,
        )
        scores[arm] = result.scores
    if len(scores) == 2 and all(scores.values()):
        print(f"\n{official_comparison(scores)}\n")


def official_comparison(by_arm: dict[str, dict[str, float]]) -> str:
    """Table of what the official test logged, under its own names, which differ from year to year.

    The scores are fractions, as the official code logs them.
    """
    names = [name for name in by_arm["baseline"] if name in by_arm["coherence"]]
    width = max(map(len, names)) + 2
    heads = (*ARMS, "difference")
    lines = ["test set, as the official code logs it", ""]
    lines.append(" " * width + "".join(f"{head:>12}" for head in heads))
    for name in names:
        baseline, coherence = (by_arm[arm][name] for arm in ARMS)
        cells = (f"{baseline:.4f}", f"{coherence:.4f}", f"{coherence - baseline:+.4f}")
        lines.append(f"{name:{width}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
