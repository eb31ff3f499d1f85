"""Train on strongly labelled synthetic clips alone, with and without coherence (the paper's Table 1).

Without any argument: the small configuration on generated clips, one trial of each model; with
--data a DESED tree in the official layout and the paper's own configuration. --trials 5 runs both
models over the same five seeds. Run it again to go on with an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from dcase_coherence.errors import InputError, command

CONFS = Path(__file__).resolve().parent / "confs"
ARMS = ("baseline", "coherence")
SETS = {"validation": "test", "public": "public"}  # name of the set, keys of the configuration
SHOWN = {"event_f1_macro": "event F1, macro (%)", "event_f1_micro": "event F1, micro (%)"}
CURVES = ["val/obj_metric", "loss", "z_norm", "d_boundary", "d_inside", "threshold_ratio"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--conf_file", help="YAML (default: confs/table1_mini.yaml; with --data confs/table1.yaml)"
    )
    parser.add_argument("--data", help="DESED tree in the official layout (audio/, metadata/)")
    parser.add_argument("--log_dir", help="folder of the results (default: exp/<configuration>)")
    parser.add_argument("--trials", type=int, default=1, help="trials of each model, a seed each")
    parser.add_argument("--gpus", help="index, several (0,1) for trials side by side, or cpu")
    parser.add_argument("--fast_dev_run", action="store_true", help="three epochs of two batches")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(argv)
    if args.trials < 1:
        raise InputError(f"--trials is {args.trials}; give at least 1")
    args.conf_file = args.conf_file or CONFS / ("table1.yaml" if args.data else "table1_mini.yaml")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    from dcase_coherence.baseline.config import load_config, place_data
    from dcase_coherence.baseline.trials import Trial, run_trials

    config = load_config(args.conf_file)
    name = Path(args.conf_file).stem
    log_dir = Path(args.log_dir or Path("exp", name + "_fast_dev_run" * args.fast_dev_run))
    place_data(config, args.data, Path("data", name), public=True, progress=not args.quiet)
    public = Path(config["data"]["public_tsv"]).exists()
    if not public:
        print(f"no public set ({config['data']['public_tsv']} does not exist): validation only")
    trials = [
        Trial(f"{arm} {n + 1}", config, arm == "coherence", n, log_dir / arm / f"trial_{n}", public)
        for n in range(args.trials)
        for arm in ARMS
    ]
    start = time.time()
    run_trials(trials, gpus=args.gpus, progress=not args.quiet, fast_dev_run=args.fast_dev_run)
    print(f"trained and tested in {time.time() - start:.0f} s")
    evaluations = {
        name: {arm: [evaluate(t, name) for t in trials if ARMS[t.coherence] == arm] for arm in ARMS}
        for name in SETS
        if name == "validation" or public
    }
    write(log_dir, config, trials, evaluations)
    print(f"report.html, report.md, tables, figures and metrics.json in {log_dir}")


def evaluate(trial, name: str):
    """Scores of a trial on one set, from the posteriors that its test wrote."""
    from dcase_coherence.annotations import read_durations, read_strong_tsv
    from dcase_coherence.baseline.experiment import make_encoder
    from dcase_coherence.baseline.scoring import load_posteriors
    from dcase_coherence.evaluation import scores

    data, encoder = trial.config["data"], make_encoder(trial.config)
    folder = trial.folder if name == "validation" else trial.folder / name
    clips, classes = load_posteriors(folder / "metrics_test" / "student" / "posteriors.npz")
    return scores.evaluate(
        list(clips.values()),
        list(clips),
        read_strong_tsv(data[f"{SETS[name]}_tsv"]),
        read_durations(data[f"{SETS[name]}_dur"]),
        classes,
        median_window=trial.config["training"]["median_window"],
        frame_seconds=encoder.frame_seconds,
        clip_seconds=float(encoder.audio_len),
    )


def write(log_dir: Path, config: dict, trials: list, evaluations: dict) -> None:
    """Compare the models, print Table 1, write the report and metrics.json."""
    import numpy as np
    import pandas as pd

    from dcase_coherence.evaluation import plots, significance
    from dcase_coherence.evaluation.report import Report
    from dcase_coherence.files import whole_file

    count = len(trials) // 2
    report = Report("Synthetic clips only (Table 1)", command=shlex.join(sys.argv))
    content: dict = {"command": shlex.join(sys.argv), "trials": count, "sets": {}}
    table1, tests, every, classwise, f1 = [], [], [], {}, {}
    for name, by_arm in evaluations.items():
        by_score = {
            arm: pd.DataFrame([found.summary() for found in several]).to_dict("list")
            for arm, several in by_arm.items()
        }
        compared = significance.comparison(by_score["baseline"], by_score["coherence"], ARMS)
        classes = by_arm["baseline"][0].classes
        counts = [np.stack([found.counts for found in by_arm[arm]]) for arm in ARMS]
        boot = significance.paired_bootstrap(*counts, classes)
        for key, title in SHOWN.items():
            row = {"score": f"{name}, {title}"}
            row.update({arm: mean_and_deviation(by_score[arm][key]) for arm in ARMS})
            row["difference"] = f"{100 * compared.loc[key, 'difference']:+.2f}"
            table1.append(row)
            macro = key == "event_f1_macro"
            tests.append(
                {
                    "score": row["score"],
                    "p, t-test": probability(compared.loc[key, "p_student"]),
                    "p, Welch": probability(compared.loc[key, "p_welch"]),
                    "95 % over clips": interval(boot.low, boot.high) if macro else "",
                }
            )
        every.append(compared.set_axis([f"{name}, {key}" for key in compared.index]))
        f1[name] = {
            arm: pd.DataFrame(
                [significance.f1_of_counts(c.sum(axis=0)) for c in one], columns=classes
            ).T
            for arm, one in zip(ARMS, counts)
        }
        shown = {arm: f1[name][arm].mean(axis=1).map(percent) for arm in ARMS}
        classwise[name] = pd.DataFrame(shown).rename_axis("class")
        classwise[name]["difference"] = boot.classwise["difference"].map(signed)
        classwise[name]["95 % over clips"] = [
            interval(low, high) for low, high in zip(boot.classwise["low"], boot.classwise["high"])
        ]
        content["sets"][name] = {
            "scores": by_score,
            "tests": compared.reset_index().to_dict("records"),
            "bootstrap": {"difference": boot.difference, "low": boot.low, "high": boot.high},
            "classwise": boot.classwise.reset_index().to_dict("records"),
        }
    seeds = (
        f"{count} trial{'s' * (count > 1)} of each model, seeds from {config['training']['seed']}"
    )
    chosen = config["training"]["select_on"] == "test"
    note = f"{seeds}; mean and standard deviation." + (
        " As in the paper the epoch is chosen on validation itself, so only public is untouched."
        if chosen
        else ""
    )
    for title, rows, words in (
        ("Table 1", table1, note),
        ("Is the difference real", tests, TESTS),
    ):
        frame = pd.DataFrame(rows).set_index("score").rename_axis("")
        print(f"\n{title}\n{frame.to_string()}\n{words}")
        report.table(title, frame, words)
    for name, frame in classwise.items():
        print(f"\nevent F1 by class (%), {name}\n{frame.to_string()}")
        report.table(f"Event F1 by class (%), {name}", frame)
    report.figure("Event F1 by class", plots.classwise_f1(f1), "Dashed: mean over the classes.")
    curves = {
        arm: epochs([trial for trial in trials if ARMS[trial.coherence] == arm]) for arm in ARMS
    }
    known = [column for column in CURVES if any(column in table for table in curves.values())]
    report.figure("Training", plots.curves(curves, panels=known), "Means over the trials.")
    report.table("Every score", pd.concat(every).rename_axis("score"), "In [0, 1].")
    report.settings({key: value for key, value in config.items() if key != "soundscapes"})
    report.write(log_dir)
    with whole_file(log_dir / "metrics.json") as temporary:
        temporary.write_text(json.dumps(without_nan(content), indent=2) + "\n")


TESTS = (
    "p: two-sided, over trials: the two-sample t-test of the paper, which pools the variances, and "
    "Welch's, which does not. 95 %: interval of the difference of macro F1 (points) under another "
    "draw of the clips, the same for both models (paired bootstrap)."
)


def epochs(trials: list):
    """Table of the epochs, the mean over trials."""
    import pandas as pd

    tables = [pd.read_csv(t.folder / "epochs.tsv", sep="\t", index_col="epoch") for t in trials]
    return pd.concat(tables).groupby(level=0).mean()


def mean_and_deviation(values: list[float]) -> str:
    import numpy as np

    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{spread}"


def probability(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"


def signed(value: float) -> str:
    return "-" if value != value else f"{100 * value:+.1f}"


def interval(low: float, high: float) -> str:
    return "-" if low != low else f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def without_nan(content):
    """Replace NaN, which JSON does not know, by null."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if content != content else content


if __name__ == "__main__":
    main()
