"""Score the detections of any system."""

from __future__ import annotations

import argparse
import math
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Callable

from lab.errors import InputError, command
from lab.packages import SCORES, require

if TYPE_CHECKING:
    import pandas as pd

    from lab.evaluation.metrics import Scores

#: What is compared of the file names of tables.
NAMES: dict[str, Callable[[str], str]] = {
    "path": str,
    "name": lambda name: PurePosixPath(name).name,
    "stem": lambda name: PurePosixPath(name).stem,
}


@command
def main(arguments: list[str] | None = None) -> None:
    """Print every score and the error profile of the tables that the command line names."""
    parser = argparse.ArgumentParser(
        description="Score detected events against annotated ones, and count what is wrong with "
        "the others. Tables have the columns filename, onset, offset (seconds) and event_label, "
        "separated by tabs (by commas in .csv files); a row with a filename alone is a clip "
        "without events. The classes are those of the tables.",
    )
    parser.add_argument("reference", metavar="REFERENCE.tsv", help="annotated events")
    parser.add_argument("estimates", metavar="ESTIMATES.tsv", help="detected events")
    parser.add_argument(
        "--durations",
        metavar="D.tsv",
        help="filename and duration of every clip: for intersection F1 and PSDS",
    )
    parser.add_argument(
        "--points",
        metavar="FOLDER",
        help="folder of predictions_th_<threshold>.tsv, the operating points of PSDS",
    )
    parser.add_argument(
        "--names",
        choices=NAMES,
        default="path",
        help="what must agree of the file names: the whole path (default), the name without its "
        "folders, or the stem, without folders and suffix",
    )
    parser.add_argument("--figure", metavar="F", help="draw the profile, as PNG and SVG")
    args = parser.parse_args(arguments)
    if args.points and not args.durations:
        raise InputError("--points needs --durations: PSDS counts false positives an hour")
    require(*SCORES)
    import pandas as pd

    from lab.data.annotations import hard_events, one_field, read_durations, read_events
    from lab.data.desed import CLASSES
    from lab.evaluation import boundaries, plots
    from lab.evaluation.profile import error_profile, profile_text
    from lab.evaluation.scores import Scorer

    reference = renamed(hard_events(read_events(args.reference, soft=True)), args.names)
    estimated = renamed(read_events(args.estimates), args.names)
    if reference["event_label"].isna().all():
        raise InputError(f"{args.reference} holds no event; there is nothing to find")
    durations = renamed(read_durations(args.durations), args.names) if args.durations else None
    points, unused = read_points(Path(args.points)) if args.points else ({}, [])
    points = {threshold: renamed(table, args.names) for threshold, table in points.items()}
    for table in (estimated, *points.values()):
        refuse_unknown(table, reference)
    classes = pd.concat([table["event_label"] for table in (estimated, *points.values())])
    scorer = Scorer(reference, durations, classes.dropna().unique())

    scores = {
        "event F1 (200 ms, 20 %)": scorer.event_based(estimated),
        "segment F1 (1 s)": scorer.segment_based(estimated),
    }
    if durations is not None:
        scores["intersection F1"] = scorer.intersection_based(estimated)
    profile = error_profile(reference, estimated)
    ending = "no intersection F1 and no PSDS: they need --durations"
    if durations is not None:
        ending = "no PSDS: it needs --points"
    if points:
        first, second = scorer.psds(points)
        ending = f"PSDS 1 {first:.3f}, PSDS 2 {second:.3f}, from {len(points)} operating points"
        ending += f"; not used of {args.points}: {', '.join(unused)}" if unused else ""
    print(f"{args.estimates} against {args.reference}: {len(scorer.files):,} clips")
    print(f"\nScores (%)\n{score_table(scores).to_string()}\n{ending}")
    print(f"\nF1 by class (%)\n{class_table(scores).to_string()}\n\n{profile_text(profile)}")
    if args.figure:
        name = one_field(Path(args.estimates).stem)
        errors = boundaries.edge_errors(reference, estimated)
        official = set(scorer.classes) <= set(CLASSES)
        figure = plots.error_profiles({name: profile}, {name: errors}, official=official)
        print(f"\nfigure in {' and '.join(map(str, plots.save(figure, args.figure)))}")


