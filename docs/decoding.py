"""Score the posteriors of a comparison's trials again, with decoders tuned on validation clips.

    python docs/decoding.py exp/main_job_72 --set_name main_job_72 \\
        --data data/mini --public data/mini_public

Of each trial that left posteriors, two decoders: a median window and a threshold a class; and
cSEBBs (Ebbers et al., Interspeech 2024) with parameters and a threshold a class, by the package
sebbs, https://github.com/merlresearch/sebbs (AGPL, not needed for anything else). Both are tuned
for event F1 on the validation clips of the same model. Rows that docs/results/decoding.csv has
already are not made again.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.data.annotations import read_durations, read_reference
from lab.data.desed import official_layout
from lab.data.labels import make_encoder
from lab.errors import InputError, command
from lab.evaluation.decode import decode
from lab.evaluation.posteriors import load_posteriors, posteriors_of_test
from lab.evaluation.scores import Scorer
from lab.evaluation.thresholds import GRID
from lab.files import write_whole

TABLE = Path(__file__).resolve().parent / "results" / "decoding.csv"
KEY = ["set", "test", "setting", "seed", "decoder"]
#: Median windows to choose from, in frames.
WINDOWS = (1, 3, 5, 7, 9, 13, 17, 25)


class Clips:
    """Posteriors of clips with their annotation."""

    def __init__(self, path: Path, tsv: Any, durations: Any, frame_seconds: float) -> None:
        self.posteriors, self.classes = load_posteriors(path)
        self.frame_seconds = frame_seconds
        lengths = read_durations(durations)
        self.seconds = dict(zip(lengths["filename"], lengths["duration"]))
        self.reference = read_reference(tsv, self.classes)
        self.scorer = Scorer(self.reference, lengths, self.classes)

    def events(self, window: int, thresholds: list[float]) -> dict[float, pd.DataFrame]:
        """Events by a median window, at each threshold."""
        names = list(self.posteriors)
        return decode(
            [self.posteriors[name] for name in names],
            names,
            self.classes,
            thresholds=thresholds,
            median_window=window,
            frame_seconds=self.frame_seconds,
            clip_seconds=[self.seconds[name] for name in names],
        )


Decoder = Callable[[Clips], pd.DataFrame]


def by_class(validation: Clips) -> Decoder:
    """Events by the window and threshold of each class with its best event F1 on validation."""
    # Of a class without an event there: as in the trainings.
    best = dict.fromkeys(validation.classes, (-1.0, 5, 0.5))
    for size in WINDOWS:
        for threshold, events in validation.events(size, GRID).items():
            f1 = validation.scorer.event_based(events).classwise["f1"]
            for label, value in f1.dropna().items():
                best[label] = max(best[label], (value, size, threshold), key=lambda one: one[0])

    def decoder(clips: Clips) -> pd.DataFrame:
        parts = []
        for label, (_, size, threshold) in best.items():
            events = clips.events(size, [threshold])[threshold]
            parts.append(events[events["event_label"] == label])
        return pd.concat(parts, ignore_index=True)

    return decoder


def sebbs(validation: Clips) -> Decoder:
    """Events by cSEBBs, tuned for event F1 on validation."""
    from sebbs import csebbs
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    def scores(clips: Clips) -> dict[str, pd.DataFrame]:
        return {
            name: create_score_dataframe(
                frames, clips.frame_seconds * np.arange(len(frames) + 1), clips.classes
            )
            for name, frames in clips.posteriors.items()
        }

    def decoder(clips: Clips) -> pd.DataFrame:
        detections = predictor.detect(scores(clips))
        rows = [(name, *event) for name, events in detections.items() for event in events]
        return pd.DataFrame(rows, columns=["filename", *names])

    names = ["onset", "offset", "event_label"]
    truth = {
        name: list(validation.reference.query("filename == @name")[names].itertuples(False, None))
        for name in validation.posteriors
    }
    seconds = {name: validation.seconds[name] for name in truth}
    predictor, _ = csebbs.tune(
        scores(validation), truth, seconds, selection_fn=csebbs.select_best_cbf
    )
    return decoder


DECODERS = {"median": by_class, "sebbs": sebbs}


def rows_of(trial: Path, record: dict[str, Any], tables: dict[str, Any], done: set) -> list[dict]:
    """Rows of one trial: each test set by each decoder that is not done."""
    config = record["settings"]["config"]
    setting, seed = trial.parent.name, config["training"]["seed"] + record["settings"]["number"]
    folders = {
        "validation": trial / "metrics_validation",
        "test": trial / "metrics_test",
        "public": trial / "public" / "metrics_test",
    }

    @functools.lru_cache(maxsize=None)
    def clips(test: str) -> Clips:
        path = posteriors_of_test(folders[test])
        return Clips(path, *tables[test], make_encoder(config).frame_seconds)

    rows = []
    for name, tuned in DECODERS.items():
        tests = [test for test in ("test", "public") if folders[test].is_dir()]
        left = [test for test in tests if (test, setting, seed, name) not in done]
        decoder = tuned(clips("validation")) if left else None
        for test in left:
            scores = clips(test).scorer.event_based(decoder(clips(test)))
            row = {"test": test, "setting": setting, "seed": seed, "decoder": name}
            row.update(event_f1_macro=scores.macro_f1, event_f1_micro=scores.micro_f1)
            rows.append(row)
            print(*row.values(), flush=True)
    return rows


@command
def main() -> None:
    """Score what is new, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="--log_dir of compare.py")
    parser.add_argument("--set_name", required=True, help="of its rows")
    parser.add_argument("--data", required=True, help="data set of validation and test clips")
    parser.add_argument("--public", help="generated second test set (default: that of --data)")
    args = parser.parse_args()
    parts = {
        "validation": (args.data, "synth_val"),
        "test": (args.data, "test"),
        "public": (args.public, "test") if args.public else (args.data, "public"),
    }
    tables = {
        name: [official_layout(folder)[f"{part}_{kind}"] for kind in ("tsv", "dur")]
        for name, (folder, part) in parts.items()
    }
    table = (
        pd.read_csv(TABLE, float_precision="round_trip")
        if TABLE.exists()
        else pd.DataFrame(columns=KEY)
    )
    trials = sorted(path.parent for path in args.folder.glob("*/trial_*/trial.json"))
    if not trials:
        raise InputError(f"{args.folder} holds no trial; give the --log_dir of compare.py")
    ours = table[table["set"] == args.set_name]
    done = set(ours[KEY[1:]].itertuples(False, None))
    for trial in trials:
        record = json.loads((trial / "trial.json").read_text())
        if "scores" not in record:
            continue
        rows = pd.DataFrame(rows_of(trial, record, tables, done)).assign(set=args.set_name)
        if len(rows):
            table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
            columns = [*KEY, "event_f1_macro", "event_f1_micro"]
            write_whole(TABLE, table[columns].sort_values(KEY).to_csv(index=False))


if __name__ == "__main__":
    main()
