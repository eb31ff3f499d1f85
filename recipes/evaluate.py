"""Score the detections of any system."""

from __future__ import annotations

import argparse
import contextlib
import math
import unicodedata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Callable

from lab.errors import InputError, command
from lab.packages import SCORES, require

if TYPE_CHECKING:
    import pandas as pd

#: What is compared of the file names of tables.
NAMES: dict[str, Callable[[str], str]] = {
    "path": str,
    "name": lambda name: PurePosixPath(name).name,
    "stem": lambda name: PurePosixPath(name).stem,
}
#: How the name of an operating point's table begins; the rest is the threshold.
POINT = "predictions_th_"


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
        help="filename and duration of every clip (default: none, so no intersection F1 and PSDS)",
    )
    parser.add_argument(
        "--points",
        metavar="FOLDER",
        help=f"folder of {POINT}<threshold>.tsv, the operating points of PSDS (default: no PSDS)",
    )
    parser.add_argument(
        "--posteriors",
        metavar="P.npz",
        help="posteriors that the test of a model left: adds the exact PSDS, over every threshold "
        "(extra `exact`; default: none)",
    )
    parser.add_argument(
        "--names",
        choices=NAMES,
        default="path",
        help="what must agree of the file names: the whole path, the name without its folders, or "
        "the stem, without folders and suffix (default: %(default)s)",
    )
    parser.add_argument(
        "--figure", metavar="F", help="draw the profile, as PNG and SVG (default: no figure)"
    )
    args = parser.parse_args(arguments)
    for flag in ("points", "posteriors"):
        if getattr(args, flag) and not args.durations:
            raise InputError(f"--{flag} needs --durations: PSDS counts false positives an hour")
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
    files, unused = point_files(Path(args.points)) if args.points else ({}, [])
    points = {at: renamed(read_events(path), args.names) for at, path in files.items()}
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
    ending = "no PSDS: it needs --points"
    if durations is None:
        ending = "no intersection F1 and no PSDS: they need --durations"
    elif points:
        first, second = scorer.psds(points)
        ending = f"PSDS 1 {first:.3f}, PSDS 2 {second:.3f}, from {len(points)} operating points"
        ending += f"; not used of {args.points}: {', '.join(unused)}" if unused else ""
    if args.posteriors:
        from lab.evaluation.exact import psds
        from lab.evaluation.posteriors import decoding_of, load_posteriors

        clips, labels = load_posteriors(Path(args.posteriors))
        names = renamed(pd.DataFrame({"filename": list(clips)}), args.names)["filename"]
        posteriors = dict(zip(names, clips.values()))
        times = decoding_of(Path(args.posteriors))
        first, second = psds(posteriors, reference, durations, labels, **times)
        ending += f"\nexact PSDS 1 {first:.3f}, exact PSDS 2 {second:.3f}, over every threshold"
    profile = error_profile(reference, estimated)
    averages = pd.DataFrame(
        {name: [one.macro_f1, one.micro_f1, one.strict_macro_f1] for name, one in scores.items()},
        index=["macro", "micro", "macro, strict"],
    ).T
    by_class = {name.split(" F1")[0]: one.classwise["f1"] for name, one in scores.items()}
    print(f"{args.estimates} against {args.reference}: {len(scorer.files):,} clips")
    print(f"\nScores (%)\n{(100 * averages).to_string(float_format='{:.2f}'.format)}\n{ending}")
    # A dash where the official evaluation leaves a class out.
    table = 100 * pd.concat(by_class, axis=1)
    print(f"\nF1 by class (%)\n{table.to_string(float_format='{:.1f}'.format, na_rep='-')}")
    print(f"\n{profile_text(profile)}")
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
    """Raise for the first clip that the reference lacks, with what would make it known."""
    from lab.evaluation import metrics

    known = set(reference["filename"])
    unknown = [name for name in table["filename"].unique() if name not in known]
    if not unknown:
        return
    advice = ""
    if unicodedata.normalize("NFC", unknown[0]) in {unicodedata.normalize("NFC", n) for n in known}:
        advice = "one there looks alike and has other bytes (Unicode's NFC and NFD): rename one"
    for names in ("stem", "name"):
        if NAMES[names](unknown[0]) in map(NAMES[names], known):
            advice = f"--names {names} finds it there, under another folder or suffix"
    if advice:
        raise InputError(f"{unknown[0]} is not in the reference; {advice}")
    metrics.refuse_unknown(unknown[:1], ())


def point_files(folder: Path) -> tuple[dict[float, Path], list[str]]:
    """Tables of detections by threshold, which may be written in any way, and unused names.

    Raises:
        InputError: there is none, or two have the same threshold.
    """
    files: dict[float, Path] = {}
    unused = []
    for path in sorted([*folder.glob("*.tsv"), *folder.glob("*.csv")]):
        threshold = math.nan
        with contextlib.suppress(ValueError):
            threshold = float(path.stem.removeprefix(POINT))
        if not (path.stem.startswith(POINT) and math.isfinite(threshold)):
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
            f"--points is {folder}, which holds no {POINT}<threshold>.tsv; give the folder that "
            "the test of a model wrote them to"
        )
    return files, unused


if __name__ == "__main__":
    main()
