"""Compare settings of the coherence term over the same seeds, each with the same reference.

A setting is a small YAML file that is laid over the configuration; those of confs/settings are
compared by default, with `baseline`, which has zero weights. Without --data on generated clips. Run
it again to go on with an interrupted run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from dcase_coherence.runs.options import (
    add_options,
    add_verify,
    check_counts,
    results_folder,
    running,
)
from dcase_coherence.system.errors import InputError, command

CONFS = Path(__file__).resolve().parent / "confs"
MONITOR = ["z_norm", "d_boundary", "d_inside"]
CURVES = ["val/obj_metric", "loss", *MONITOR, "threshold_ratio"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("settings", nargs="*", help="YAML files (default: those in confs/settings)")
    add_options(
        parser,
        log_dir="results (default: exp/settings_<configuration>)",
        trials="trials of each setting, a seed each",
    )
    parser.add_argument("--reference", default="baseline", help="setting to compare the others to")
    add_verify(parser)
    args = parser.parse_args(argv)
    check_counts(args, "trials")
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
    from dcase_coherence.baseline.config import load_config, parse_overrides, read_yaml
    from dcase_coherence.baseline.place import place_data
    from dcase_coherence.data.annotations import read_strong_tsv
    from dcase_coherence.evaluation.tables import SCORES
    from dcase_coherence.runs.profiles import profiles_of_trials
    from dcase_coherence.runs.trials import Trial, read_record, run_trials, scores_of
    from dcase_coherence.system.devices import own_rank

    name = Path(args.conf_file).stem
    log_dir = results_folder(args, "settings_")
    overrides = parse_overrides(args.set)
    configs = {}
    for setting, file in args.settings.items():
        laid_over = (read_yaml(file), overrides)
        configs[setting] = load_config(args.conf_file, *laid_over)
        place_data(
            configs[setting], args.data, Path("data", name), *laid_over, progress=not args.quiet
        )
    # Seed by seed: what there is when a run is interrupted can be compared.
    trials = [
        Trial(f"{setting} {n + 1}", config, True, n, log_dir / setting / f"trial_{n}")
        for n in range(args.trials)
        for setting, config in configs.items()
    ]
    failure = None
    try:
        run_trials(trials, **running(args))
    except InputError as error:
        # One that diverged has a row all the same.
        failure = error
    if own_rank():
        # One of several processes of each training: the first of them tells the results.
        return
    model = "teacher" if configs[args.reference]["training"]["teacher"] else "student"
    found: dict = {setting: [] for setting in configs}
    for trial in trials:
        scores = scores_of(trial, read_record(trial))
        found[trial.folder.parent.name].append(
            scores and {key: scores[f"test/{model}/{key}"] for key in SCORES}
        )
    folders = {s: [t.folder for t in trials if t.folder.parent.name == s] for s in configs}
    finished = {
        setting: [folder for folder, one in zip(folders[setting], found[setting]) if one]
        for setting in configs
    }
    reference = read_strong_tsv(configs[args.reference]["data"]["test_tsv"])
    profiles = profiles_of_trials(finished, model, reference)
    write(log_dir, args, found, folders, model, *profiles)
    if failure is not None:
        raise failure


def write(
    log_dir: Path,
    args: argparse.Namespace,
    found: dict,
    folders: dict,
    model: str,
    profiles: dict,
    errors: dict,
) -> None:
    """Print the tables; write the report and settings.json."""
    import pandas as pd

    from dcase_coherence.evaluation import plots
    from dcase_coherence.evaluation.profile import NOTE, of_systems, profile_table
    from dcase_coherence.evaluation.report import Report
    from dcase_coherence.evaluation.tables import SCORES, to_json
    from dcase_coherence.runs.epochs import mean_epochs, read_epochs
    from dcase_coherence.system.files import write_whole

    tables = {setting: read_epochs(paths) for setting, paths in folders.items()}
    scores = {
        setting: pd.DataFrame([one for one in trials if one], columns=list(SCORES))
        for setting, trials in found.items()
    }
    differences = compare(scores, args.reference)
    command_line = shlex.join(sys.argv)
    report = Report("Settings of the coherence term", command=command_line)
    parts = {
        "Scores": (score_table(scores), f"{model} on the test set; mean ± standard deviation."),
        f"Against {args.reference}": (
            difference_table(differences),
            "Difference of macro event F1 in points, its 95 % interval and p over trials (two-"
            "sided): the two-sample t-test, which pools the variances, and Welch's, which gave the "
            "interval.",
        ),
        "Features": (
            feature_table(tables),
            "Means over the epoch and the trials; growth is |z| in the last epoch over the first.",
        ),
    }
    if profiles:
        counts = of_systems(profiles)
        parts["Reference events (%)"] = (profile_table(counts), f"All trials. {NOTE}")
        parts["Estimated events (%)"] = (profile_table(counts, "estimated"), "All trials.")
    for title, (table, note) in parts.items():
        print(f"\n{title}\n{table.to_string()}\n{note}")
        report.table(title, table, note)
    means = {setting: mean_epochs(several) for setting, several in tables.items() if several}
    known = [column for column in CURVES if any(column in table for table in means.values())]
    if profiles:
        figure = plots.error_profiles(profiles, errors)
        report.figure("Error profile", figure, "All trials.")
    report.figure("Training", plots.curves(means, panels=known), "Means over the trials.")
    report.settings({"configuration": args.conf_file, "trials": args.trials, "data": args.data})
    report.write(log_dir)
    content = {
        "command": command_line,
        "scores": {setting: table.to_dict("list") for setting, table in scores.items()},
        "differences": differences,
        "profiles": {setting: table.loc["all"].to_dict() for setting, table in profiles.items()},
    }
    write_whole(log_dir / "settings.json", to_json(content))
    print(f"\nreport.html, report.md, tables, figures and settings.json in {log_dir}")


def compare(scores: dict, reference: str) -> dict:
    """Tests of the macro event F1 of each setting against the reference."""
    from dcase_coherence.evaluation.significance import t_test

    key = "event_f1_macro"
    return {
        setting: t_test(list(scores[reference][key]), list(table[key])).__dict__
        for setting, table in scores.items()
        if setting != reference and len(table) and len(scores[reference])
    }


def score_table(scores: dict):
    import pandas as pd

    from dcase_coherence.evaluation.tables import SCORES, mean_and_deviation

    rows = {}
    for setting, table in scores.items():
        cells = {title: mean_and_deviation(table[key], title) for key, title in SCORES.items()}
        rows[setting] = {"trials": str(len(table)), **cells}
    return pd.DataFrame.from_dict(rows, orient="index")


def difference_table(differences: dict):
    import pandas as pd

    from dcase_coherence.evaluation.tables import interval, points, probability

    rows = {
        setting: {
            "difference": points(test["difference"], 2),
            "95 %": interval(test["low"], test["high"], 2),
            "p, t-test": probability(test["p_student"]),
            "p, Welch": probability(test["p_welch"]),
        }
        for setting, test in differences.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def feature_table(tables: dict):
    import pandas as pd

    rows: dict = {}
    for setting, several in tables.items():
        rows[setting] = dict.fromkeys([*MONITOR, "growth", "largest |z|"], "-")
        if not several:  # diverged before the first epoch was over
            continue
        last = pd.concat([table.iloc[[-1]] for table in several])[MONITOR]
        first = pd.concat([table.iloc[[0]] for table in several])["z_norm"]
        cells = {name: f"{mean:.3g}" for name, mean in last.mean().items()}
        cells["growth"] = f"{(last['z_norm'].to_numpy() / first.to_numpy()).mean():.3g}"
        cells["largest |z|"] = f"{max(table['z_norm'].max() for table in several):.3g}"
        rows[setting].update(cells)
    return pd.DataFrame.from_dict(rows, orient="index")


if __name__ == "__main__":
    main()
