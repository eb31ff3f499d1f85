"""Make tests/golden/evaluation: a small part of real predictions, scored by the original functions.

    python tests/golden/make_golden_evaluation.py CHECKOUT GOLDEN

CHECKOUT is DESED_task at commit 63d8b3b (its `desed_task.evaluation` needs Python 3.8, pandas 1.x,
sed_eval 0.2.1, psds_eval 0.5.x). GOLDEN holds `desed2021_teacher/` (predictions0.5.csv and
operating_points/*.tsv) and `desed_metadata/` (validation.tsv, validation_durations.tsv).
"""

import json
import sys
import warnings
from pathlib import Path

import pandas as pd

checkout, source = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(checkout))
from desed_task.evaluation import evaluation_measures as original  # noqa: E402

CLIPS = 40
THRESHOLDS = [0.01, 0.05, 0.11, 0.21, 0.31, 0.41, 0.51, 0.61, 0.81, 0.95]
target = Path(__file__).parent / "evaluation"
warnings.simplefilter("ignore")

reference = pd.read_csv(source / "desed_metadata/validation.tsv", sep="\t")
durations = pd.read_csv(source / "desed_metadata/validation_durations.tsv", sep="\t")
predictions = pd.read_csv(source / "desed2021_teacher/predictions0.5.csv", index_col=0)
columns = ["filename", "onset", "offset", "event_label"]

# Every 29th clip, and two of those without events.
names = list(reference["filename"].unique()[::29])[: CLIPS - 2]
names += list(reference["filename"][reference["event_label"].isna()].unique()[:2])


def part(table):
    return table[table["filename"].isin(names)]


def write(table, name):
    table.to_csv(target / name, sep="\t", index=False)


def point(threshold):
    name = f"desed2021_teacher/operating_points/predictions_th_{threshold:.2f}.tsv"
    return part(pd.read_csv(source / name, sep="\t"))[columns].assign(threshold=threshold)


target.mkdir(exist_ok=True)
write(part(reference), "reference.tsv")
write(part(durations), "durations.tsv")
write(part(predictions)[columns], "predictions.tsv")
write(pd.concat(map(point, THRESHOLDS)), "operating_points.tsv")


def read_points():
    table = pd.read_csv(target / "operating_points.tsv", sep="\t")
    return {t: rows[columns].reset_index(drop=True) for t, rows in table.groupby("threshold")}


def f_measures(estimated):
    """Macro and micro F1 and the class-wise ones, of both kinds."""
    event, segment = original.compute_sed_eval_metrics(estimated, reference)
    return {
        name: {
            "macro_f1": metric.results()["class_wise_average"]["f_measure"]["f_measure"],
            "micro_f1": metric.results()["overall"]["f_measure"]["f_measure"],
            "classwise": {
                label: values["f_measure"]["f_measure"]
                for label, values in sorted(metric.results()["class_wise"].items())
            },
        }
        for name, metric in (("event", event), ("segment", segment))
    }


tables = str(target / "reference.tsv"), str(target / "durations.tsv")
reference = pd.read_csv(tables[0], sep="\t")
estimated = pd.read_csv(target / "predictions.tsv", sep="\t")
lacking = estimated[~estimated["event_label"].isin(["Dog", "Speech"])]
scores = {
    "predictions": {
        **f_measures(estimated),
        "intersection": original.compute_per_intersection_macro_f1({0.5: estimated}, *tables),
    },
    "predictions without Dog and Speech": {
        **f_measures(lacking),
        "intersection": original.compute_per_intersection_macro_f1({0.5: lacking}, *tables),
    },
    "psds1": original.compute_psds_from_operating_points(
        read_points(), *tables, dtc_threshold=0.7, gtc_threshold=0.7, alpha_ct=0, alpha_st=1
    ),
    "psds2": original.compute_psds_from_operating_points(
        read_points(),
        *tables,
        dtc_threshold=0.1,
        gtc_threshold=0.1,
        cttc_threshold=0.3,
        alpha_ct=0.5,
        alpha_st=1,
    ),
}


def rounded(value):
    """Drop the last digits, which depend on the order of a set of class names."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 13)


text = json.dumps(rounded(scores), indent=1).replace("NaN", "null")
(target / "scores.json").write_text(text + "\n")