def renamed(table: pd.DataFrame, names: str) -> pd.DataFrame:
    """A table with what is compared of its file names.

    Raises:
        InputError: two clips of the table would have one name.
    """
    clips: dict[str, str] = {}
    for filename in table["filename"].unique():
        other = clips.setdefault(NAMES[names](filename), filename)
        if other != filename:
            raise InputError(
                f"{other} and {filename} are one clip by --names {names}; compare more of the names"
            )
    return table.assign(filename=table["filename"].map(NAMES[names]))


def refuse_unknown(table: pd.DataFrame, reference: pd.DataFrame) -> None:
    """Refuse detections in clips that the reference lacks.

    Raises:
        InputError: for the first such clip, with what would make it known.
    """
    known = set(reference["filename"])
    unknown = [name for name in table["filename"].unique() if name not in known]
    if not unknown:
        return
    advice = "a clip without events needs a row there with its filename alone"
    if unicodedata.normalize("NFC", unknown[0]) in {unicodedata.normalize("NFC", n) for n in known}:
        advice = "one there looks alike and has other bytes (Unicode's NFC and NFD): rename one"
    for names in ("stem", "name"):
        if NAMES[names](unknown[0]) in map(NAMES[names], known):
            advice = f"--names {names} finds it there, under another folder or suffix"
    raise InputError(f"{unknown[0]} is not in the reference; {advice}")


def read_points(folder: Path) -> tuple[dict[float, pd.DataFrame], list[str]]:
    """Detections by threshold, and the names of the tables that hold none.

    A table is named `predictions_th_<threshold>.tsv`, with the threshold written in any way.

    Raises:
        InputError: there is none, one cannot be used, or two have the same threshold.
    """
    files: dict[float, Path] = {}
    unused = []
    for path in sorted([*folder.glob("*.tsv"), *folder.glob("*.csv")]):
        threshold = threshold_of(path)
        if threshold is None:
            unused.append(path.name)
        elif threshold in files:
            raise InputError(
                f"{files[threshold]} and {path.name} have the same threshold {threshold!r}; "
                "remove one of them"
            )
        else:
            files[threshold] = path
    if not files:
        raise InputError(
            f"--points is {folder}, which holds no predictions_th_<threshold>.tsv; give the "
            "folder that the test of a model wrote them to"
        )
    from lab.data.annotations import read_events

    return {threshold: read_events(path) for threshold, path in files.items()}, unused


def threshold_of(path: Path) -> float | None:
    """The threshold that a table's name gives, or None.

    Example:
        >>> threshold_of(Path("predictions_th_1e-05.tsv"))
        1e-05
    """
    name = re.fullmatch(r"predictions_th_(.+)", path.stem)
    try:
        threshold = float(name[1]) if name else math.nan
    except ValueError:
        return None
    return threshold if math.isfinite(threshold) else None


def score_table(scores: dict[str, Scores]) -> pd.DataFrame:
    """Averages in percent; strict counts a class that is never detected as 0."""
    import pandas as pd

    rows = {name: [one.macro_f1, one.micro_f1, one.strict_macro_f1] for name, one in scores.items()}
    columns = ["macro", "micro", "macro, strict"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.apply(lambda column: column.map(lambda value: f"{100 * value:.2f}"))


def class_table(scores: dict[str, Scores]) -> pd.DataFrame:
    """F1 of each class in percent; a dash where the official evaluation leaves it out."""
    import pandas as pd

    from lab.evaluation.tables import percent

    table = pd.concat({n.split(" F1")[0]: one.classwise["f1"] for n, one in scores.items()}, axis=1)
    return table.apply(lambda column: column.map(percent))


if __name__ == "__main__":
    main()
