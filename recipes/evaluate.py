"""Score the detections of any system."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import InputError, command
from lab.packages import SCORES, require

if TYPE_CHECKING:
    import pandas as pd

    from lab.evaluation.metrics import Scores

POINT = re.compile(r"predictions_th_(\d*\.?\d+)\.tsv")


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
    parser.add_argument("--figure", metavar="F", help="draw the profile, as PNG and SVG")
    asked = parser.parse_args(arguments)
    if asked.points and not asked.durations:
        raise InputError("--points needs --durations: PSDS counts false positives an hour")
    require(*SCORES)
    import pandas as pd

    from lab.data.annotations import hard_events, read_durations, read_events
    from lab.evaluation import boundaries, plots
    from lab.evaluation.profile import error_profile, profile_text
    from lab.evaluation.scores import Scorer

    reference = hard_events(read_events(asked.reference, soft=True))
    estimated = read_events(asked.estimates)
    if reference["event_label"].isna().all():
        raise InputError(f"{asked.reference} holds no event; there is nothing to find")
    durations = read_durations(asked.durations) if asked.durations else None
    points = read_points(Path(asked.points)) if asked.points else {}
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
    print(f"{asked.estimates} against {asked.reference}: {len(scorer.files):,} clips")
    print(f"\nScores (%)\n{score_table(scores).to_string()}\n{ending}")
    print(f"\nF1 by class (%)\n{class_table(scores).to_string()}\n\n{profile_text(profile)}")
    if asked.figure:
        name = Path(asked.estimates).stem
        errors = boundaries.edge_errors(reference, estimated)
        figure = plots.error_profiles({name: profile}, {name: errors})
        print(f"\nfigure in {' and '.join(map(str, plots.save(figure, asked.figure)))}")


def read_points(folder: Path) -> dict[float, pd.DataFrame]:
    """Detections by threshold, from files as the official baseline names them.

    Raises:
        InputError: there is none, or one cannot be used.
    """
    from lab.data.annotations import read_events

    found = [(POINT.fullmatch(path.name), path) for path in sorted(folder.glob("*.tsv"))]
    points = {float(match[1]): read_events(path) for match, path in found if match}
    if not points:
        raise InputError(
            f"--points is {folder}, which holds no predictions_th_<threshold>.tsv; give the "
            "folder that the test of a model wrote them to"
        )
    return points


def score_table(scores: dict[str, Scores]) -> pd.DataFrame:
    """Averages in percent; strict counts a class that is never found as 0."""
    import pandas as pd

    rows = {
        name: [found.macro_f1, found.micro_f1, found.strict_macro_f1]
        for name, found in scores.items()
    }
    columns = ["macro", "micro", "macro, strict"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.apply(lambda column: column.map(lambda value: f"{100 * value:.2f}"))


def class_table(scores: dict[str, Scores]) -> pd.DataFrame:
    """F1 of each class in percent; a dash where the official evaluation leaves it out."""
    import pandas as pd

    from lab.evaluation.tables import percent

    table = pd.concat(
        {n.split(" F1")[0]: found.classwise["f1"] for n, found in scores.items()}, axis=1
    )
    return table.apply(lambda column: column.map(percent))


if __name__ == "__main__":
    main()
