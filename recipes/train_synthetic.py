"""Train on labelled synthetic clips alone, with and without coherence (the paper's Table 1).

Without any argument: the small configuration on generated clips, one trial of each model; with
--data a DESED tree in the official layout and the paper's own configuration. --trials 5 runs both
models over the same five seeds. Run it again to go on with an interrupted run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from lab.errors import command
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
SETS = {"validation": "test", "public": "public"}  # name of the set, keys of the configuration
SHOWN = {"event_f1_macro": "event F1, macro (%)", "event_f1_micro": "event F1, micro (%)"}
CURVES = ["val/obj_metric", "loss", "z_norm", "d_boundary", "d_inside", "threshold_ratio"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_options(parser)
    add_verify(parser)
    add_storage(
        parser,
        storage="URL of a database by which machines share the trials; --log_dir is shared by them",
    )
    args = parser.parse_args(argv)
    check_counts(args, "trials")
    args.conf_file = args.conf_file or CONFS / ("table1.yaml" if args.data else "table1_mini.yaml")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK)
    check_libraries(args.verify)
    from lab.baseline.config import load_config, parse_overrides
    from lab.baseline.place import place_data
    from lab.devices import own_rank
    from lab.runs.trials import Trial, run_trials

    overrides = parse_overrides(args.set)
    config = load_config(args.conf_file, overrides)
    name = Path(args.conf_file).stem
    log_dir = results_folder(args)
    place_data(
        config,
        args.data,
        Path("data", name),
        overrides,
        public=True,
        few=args.fast_dev_run,
        progress=not args.quiet,
    )
    public = Path(config["data"]["public_tsv"]).exists()
    if not public:
        print(f"no public set ({config['data']['public_tsv']} does not exist): validation only")
    trials = [
        Trial(f"{arm} {n + 1}", config, arm == "coherence", n, log_dir / arm / f"trial_{n}", public)
        for n in range(args.trials)
        for arm in ARMS
    ]
    start = time.time()
    scores = run_trials(trials, **running(args, results_name(args)))
    if own_rank() or not scores:
        # One of several processes of each training: the first of them tells the results. So does
        # the last of the workers that share the trials.
        return
    if not args.quiet:
        print(f"trained and tested in {time.time() - start:.0f} s")
    evaluations = {
        name: {arm: [evaluate(t, name) for t in trials if ARMS[t.coherence] == arm] for arm in ARMS}
        for name in SETS
        if name == "validation" or public
    }
    write(
        log_dir, config, trials, evaluations, {name: profile(trials, name) for name in evaluations}
    )
    print(f"report.html, report.md, tables, figures and metrics.json in {log_dir}")


def evaluate(trial, name: str):
    """Scores of a trial on one set, from the posteriors that its test wrote."""
    from lab.data.annotations import read_durations, read_reference
    from lab.data.labels import make_encoder
    from lab.evaluation import scores
    from lab.evaluation.posteriors import load_posteriors, load_seconds

    data, encoder = trial.config["data"], make_encoder(trial.config)
    folder = trial.folder if name == "validation" else trial.folder / name
    said = folder / "metrics_test" / "student" / "posteriors.npz"
    clips, classes = load_posteriors(said)
    return scores.evaluate(
        list(clips.values()),
        list(clips),
        read_reference(data[f"{SETS[name]}_tsv"], classes),
        read_durations(data[f"{SETS[name]}_dur"]),
        classes,
        median_window=trial.config["training"]["median_window"],
        frame_seconds=encoder.frame_seconds,
        clip_seconds=load_seconds(said, float(encoder.audio_len)),
    )


def profile(trials: list, name: str) -> tuple[dict, dict]:
    """What became of the events of one set, and the errors of the edges, by arm."""
    from lab.data.annotations import read_reference
    from lab.runs.profiles import profiles_of_trials

    folders: dict = {arm: [] for arm in ARMS}
    for trial in trials:
        folder = trial.folder if name == "validation" else trial.folder / name
        folders[ARMS[trial.coherence]].append(folder)
    data = trials[0].config["data"]
    reference = read_reference(data[f"{SETS[name]}_tsv"], data["classes"])
    return profiles_of_trials(folders, "student", reference)


def compare(name: str, by_arm: dict, classes: list[str]) -> dict:
    """Tables and tests of one set, over trials and over clips."""
    import numpy as np
    import pandas as pd

    from lab.evaluation import significance
    from lab.evaluation.tables import (
        interval,
        mean_and_deviation,
        percent,
        points,
        probability,
    )

    scores = {
        arm: pd.DataFrame([found.summary() for found in several]).to_dict("list")
        for arm, several in by_arm.items()
    }
    tests = significance.comparison(scores["baseline"], scores["coherence"], ARMS)
    counts = [np.stack([found.counts for found in by_arm[arm]]) for arm in ARMS]
    boot = significance.paired_bootstrap(*counts, classes)
    f1 = {
        arm: pd.DataFrame(significance.f1_of_counts(found.sum(axis=1)), columns=classes).T
        for arm, found in zip(ARMS, counts)
    }
    rows, chances = {}, {}
    for key, title in SHOWN.items():
        found = tests.loc[key]
        rows[f"{name}, {title}"] = {
            **{arm: mean_and_deviation(scores[arm][key], title) for arm in ARMS},
            "difference": points(found["difference"], 2),
        }
        chances[f"{name}, {title}"] = {
            "p, t-test": probability(found["p (t-test)"]),
            "p, Welch": probability(found["p (Welch)"]),
            "95 % over clips": interval(boot.low, boot.high) if "macro" in key else "",
        }
    by_class = boot.classwise
    classwise = pd.DataFrame(
        {
            **{arm: [percent(value) for value in f1[arm].mean(axis=1)] for arm in ARMS},
            "difference": [points(value) for value in by_class["difference"]],
            "95 % over clips": [interval(*ends) for ends in zip(by_class["low"], by_class["high"])],
        },
        index=by_class.index,
    )
    return {
        "rows": rows,
        "chances": chances,
        "classwise": classwise,
        "f1": f1,
        "every": tests.set_axis([f"{name}, {key}" for key in tests.index]),
        "numbers": {
            "scores": scores,
            "tests": tests.reset_index().to_dict("records"),
            "bootstrap": {"difference": boot.difference, "low": boot.low, "high": boot.high},
            "classwise": by_class.reset_index().to_dict("records"),
        },
    }


def write(log_dir: Path, config: dict, trials: list, evaluations: dict, profiles: dict) -> None:
    """Print Table 1; write the report and metrics.json."""
    import pandas as pd

    from lab.evaluation import plots
    from lab.evaluation.profile import NOTE, of_systems, profile_table, profile_text
    from lab.evaluation.report import Report
    from lab.evaluation.tables import to_json
    from lab.files import write_whole
    from lab.runs.epochs import mean_epochs, tables_of
    from lab.runs.shown import report_clip

    compared = {
        name: compare(name, by_arm, by_arm["baseline"][0].classes)
        for name, by_arm in evaluations.items()
    }
    count, first = len(trials) // len(ARMS), config["training"]["seed"]
    note = f"{count} trial{'s' * (count > 1)} of each model, the same seeds from {first} on; mean"
    note += " and standard deviation."
    if config["training"]["select_on"] == "test":
        note += (
            " As in the paper the epoch is chosen on validation itself: only public is untouched."
        )
    command_line = shlex.join(sys.argv)
    report = Report("Synthetic clips only (Table 1)", command=command_line)
    for title, part, words in (
        ("Table 1", "rows", note),
        ("Significance", "chances", TESTS),
    ):
        rows = {row: cells for one in compared.values() for row, cells in one[part].items()}
        table = pd.DataFrame.from_dict(rows, orient="index")
        print(f"\n{title}\n{table.to_string()}\n{words}")
        report.table(title, table, words)
    for name, one in compared.items():
        print(f"\nEvent F1 by class (%), {name}\n{one['classwise'].to_string()}")
        report.table(f"Event F1 by class (%), {name}", one["classwise"])
    for name, found in profiles.items():
        counts = of_systems(found[0])
        print(f"\n{name}: {profile_text(counts)}")
        report.table(f"Reference events (%), {name}", profile_table(counts), NOTE)
        report.table(f"Estimated events (%), {name}", profile_table(counts, "estimated"))
        report.figure(f"Error profile, {name}", plots.error_profiles(*found), "All trials.")
    figure = plots.classwise_f1({name: one["f1"] for name, one in compared.items()})
    report.figure("Event F1 by class", figure, "Dashed: mean over the classes.")
    folders = {arm: [t.folder for t in trials if ARMS[t.coherence] == arm] for arm in ARMS}
    curves = {arm: mean_epochs(tables_of(found)) for arm, found in folders.items()}
    known = [column for column in CURVES if any(column in table for table in curves.values())]
    report.figure("Training", plots.curves(curves, panels=known), "Means over the trials.")
    report_clip(report, {arm: found[0] for arm, found in folders.items()}, "student", config)
    every = pd.concat([one["every"] for one in compared.values()]).rename_axis("score")
    report.table("Every score", every, "In [0, 1].")
    report.settings({key: value for key, value in config.items() if key != "soundscapes"})
    report.write(log_dir)
    content = {
        "command": command_line,
        "trials": count,
        "sets": {name: one["numbers"] for name, one in compared.items()},
        "profiles": {
            name: {arm: table.loc["all"].to_dict() for arm, table in found.items()}
            for name, (found, _) in profiles.items()
        },
    }
    write_whole(log_dir / "metrics.json", to_json(content))


TESTS = (
    "p: two-sided, over trials: the two-sample t-test of the paper, which pools the variances, and "
    "Welch's, which does not. 95 %: interval of the difference of macro F1 (points) under another "
    "draw of the clips, the same for both models (paired bootstrap)."
)


if __name__ == "__main__":
    main()
