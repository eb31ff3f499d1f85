"""Draw the figures of docs/results.md from docs/results/results.csv.

python docs/figures.py
"""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from tables import RESULTS, ROOT, Pairs, pairs_of, read_results

MACRO = "event_f1_macro"
#: Title of each set, and what it is in results.csv with the seeds of each arm.
SETS = {
    "mean teacher, main job": "main_job_confirmation",
    "recordings, mean teacher": "recordings_teacher",
    "recordings, mean teacher, public": "recordings_teacher test=public",
    "recordings, strong clips": "recordings_strong",
    "recordings, strong clips, public": "recordings_strong test=public",
    "parametric, strong clips": "parametric_strong",
}
ARMS = {
    "the term on z": ("lags_1248_0.3", "C0", "o"),
    "the control": ("boundary_weight", "C1", "s"),
}


def pairs(request: str, setting: str) -> Pairs:
    """Trials of a setting and of the baseline, on the seeds of the confirmation."""
    return pairs_of(f"{request} settings={setting} seeds=52-81", [], read_results(RESULTS))[0]


def differences() -> Figure:
    """Difference of each arm to the baseline by set, with its 95 % interval."""
    figure, panel = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for shift, (arm, (setting, colour, marker)) in zip((-0.14, 0.14), ARMS.items()):
        tests = [pairs(request, setting).test(MACRO) for request in SETS.values()]
        values = 100 * np.array([test["difference"] for test in tests])
        ends = 100 * np.array([[test["low"], test["high"]] for test in tests]).T
        panel.errorbar(
            values,
            np.arange(len(tests)) + shift,
            xerr=np.abs(ends - values),
            fmt=marker,
            color=colour,
            capsize=3,
            label=arm,
        )
    panel.axvline(0, color="grey", linewidth=0.8)
    panel.set_yticks(range(len(SETS)), [*SETS])
    panel.invert_yaxis()
    panel.set_xlabel("difference of macro event F1 to the baseline (points)")
    panel.legend(frameon=False)
    return figure


def seeds() -> Figure:
    """Difference of each arm to the baseline in the main job, seed by seed."""
    figure, panel = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for arm, (setting, colour, marker) in ARMS.items():
        both = pairs(SETS["mean teacher, main job"], setting)
        points = 100 * (both.setting[MACRO] - both.reference[MACRO])
        panel.plot(points.index, points, marker, color=colour, label=arm)
        panel.axhline(points.mean(), color=colour, linewidth=0.8, linestyle="--")
    panel.axhline(0, color="grey", linewidth=0.8)
    panel.set_xlabel("seed")
    panel.set_ylabel("difference (points)")
    panel.legend(frameon=False, ncols=2)
    return figure


FIGURES = {"differences": differences, "seeds": seeds}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        draw().savefig(ROOT / "docs" / f"{name}.png", dpi=150, metadata={"Software": None})
