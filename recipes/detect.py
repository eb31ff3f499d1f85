"""Detect events in recordings of any length, rate and format, with a trained checkpoint.

Prints a table (tab-separated), JSON or Audacity labels, or writes them with --out. Of the
checkpoint only the weights and settings are read; no code in it is run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from lab.errors import InputError, command
from lab.packages import NETWORK, require

FORMATS = ("tsv", "json", "audacity")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("audio", nargs="+", help="wav, flac, ogg, mp3, ... files")
    parser.add_argument("--checkpoint", required=True, help="of ours or of the official baseline")
    parser.add_argument("--conf_file", help="YAML of its training (default: what it holds itself)")
    parser.add_argument("--model", choices=["teacher", "student"], help="default: teacher if any")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the posterior")
    parser.add_argument("--median_window", type=int, help="in frames (default: as in training)")
    parser.add_argument(
        "--minmax_from",
        type=int,
        choices=[0, -1],
        help="lower end of the features, for official checkpoints of 2023 and later",
    )
    parser.add_argument("--format", choices=FORMATS, default="tsv")
    parser.add_argument("--out", help="file (tsv, json) or folder (audacity: one file a recording)")
    parser.add_argument(
        "--figure",
        metavar="DIR|FILE.html",
        help="also draw the posteriors into this folder; or, of one recording, write a page with "
        "its events, posteriors and a player",
    )
    parser.add_argument("--gpus", help="index, or cpu")
    args = parser.parse_args(argv)
    if args.out and Path(args.out).exists() and (args.format != "audacity"):
        raise InputError(f"--out {args.out} exists; remove it or give another name")
    if is_page(args.figure):
        if len(args.audio) > 1:
            raise InputError(
                f"--figure {args.figure} is a page of one recording, and there are "
                f"{len(args.audio)}; give a folder, or one recording"
            )
        if Path(args.figure).exists():
            raise InputError(f"--figure {args.figure} exists; remove it or give another name")
    return args


def is_page(figure: str | None) -> bool:
    return figure is not None and Path(figure).suffix.lower() in (".html", ".htm")


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK)
    from lab.baseline.config import load_config
    from lab.baseline.detect import find_events, load_detector, posteriors_of
    from lab.devices import choose_devices

    accelerator, devices = choose_devices(args.gpus)
    detector = load_detector(
        args.checkpoint,
        config=load_config(args.conf_file) if args.conf_file else None,
        model=args.model,
        minmax_from=args.minmax_from,
    ).to("cpu" if accelerator == "cpu" else f"cuda:{devices[0]}")
    found, refused = [], []
    for audio in args.audio:
        try:
            posteriors, seconds = posteriors_of(detector, audio)
        except InputError as error:
            # The other recordings are worth having all the same.
            refused.append(str(error))
            continue
        events = find_events(
            detector,
            posteriors,
            seconds,
            threshold=args.threshold,
            median_window=args.median_window,
        )
        found.append((audio, seconds, events))
        if is_page(args.figure):
            write_page(args, audio, posteriors, events, detector)
        elif args.figure:
            draw(Path(args.figure), audio, posteriors, detector.encoder, args.threshold)
    write(args, found)
    for sentence in refused[:-1]:
        print(f"error: {sentence}", file=sys.stderr)
    if refused:
        raise InputError(refused[-1])


def write(args: argparse.Namespace, found: list) -> None:
    """Print the detections, or write them to --out."""
    from lab.files import write_whole

    texts = {"tsv": tsv, "json": as_json, "audacity": audacity}
    if args.out is None or args.format != "audacity":
        targets = {args.out: texts[args.format](found)}
    else:
        targets = {}
        for one in found:
            path = Path(args.out, f"{Path(one[0]).name}.txt")
            if path in targets or path.exists():
                raise InputError(f"{path} exists; remove it or give another --out")
            targets[path] = audacity([one])
    for path, text in targets.items():
        if path is None:
            if hasattr(sys.stdout, "reconfigure"):
                # As the files are, whatever the locale.
                sys.stdout.reconfigure(encoding="utf-8")
            print(text, end="")
            continue
        write_whole(path, text)


def tsv(found: list) -> str:
    from lab.data.annotations import one_field

    lines = ["filename\tonset\toffset\tevent_label"]
    for audio, _, events in found:
        rows = [f"{e.onset:.3f}\t{e.offset:.3f}\t{e.event_label}" for e in events.itertuples()]
        # As in DESED's tables a recording without events has a row with its name alone.
        lines += [f"{one_field(audio)}\t{row}" for row in rows or ["\t\t"]]
    return "\n".join(lines) + "\n"


def as_json(found: list) -> str:
    content = [
        {
            "filename": audio,
            "duration": round(seconds, 3),
            "events": events.round(3).to_dict("records"),
        }
        for audio, seconds, events in found
    ]
    return json.dumps(content, indent=2) + "\n"


def audacity(found: list) -> str:
    rows = [event for _, _, events in found for event in events.itertuples()]
    return "".join(f"{e.onset:.6f}\t{e.offset:.6f}\t{e.event_label}\n" for e in rows)


def posterior_figure(audio: str, posteriors, encoder, threshold: float):
    import pandas as pd

    from lab.evaluation import plots

    return plots.posteriors(
        {"posterior": posteriors},
        pd.DataFrame(),
        encoder.labels,
        frame_seconds=encoder.frame_seconds,
        threshold=threshold,
        title=Path(audio).name,
    )


def draw(folder: Path, audio: str, posteriors, encoder, threshold: float) -> None:
    from lab.evaluation import plots

    target = folder / Path(audio).name
    if target.with_name(f"{target.name}.png").exists():
        raise InputError(f"{target}.png exists; remove it or give another --figure")
    plots.save(posterior_figure(audio, posteriors, encoder, threshold), target)


def write_page(args: argparse.Namespace, audio: str, posteriors, events, detector) -> None:
    """Write a page to send around: the events, and the posteriors with a player."""
    from lab.evaluation.report import Report
    from lab.files import write_whole

    found = (
        f"{len(events) or 'No'} event{'s' * (len(events) != 1)} at threshold {args.threshold:g}."
    )
    report = Report(f"Events in {Path(audio).name}", command=shlex.join(sys.argv), summary=found)
    figure = posterior_figure(audio, posteriors, detector.encoder, args.threshold)
    report.clip("Posteriors", figure, audio, "Classes whose posterior exceeds 0.3 somewhere.")
    if len(events):
        table = events.set_index("event_label").rename_axis("class")
        report.table("Events", table.rename(columns="{} (s)".format))
    window = args.median_window or detector.median_window
    report.settings(
        {
            "checkpoint": args.checkpoint,
            "threshold": args.threshold,
            "median window (frames)": window,
        }
    )
    write_whole(args.figure, report.page())


if __name__ == "__main__":
    main()
