"""The table of results: a row a trial and test set; and the configuration of each set beside it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Iterable, Mapping

import filelock
import pandas as pd

from lab.errors import InputError
from lab.evaluation.profile import COLUMNS as PROFILE
from lab.files import PathLike, write_whole

#: Where the record of a trial has the scores on each test set.
SCORES_OF = {"test": "scores", "public": "public_scores"}
KEY = ["set", "test", "setting", "seed"]
SCORES = [
    *(
        f"{of}_f1_{average}"
        for of in ("event", "segment", "intersection")
        for average in ("macro", "micro", "macro_strict")
    ),
    "psds_score_scenario1",
    "psds_score_scenario2",
]
#: Event F1 at thresholds that the model's validation clips chose.
AT_THRESHOLDS = [
    "shared_threshold",
    *(f"shared_threshold_f1_{average}" for average in ("macro", "micro")),
    *(f"class_thresholds_f1_{average}" for average in ("macro", "micro")),
]
#: Which trial, where it was trained, the score its epoch was chosen by, scores in [0, 1], counts.
COLUMNS = [
    *(*KEY, "commit", "processor", "torch", "validation"),
    *(*SCORES, *PROFILE, *AT_THRESHOLDS),
]


def read_results(path: PathLike) -> pd.DataFrame:
    """Read a table of results, indexed by set, test, setting and seed; empty where there is none.

    A trial that diverged has a row without scores. A count is NaN where it was not kept.

    Raises:
        InputError: the file is no table of results.
    """
    try:
        table = pd.read_csv(path, float_precision="round_trip", dtype={"commit": str})
    except FileNotFoundError:
        table = pd.DataFrame(columns=COLUMNS)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); give another table of results"
        ) from None
    if list(table) != COLUMNS or table.duplicated(KEY).any():
        raise InputError(
            f"{path} is no table of results, a row a trial with the columns {', '.join(COLUMNS)}; "
            "give another one"
        )
    return table.set_index(KEY).sort_index()


def rows_of(name: str, setting: str, seed: int, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a trial of a set, one a test set, from its :func:`lab.runs.trials.run_trial`."""
    common = {"set": name, "setting": setting, "seed": seed}
    common.update({key: record.get(key, "") for key in COLUMNS[4:8]})
    rows = []
    for test, part in SCORES_OF.items():
        if part not in record:
            continue
        scores = record[part]
        model = "teacher" if "test/teacher/event_f1_macro" in scores else "student"
        start = f"test/{model}/"
        row = {**common, "test": test}
        for key, value in scores.items():
            column = key[len(start) :].replace("profile/", "") if key.startswith(start) else ""
            if column in COLUMNS:
                row[column] = int(value) if column in PROFILE else value
        rows.append(row)
    return rows


def add_rows(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a table of results; those of a trial that is in it already are left out.

    Other processes may do the same: the file is locked, and it is whole at any time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        known = set(read_results(path).index)
        text = io.StringIO(path.read_text("utf-8") if path.exists() else "")
        text.seek(0, io.SEEK_END)
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if not path.exists():
            writer.writeheader()
        writer.writerows(row for row in rows if tuple(row[key] for key in KEY) not in known)
        write_whole(path, text.getvalue())


def join_set(path: PathLike, name: str, entry: Mapping[str, Any]) -> None:
    """Write what a set is into the `configs.json` beside a table of results; see :func:`joined`."""
    file = Path(path).parent / "configs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{file}.lock"):
        sets = json.loads(file.read_text("utf-8")) if file.exists() else {}
        sets[name] = joined(f"the set {name!r} in {file}", sets.get(name, {}), entry)
        lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sets.items())
        write_whole(file, "{\n" + ",\n".join(lines) + "\n}\n")


def joined(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What a set is, with what a command brings to it.

    Both hold a `configuration`, digests of `data` and overlays of `settings`, by name; what was
    before may be empty, and what is now may know other data and settings.

    Raises:
        InputError: the configuration is another one, or the data or setting of a name is.
    """
    brought: dict[str, Any] = json.loads(json.dumps(now))
    held: dict[str, Any] = {"configuration": brought["configuration"], **before}
    for part in ("data", "settings"):
        known = before.get(part, {})
        held[part] = {**brought[part], **known}
        brought[part] = {**known, **brought[part]}
    difference = first_difference(held, brought)
    if difference:
        raise InputError(
            f"{what} is of other trainings ({difference}); choose another name for it, or for the "
            "setting that changed"
        )
    return brought


def first_difference(before: Any, now: Any, name: str = "") -> str:
    """Say in what nested settings differ first; empty where they do not.

    Example:
        >>> first_difference({"opt": {"lr": 0.1}}, {"opt": {"lr": 0.2}})
        'opt.lr was 0.1, is 0.2'
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            difference = first_difference(before.get(key), now.get(key), f"{name}.{key}".strip("."))
            if difference:
                return difference
        return ""
    return "" if before == now else f"{name} was {before!r}, is {now!r}"
