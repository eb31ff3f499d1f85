"""Compare settings of the coherence term over the same seeds, each with the same reference.

A setting is a small YAML file that is laid over the configuration; those of confs/settings are
compared by default, with `baseline`, which has zero weights. Without --data on generated clips. A
public set is tested too where the data have one. Run it again to go on with an interrupted run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
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


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("settings", nargs="*", help="YAML files (default: those in confs/settings)")
    add_options(
        parser,
        log_dir="results (default: exp/settings_<configuration>)",
        trials="trials of each setting, a seed each",
    )
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        metavar="N",
        help="number of the first trial: 10 leaves out the first ten seeds (default 0)",
    )
    parser.add_argument("--reference", default="baseline", help="setting to compare the others to")
    add_verify(parser)
    add_storage(parser)
    args = parser.parse_args(argv)
    check_counts(args, "trials")
    if args.first < 0:
        raise InputError(f"--first is {args.first}; give 0 or more")
    files = [Path(file) for file in args.settings] or sorted((CONFS / "settings").glob("*.yaml"))
    args.settings = {file.stem: file for file in files}
    if args.reference not in args.settings:
        raise InputError(
            f"--reference is {args.reference!r}; it must be one of {', '.join(args.settings)}"
        )
    args.conf_file = args.conf_file or CONFS / ("table1.yaml" if args.data else "table1_mini.yaml")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK)
    check_libraries(args.verify)
    from lab.baseline.config import load_config, parse_overrides, read_yaml
    from lab.baseline.place import place_data
    from lab.devices import own_rank
    from lab.runs.trials import Trial, TrialFailed, run_trials

    name = Path(args.conf_file).stem
    log_dir = results_folder(args, "settings_")
    overrides = parse_overrides(args.set)
    configs = {}
    for setting, file in args.settings.items():
        laid_over = (read_yaml(file), overrides)
        configs[setting] = load_config(args.conf_file, *laid_over)
        place_data(
            configs[setting],
            args.data,
            Path("data", name),
            *laid_over,
            few=args.fast_dev_run,
            progress=not args.quiet,
        )
    public = all(Path(config["data"]["public_tsv"]).exists() for config in configs.values())
    # Seed by seed: what there is when a run is interrupted can be compared.
    trials = [
        Trial(f"{setting} {n + 1}", config, True, n, log_dir / setting / f"trial_{n}", public)
        for n in range(args.first, args.first + args.trials)
        for setting, config in configs.items()
    ]
    failure = None
    try:
        if not run_trials(trials, **running(args, results_name(args, "settings_"))):
            return  # the last of the workers that share the trials tells the results
    except TrialFailed as error:
        # One that diverged has a row all the same.
        failure = error
    if own_rank():
        # One of several processes of each training: the first of them tells the results.
        return
    model = "teacher" if configs[args.reference]["training"]["teacher"] else "student"
    sets = {name: gather(trials, name, model) for name in ("test", "public")[: 1 + public]}
    folders = {s: [t.folder for t in trials if t.folder.parent.name == s] for s in configs}
    first = configs[args.reference]["training"]["seed"] + args.first
    seeds = list(range(first, first + args.trials))
    write(log_dir, args, sets, folders, model, seeds, configs[args.reference])
    if failure is not None:
        raise failure


def gather(trials: list, name: str, model: str) -> dict:
    """What the trials left on one set, by setting: scores, profiles, and errors of the edges."""
    from lab.data.annotations import read_reference
    from lab.evaluation.profile import pooled
    from lab.evaluation.tables import SCORES
    from lab.runs.epochs import read_epochs
    from lab.runs.profiles import has_detections, profile_of_scores, profiles_of_trials
    from lab.runs.trials import read_record, scores_of

    found: dict = {}
    counted: dict = {}
    detected: dict = {}
    for trial in trials:
        setting = trial.folder.parent.name
        scores = scores_of(trial, read_record(trial))
        kept = scores and {key: scores[f"{name}/{model}/{key}"] for key in SCORES}
        found.setdefault(setting, []).append(kept)
        if not kept:
            continue
        kept["validation"] = read_epochs(trial.folder)["val/obj_metric"].max()
        profile = profile_of_scores(scores, model, name)
        if profile is not None:
            counted.setdefault(setting, []).append(profile)
        # A folder of kept results has the counts, but not the detections.
        folder = trial.folder if name == "test" else trial.folder / name
        if has_detections(folder, model):
            detected.setdefault(setting, []).append(folder)
    data = trials[0].config["data"]
    reference = read_reference(data[f"{name}_tsv"], data["classes"])
    _, errors = profiles_of_trials(detected, model, reference)
    profiles = {setting: pooled(rows) for setting, rows in counted.items()}
    return {"scores": found, "profiles": profiles, "errors": errors}


def to_show(found: dict, folders: dict, model: str, reference: str) -> dict:
    """Folder of the first trial of the reference and of the setting that is best on validation."""
    import statistics

    from lab.runs.profiles import has_detections

    tested: dict = {}
    for setting, paths in folders.items():
        for path, scores in zip(paths, found[setting]):
            if scores and has_detections(path, model):
                tested.setdefault(setting, path)
    means = {
        setting: statistics.mean(one["validation"] for one in found[setting] if one)
        for setting in tested
        if setting != reference
    }
    chosen = [reference, *sorted(means, key=means.__getitem__)[-1:]]
    return {setting: tested[setting] for setting in chosen if setting in tested}


def write(
    log_dir: Path,
    args: argparse.Namespace,
    sets: dict,
    folders: dict,
    model: str,
    seeds: list,
    config: dict,
) -> None:
    """Print the tables; write the report and settings.json."""
    from lab.evaluation import plots
    from lab.evaluation.report import Report
    from lab.evaluation.significance import compare_with
    from lab.evaluation.tables import to_json
    from lab.files import write_whole
    from lab.runs.epochs import MONITOR, feature_table, mean_epochs, tables_of
    from lab.runs.shown import report_clip

    command_line = shlex.join(sys.argv)
    report = Report("Settings of the coherence term", command=command_line)
    tables = {setting: tables_of(paths) for setting, paths in folders.items()}
    parts: dict = {}
    for name, results in sets.items():
        results["differences"] = compare_with(args.reference, results["scores"])
        end = "" if name == "test" else f", {name} set"
        of_set = tables_of_set(results, args.reference, f"{model} on the {name} set")
        parts.update({title + end: part for title, part in of_set.items()})
    parts["Features"] = (
        feature_table(tables),
        "Means over the epoch and the trials; growth is |z| in the last epoch over the first.",
    )
    for title, (table, note) in parts.items():
        print(f"\n{title}\n{table.to_string()}\n{note}")
        report.table(title, table, note)
    for name, results in sets.items():
        if results["profiles"]:
            figure = plots.error_profiles(results["profiles"], results["errors"])
            title = "Error profile" if name == "test" else f"Error profile, {name} set"
            report.figure(title, figure, "All trials.")
        results["profiles"] = {
            setting: table.loc["all"].to_dict() for setting, table in results["profiles"].items()
        }
        results.pop("errors")
    means = {setting: mean_epochs(several) for setting, several in tables.items() if several}
    curves = ["val/obj_metric", "loss", *MONITOR, "threshold_ratio"]
    known = [column for column in curves if any(column in table for table in means.values())]
    report.figure("Training", plots.curves(means, panels=known), "Means over the trials.")
    shown = to_show(sets["test"]["scores"], folders, model, args.reference)
    report_clip(report, shown, model, config)
    report.settings({"configuration": args.conf_file, "trials": args.trials, "data": args.data})
    report.write(log_dir)
    content = {"command": command_line, "seeds": seeds, **sets.pop("test"), **sets}
    write_whole(log_dir / "settings.json", to_json(content))
    print(f"\nreport.html, report.md, tables, figures and settings.json in {log_dir}")


def tables_of_set(results: dict, reference: str, what: str) -> dict:
    """Tables of one set and what is said under them, by title."""
    import pandas as pd

    from lab.evaluation.profile import NOTE, of_systems, profile_table
    from lab.evaluation.significance import EFFECT
    from lab.evaluation.tables import SCORES

    scores = {
        setting: pd.DataFrame([one for one in trials if one], columns=["validation", *SCORES])
        for setting, trials in results["scores"].items()
    }
    parts = {
        "Scores": (
            score_table(scores),
            f"{what}; mean ± standard deviation. Validation is what the epoch was "
            "chosen by, and the only score to choose a setting by.",
        ),
    }
    if results["differences"]:
        parts[f"Against {reference}"] = (
            difference_table(results["differences"]),
            "Difference of macro event F1 in points over the same seeds, its 95 % interval and p "
            "(two-sided): the paired t-test, which gave the interval, Holm's correction of it for "
            "all settings, and Wilcoxon's test. Seeds: how many it takes to find a difference of "
            f"{100 * EFFECT:g} points in four cases of five, with the spread seen here.",
        )
    if results["profiles"]:
        counts = of_systems(results["profiles"])
        parts["Reference events (%)"] = (profile_table(counts), f"All trials. {NOTE}")
        parts["Estimated events (%)"] = (profile_table(counts, "estimated"), "All trials.")
    return parts


def score_table(scores: dict):
    import pandas as pd

    from lab.evaluation.tables import SCORES, mean_and_deviation

    rows = {}
    for setting, table in scores.items():
        titles = {"validation": "validation (%)", **SCORES}
        cells = {title: mean_and_deviation(table[key], title) for key, title in titles.items()}
        rows[setting] = {"trials": str(len(table)), **cells}
    return pd.DataFrame.from_dict(rows, orient="index")


def difference_table(differences: dict):
    import pandas as pd

    from lab.evaluation.tables import interval, points, probability

    rows = {
        setting: {
            "difference": points(test["difference"], 2),
            "95 %": interval(test["low"], test["high"], 2),
            "p, paired t": probability(test["p_t"]),
            "p, Holm": probability(test["p_holm"]),
            "p, Wilcoxon": probability(test["p_wilcoxon"]),
            "seeds": str(test["seeds"] or "-"),
        }
        for setting, test in differences.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


if __name__ == "__main__":
    main()
