"""Detect events in recordings of any length, rate and format, with a trained checkpoint.

Prints a table (tab-separated), JSON, or labels of Audacity or Raven; writes them with --out. Each
detection but an Audacity label has a confidence: the mean over its frames of the class's posterior,
after the median window. The name of a recording is its path from the folder that all recordings
share. The same command goes on with a run that was stopped. Of the checkpoint only the weights and
settings are read; no code in it is run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from contextlib import closing, nullcontext
from pathlib import Path

from lab.errors import InputError, command, resumable
from lab.packages import NETWORK, require


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("audio", nargs="+", help="wav, flac, ogg, mp3, ... files, or folders")
    parser.add_argument("--checkpoint", required=True, help="of ours or of the official baseline")
    parser.add_argument("--conf_file", help="YAML of its training (default: what it holds itself)")
    parser.add_argument(
        "--model", choices=["teacher", "student"], help="default: the teacher if any"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="of the posterior (default: %(default)s)"
    )
    parser.add_argument("--median_window", type=int, help="in frames (default: as in training)")
    parser.add_argument(
        "--minmax_from",
        type=int,
        choices=[0, -1],
        help="lower end of the features, which official checkpoints of 2023 and later do not tell "
        "(default: 0 of all others)",
    )
    parser.add_argument(
        "--format",
        choices=["tsv", "json", "audacity", "raven"],
        default="tsv",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--out",
        help="file, or for audacity and raven folder of a file a recording (default: printed)",
    )
    parser.add_argument(
        "--figure",
        metavar="DIR|FILE.html",
        help="also draw the posteriors into this folder; or, of one recording, write a page with "
        "its events, posteriors and a player (default: none)",
    )
    parser.add_argument("--gpus", help="index, or cpu (default: a GPU if there is one)")
    parser.add_argument(
        "--quiet", action="store_true", help="no bar (default: with --out, on a terminal)"
    )
    args = parser.parse_args(argv)
    args.page = str(args.figure).lower().endswith((".html", ".htm"))
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK, *["plotly"] * args.page)
    from tqdm import tqdm

    from lab.baseline.detections import Detections, recordings_by_name
    from lab.baseline.output import Output

    recordings = recordings_by_name(args.audio)
    if args.page and len(recordings) > 1:
        raise InputError(
            f"--figure {args.figure} is a page of one recording, and there are {len(recordings)}; "
            "give a folder, or one recording"
        )
    output = Output(
        list(recordings),
        format=args.format,
        out=args.out,
        figures=None if args.page else args.figure,
        page=args.figure if args.page else None,
        settings=settings(args, recordings),
    )
    sound = None
    if args.page:
        from lab.evaluation.sound import read_sound

        sound = read_sound(*recordings.values())
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
    window = detector.median_window if args.median_window is None else args.median_window
    refusals = []
    with resumable() if output.progress else nullcontext(), closing(output):
        left = [name for name in recordings if name not in output.done]
        # What is printed would meet the bar.
        disable = None if args.out and not args.quiet else True
        for name in tqdm(left, unit="recording", disable=disable):
            try:
                posteriors, seconds = posteriors_of(detector, recordings[name])
            except InputError as error:
                # The other recordings are worth having all the same.
                refusals.append(str(error))
                continue
            events = find_events(
                detector, posteriors, seconds, threshold=args.threshold, median_window=window
            )
            # Before any picture: one that fails loses no detections.
            output.add(Detections(name, seconds, detector.encoder.fs / 2, events))
            if args.figure:
                shown = {"checkpoint": Path(args.checkpoint).name, "median window": window}
                target = Path(args.figure) if args.page else Path(args.figure, name)
                audio = recordings[name] if sound is None else sound
                draw(target, name, audio, posteriors, events, detector, args.threshold, shown)
    for sentence in refusals[:-1]:
        print(f"error: {sentence}", file=sys.stderr)
    if refusals:
        raise InputError(refusals[-1])


def draw(target, name, audio, posteriors, events, detector, threshold, settings) -> None:
    """Draw the posteriors of a recording file, as PNG and SVG; of its sound, as a page."""
    import pandas as pd

    from lab.data.annotations import one_field
    from lab.evaluation import plots
    from lab.files import write_whole

    labels = detector.encoder.labels
    scale = {"frame_seconds": detector.encoder.frame_seconds, "threshold": threshold}
    if isinstance(audio, Path):
        models = {"posterior": posteriors}
        scale.update(title=one_field(name), audio=audio)
        plots.save(plots.posteriors(models, pd.DataFrame(), labels, **scale), target)
        return
    from lab.evaluation.player import player

    title = one_field(Path(name).name)
    page = player(title, audio, posteriors, events, labels, settings=settings, **scale)
    write_whole(target, page)


def settings(args: argparse.Namespace, recordings: dict[str, Path]) -> dict:
    """What the files of a run depend on."""
    name, path = next(iter(recordings.items()))
    kept = ("figure", "model", "threshold", "median_window", "minmax_from")
    return {
        "folder": os.path.abspath(path)[: -len(name)],
        "checkpoint": digest(args.checkpoint),
        "conf_file": args.conf_file and digest(args.conf_file),
        **{key: getattr(args, key) for key in kept},
    }


def digest(path: str) -> str:
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; correct the path")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
