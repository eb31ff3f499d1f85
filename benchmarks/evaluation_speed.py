"""How long does the evaluation of a student and a teacher take, the official way and ours?

python benchmarks/evaluation_speed.py [--clips 1168] [--repeats 3] [--json]

Event, segment and intersection F1 at 0.5 and both PSDS from 50 thresholds, of two models, from
156 frames of 10 posteriors a clip. The official way decodes clip by clip and threshold by
threshold into DataFrames, then calls sed_eval and psds_eval: with DESED_TASK=/path/to/checkout
(commit 63d8b3b; pandas 1.x) by the official code itself, else by the same steps written down
here, which do without its quadratic `DataFrame.append`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.data.desed import CLASSES
from lab.errors import InputError, command
from lab.evaluation import reference as reference_scores
from lab.evaluation.decode import decode
from lab.evaluation.scores import THRESHOLDS, Scorer

FRAMES, FRAME_SECONDS, CLIP_SECONDS, WINDOW = 156, 0.064, 10.0, 7
SCORES = [
    "psds_score_scenario1",
    "psds_score_scenario2",
    "event_f1_macro",
    "segment_f1_macro",
    "intersection_f1_macro",
]


def data_set(clips: int) -> tuple[dict[str, np.ndarray], pd.DataFrame, pd.DataFrame]:
    """Posteriors of two models that follow random reference events with errors, as real ones."""
    random = np.random.default_rng(0)
    names = [f"{clip:04d}.wav" for clip in range(clips)]
    times = (np.arange(FRAMES) + 0.5) * FRAME_SECONDS
    logits = {name: np.full((clips, FRAMES, 10), -3.0) for name in ("student", "teacher")}
    rows = []
    for clip, name in enumerate(names):
        for label in random.choice(10, random.integers(1, 4), replace=False):
            edges = np.sort(random.uniform(0, CLIP_SECONDS, 2 * random.integers(1, 4)))
            for onset, offset in edges.reshape(-1, 2):
                rows.append([name, round(onset, 3), round(offset, 3), CLASSES[label]])
                for values in logits.values():
                    first, last = np.array([onset, offset]) + random.normal(size=2) * 0.2
                    found = random.uniform(0, 4) * np.tanh(
                        4 * np.minimum(times - first, last - times)
                    )
                    values[clip, :, label] = np.maximum(values[clip, :, label], found)
    posteriors = {
        name: (1 / (1 + np.exp(-values - 0.5 * random.normal(size=values.shape)))).astype(
            np.float32
        )
        for name, values in logits.items()
    }
    reference = pd.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"])
    return posteriors, reference, pd.DataFrame({"filename": names, "duration": CLIP_SECONDS})


def ours(posteriors: dict, reference: pd.DataFrame, durations: pd.DataFrame) -> dict:
    scorer = Scorer(reference, durations, CLASSES)
    found = {}
    for name, values in posteriors.items():
        points = decode(
            values,
            list(durations["filename"]),
            CLASSES,
            thresholds=[0.5, *THRESHOLDS],
            median_window=WINDOW,
            frame_seconds=FRAME_SECONDS,
            clip_seconds=CLIP_SECONDS,
        )
        summary = scorer.evaluate(points.pop(0.5), points).summary()
        found[name] = {score: summary[score] for score in SCORES}
    return found


def step_by_step(posteriors: dict, reference: pd.DataFrame, durations: pd.DataFrame) -> dict:
    """The official steps: a DataFrame for each clip and threshold, then sed_eval and psds_eval."""
    found = {}
    for name, values in posteriors.items():
        parts: dict[float, list] = {threshold: [] for threshold in (*THRESHOLDS, 0.5)}
        for clip, filename in zip(values, durations["filename"]):
            for threshold, collected in parts.items():
                active = ndimage.median_filter(clip > np.float32(threshold), (WINDOW, 1))
                rows = []
                for label, column in zip(CLASSES, active.T):
                    change = np.flatnonzero(np.diff(column, prepend=False, append=False))
                    for first, stop in change.reshape(-1, 2):
                        ends = np.clip([first * 4 / 62.5, stop * 4 / 62.5], 0, CLIP_SECONDS)
                        rows.append([label, *ends])
                events = pd.DataFrame(rows, columns=["event_label", "onset", "offset"])
                events["filename"] = filename
                if rows:
                    collected.append(events)
        points = {
            threshold: pd.concat(tables) if tables else pd.DataFrame()
            for threshold, tables in parts.items()
        }
        events = points.pop(0.5)
        found[name] = {
            "psds_score_scenario1": reference_scores.psds(points, reference, durations, scenario=1),
            "psds_score_scenario2": reference_scores.psds(points, reference, durations, scenario=2),
            "event_f1_macro": reference_scores.event_based(reference, events).macro_f1,
            "segment_f1_macro": reference_scores.segment_based(reference, events).macro_f1,
            "intersection_f1_macro": reference_scores.intersection_based(
                reference, events, durations
            ).macro_f1,
        }
    return found


def official(posteriors: dict, reference: pd.DataFrame, durations: pd.DataFrame) -> dict:
    """What `test_step` and `on_test_epoch_end` of the official trainer call, in batches of 24."""
    import torch
    from desed_task.evaluation.evaluation_measures import (
        compute_per_intersection_macro_f1,
        compute_psds_from_operating_points,
    )
    from desed_task.utils.encoder import ManyHotEncoder
    from local.utils import batched_decode_preds, log_sedeval_metrics

    encoder = ManyHotEncoder(list(CLASSES), 10, 2048, 256, 4, 16000)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tables = str(Path(folder, "reference.tsv")), str(Path(folder, "durations.tsv"))
        reference.to_csv(tables[0], sep="\t", index=False)
        durations.to_csv(tables[1], sep="\t", index=False)
        for name, values in posteriors.items():
            points = {threshold: pd.DataFrame() for threshold in THRESHOLDS}
            events = pd.DataFrame()
            strong = torch.from_numpy(values).transpose(1, 2)
            filenames = list(durations["filename"])
            for start in range(0, len(strong), 24):
                batch = strong[start : start + 24], filenames[start : start + 24], encoder
                settings = {"median_filter": WINDOW}
                decoded = batched_decode_preds(*batch, thresholds=list(points), **settings)
                for threshold in points:
                    points[threshold] = points[threshold].append(
                        decoded[threshold], ignore_index=True
                    )
                decoded = batched_decode_preds(*batch, thresholds=[0.5], **settings)
                events = events.append(decoded[0.5])
            common = {"alpha_st": 1}
            event, _, segment, _ = log_sedeval_metrics(events, tables[0])
            found[name] = {
                "psds_score_scenario1": compute_psds_from_operating_points(
                    points, *tables, dtc_threshold=0.7, gtc_threshold=0.7, alpha_ct=0, **common
                ),
                "psds_score_scenario2": compute_psds_from_operating_points(
                    points, *tables, dtc_threshold=0.1, gtc_threshold=0.1, alpha_ct=0.5, **common
                ),
                "event_f1_macro": event,
                "segment_f1_macro": segment,
                "intersection_f1_macro": compute_per_intersection_macro_f1({0.5: events}, *tables),
            }
    return found


def contender() -> tuple[str, object]:
    checkout = os.environ.get("DESED_TASK")
    if not checkout:
        return "step by step", step_by_step
    if not hasattr(pd.DataFrame, "append"):
        raise InputError(
            f"DESED_TASK is {checkout}, but the official code needs pandas 1.x (here "
            f"{pd.__version__}); use its own environment or unset DESED_TASK"
        )
    sys.path[:0] = [checkout, str(Path(checkout, "recipes", "dcase2021_task4_baseline"))]
    return "official code", official


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1168, help="DESED validation has 1168")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    name, other = contender()
    sets = data_set(arguments.clips)
    contenders = {"ours": ours, name: other}
    times: dict[str, list] = {key: [] for key in contenders}
    values = {}
    for _ in range(arguments.repeats):
        for key, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                values[key] = run(*sets)
            times[key].append((time.perf_counter() - wall, time.process_time() - cpu))
    seconds = {
        key: [statistics.median(column) for column in zip(*rows)] for key, rows in times.items()
    }
    difference = max(
        abs(values["ours"][model][score] - values[name][model][score])
        for model in values["ours"]
        for score in SCORES
    )
    result = {
        "clips": arguments.clips,
        "repeats": arguments.repeats,
        "seconds": {key: round(pair[0], 3) for key, pair in seconds.items()},
        "cpu_seconds": {key: round(pair[1], 3) for key, pair in seconds.items()},
        "times_faster": round(seconds[name][0] / seconds["ours"][0], 1),
        "times_less_cpu": round(seconds[name][1] / seconds["ours"][1], 1),
        "largest_difference": difference,
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{arguments.clips} clips, student and teacher, median of {arguments.repeats}")
    for key, pair in seconds.items():
        print(f"{key:>14}: {pair[0]:8.2f} s ({pair[1]:.2f} s of a core)")
    print(
        f"{result['times_faster']} times faster ({result['times_less_cpu']} by time of a core); "
        f"scores differ by at most {difference:.1e}"
    )


if __name__ == "__main__":
    main()
