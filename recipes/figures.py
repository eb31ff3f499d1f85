"""What two models do at the boundaries of events: the paper's Figures 2 to 4, and more.

Takes two checkpoints, or the folders of two trials of compare.py or train_sed_coherence.py; both
models are run over the validation set (and the public set where there is one), and the figures and
numbers written as PNG, SVG, JSON and a report.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import InputError, command
from lab.packages import NETWORK, require

if TYPE_CHECKING:
    import pandas as pd

MODELS = ("baseline", "coherence")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "checkpoints",
        nargs=2,
        help="of the model to compare with and of the other: files, or "
        "folders of finished trials (.../SETTING/trial_N)",
    )
    parser.add_argument(
        "--conf_file", help="YAML of both trainings (default: the settings in the checkpoints)"
    )
    parser.add_argument(
        "--data",
        help="DESED tree in the official layout, audio/ and metadata/ (default: the data of the "
        "first training)",
    )
    parser.add_argument(
        "--log_dir", default="exp/boundaries", help="folder of the results (default: %(default)s)"
    )
    parser.add_argument(
        "--names",
        nargs=2,
        help="of the models, in the figures (default: the settings of two trials; else baseline "
        "and coherence)",
    )
    parser.add_argument(
        "--model",
        choices=["teacher", "student"],
        help="of each checkpoint (default: teacher if any)",
    )
    parser.add_argument(
        "--path", default="cnn", help="submodule whose output is z (default: %(default)s)"
    )
    parser.add_argument(
        "--classes", nargs="+", help="of the segment F1 (default: those that gained)"
    )
    parser.add_argument("--clip", help="of the posteriors (default: the one with the largest gain)")
    parser.add_argument("--class", dest="label", help="of the posteriors (default: the same)")
    parser.add_argument("--gpus", help="index, or cpu (default: the first GPU if any)")
    parser.add_argument(
        "--fast_dev_run", action="store_true", help="the first clips only (default: all)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress (default: shown)")
    args = parser.parse_args(argv)
    folders = [Path(path) for path in args.checkpoints]
    args.checkpoints = [checkpoint_of(path) for path in folders]
    if args.names is None:
        trials = all(folder.is_dir() for folder in folders)
        args.names = [folder.resolve().parent.name for folder in folders] if trials else MODELS
    if args.names[0] == args.names[1]:
        raise InputError(f"both models are named {args.names[0]!r}; give two --names")
    return args


def checkpoint_of(path: Path) -> Path:
    """A checkpoint; of the folder of a trial the one that was tested.

    Raises:
        InputError: the folder holds no finished trial.
    """
    if not path.is_dir():
        return path
    record = path / "trial.json"
    name = json.loads(record.read_text()).get("checkpoint") if record.is_file() else None
    if name is None:
        raise InputError(f"{path} is no folder of a finished trial; give one, or a checkpoint")
    return path / name


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK)
    from lab.baseline.checkpoints import load_checkpoint
    from lab.baseline.config import load_config
    from lab.baseline.detect import load_detector
    from lab.baseline.place import place_data
    from lab.devices import choose_devices

    config = load_config(args.conf_file) if args.conf_file else None
    accelerator, devices = choose_devices(args.gpus)
    device = "cpu" if accelerator == "cpu" else f"cuda:{devices[0]}"
    detectors = {
        name: load_detector(checkpoint, config=config, model=args.model).to(device)
        for name, checkpoint in zip(args.names, args.checkpoints)
    }
    first, second = (detector.encoder.state_dict() for detector in detectors.values())
    if first != second:
        other = next(key for key in first if first[key] != second[key])
        raise InputError(
            f"the models differ in {other} ({first[other]} and {second[other]}); give two that "
            "were trained with the same features and the same classes"
        )
    if config is None:
        data = load_checkpoint(args.checkpoints[0])["hyper_parameters"]["data"]
        config = {"data": dict(data), "soundscapes": {"strong": 0}}
    generated = Path("data", Path(args.conf_file or "").stem)
    place_data(config, args.data, generated, public=True, progress=not args.quiet)
    sets = {"validation": examine(detectors, config["data"], "test", args)}
    if Path(config["data"].get("public_tsv", "")).is_file():
        sets["public"] = examine(detectors, config["data"], "public", args)
    else:
        print("no public set: validation only")
    write(sets, args)
    print(f"report.md, figures and boundaries.json in {args.log_dir}")


def examine(detectors: dict, data: dict, part: str, args: argparse.Namespace) -> dict:
    """Run both models over one set: posteriors, z, labels, detections and all scores."""
    import torch

    from dcase_coherence.tap import FeatureTap
    from lab.data.annotations import read_durations, read_reference
    from lab.data.datasets import LengthBatchSampler, StronglyAnnotatedSet
    from lab.evaluation.decode import decode
    from lab.evaluation.scores import THRESHOLDS, Scorer

    encoder = next(iter(detectors.values())).encoder
    reference = read_reference(data[f"{part}_tsv"], encoder.labels)
    if args.fast_dev_run:
        reference = reference[reference["filename"].isin(reference["filename"].unique()[:8])]
    scorer = Scorer(reference, read_durations(data[f"{part}_dur"]), encoder.labels)
    folder, length = data[f"{part}_folder"], encoder.audio_len
    clips = StronglyAnnotatedSet(folder, reference, encoder, length, whole=True)
    batches = LengthBatchSampler(clips, 16, round(length * encoder.fs))
    names = [clips.names[item] for batch in batches for item in batch]
    seconds: list = []
    posteriors: dict = {name: [] for name in detectors}
    z: dict = {name: [] for name in detectors}
    labels: list = []
    for batch in torch.utils.data.DataLoader(clips, batch_sampler=batches):
        labels.extend(batch[1].transpose(1, 2).numpy())
        seconds += [batch[0].shape[1] / encoder.fs] * len(batch[0])
        for name, detector in detectors.items():
            with FeatureTap(detector.network, args.path) as tap:
                posteriors[name].extend(detector.posteriors(batch[0].numpy()))
                z[name].extend(tap.pop()[:, : batch[1].shape[2]].float().cpu().numpy())
    evaluated, events = {}, {}
    for name, detector in detectors.items():
        points = decode(
            posteriors[name],
            names,
            encoder.labels,
            thresholds=[0.5, *THRESHOLDS],
            median_window=detector.median_window,
            frame_seconds=encoder.frame_seconds,
            clip_seconds=seconds,
        )
        events[name] = points.pop(0.5)
        evaluated[name] = scorer.evaluate(events[name], points)
    return {
        "folder": folder,
        "posteriors": posteriors,
        "z": z,
        "labels": labels,
        "names": names,
        "reference": reference,
        "encoder": encoder,
        "scores": evaluated,
        "events": events,
    }


def write(sets: dict, args: argparse.Namespace) -> None:
    """Draw the figures, print the numbers, write the report and boundaries.json."""
    import numpy as np
    import pandas as pd

    from lab.data.classes import are_desed
    from lab.evaluation import boundaries, plots, profile
    from lab.evaluation.report import Report
    from lab.evaluation.tables import to_json
    from lab.files import write_whole

    report = Report("At the boundaries of events", command=shlex.join(sys.argv))
    clips = sets["validation"]
    models, encoder, reference = clips["posteriors"], clips["encoder"], clips["reference"]
    frames = {"frame_seconds": encoder.frame_seconds}
    numbers: dict = {"models": dict(zip(args.names, map(str, args.checkpoints)))}

    report.figure("Event F1 by class", plots.classwise_f1(classwise(sets, "event")), "Figure 2.")
    segments = classwise(sets, "segment")
    before, after = (table["f1"] for table in segments["validation"].values())
    gained = (after - before)[after > before].sort_values(ascending=False)
    shown = args.classes or list(gained.index)
    if shown:
        figure = plots.classwise_f1(segments, ylabel="segment-based F1", show=shown)
        words = "Figure 3a." + ("" if args.classes else " The classes that gained on validation.")
        report.figure("Segment F1", figure, words)

    changes = {name: boundaries.inside_change(z, clips["labels"]) for name, z in clips["z"].items()}
    figure = plots.change_histogram(changes, xlabel="L1 norm of the change of z")
    words = "Figure 3b: z of the network in evaluation mode."
    report.figure("Change of z inside events", figure, words)

    stable = boundaries.stable_events(models, clips["names"], reference, encoder.labels, **frames)
    common = "Events that both models detect in their stable region"
    try:
        edges = [boundaries.profile(models, stable, e, **frames) for e in ("onset", "offset")]
        figure = plots.edge_profiles(*edges)
        report.figure("Mean posterior around boundaries", figure, f"Figures 4a and 4b. {common}.")
    except InputError as error:
        print(f"no Figure 4a and 4b: {error}")
    rows: dict = {}
    errors, profiles = {}, {}
    for name, z in clips["z"].items():
        times = boundaries.rise_times(models[name], stable, **frames)
        errors[name] = boundaries.edge_errors(reference, clips["events"][name])
        profiles[name] = profile.error_profile(reference, clips["events"][name])
        rows[name] = {
            "events in common": len(stable),
            **{f"{edge} (s), median": times[edge].dropna().median() for edge in ("rise", "fall")},
            "events found": len(errors[name]),
            "change of z inside, mean": changes[name].mean(),
            # z may have shrunk as a whole.
            "the same over mean |z|": changes[name].mean()
            / np.abs(np.concatenate(z)).sum(axis=1).mean(),
        }
        for edge in ("onset error", "offset error"):
            error = errors[name][edge.replace(" ", "_")].dropna()
            rows[name][f"{edge} (s), median"] = error.median()
            rows[name][f"{edge} (s), median size"] = error.abs().median()

    official = are_desed(encoder.labels)
    counts = profile.of_systems(profiles, official=official)
    words = profile.NOTE + profile.OFFICIAL_NOTE * official
    report.table("Reference events (%)", profile.profile_table(counts), words)
    report.table("Estimated events (%)", profile.profile_table(counts, "estimated"))
    figure = plots.error_profiles(profiles, errors, official=official)
    words = "Of the reference events; below, the errors of those that were found."
    report.figure("Error profile", figure, words)

    clip, label = clip_and_class(clips, args)
    number = clips["names"].index(clip)
    figure = plots.posteriors(
        {name: values[number] for name, values in models.items()},
        reference[reference["filename"] == clip],
        encoder.labels,
        audio=Path(clips["folder"], clip),
        show=[label],
        title=clip,
        **frames,
    )
    report.figure("Posteriors of a clip", figure, f"Figure 4c: {label} in {clip}.")

    words = f"{common}: rise and fall, 10 % to 90 %. Late is positive."
    table = pd.DataFrame(rows).rename_axis("")
    report.table("Boundaries", table, words)
    scores = pd.DataFrame(
        {
            f"{model}, {name}": scored.summary()
            for name, one in sets.items()
            for model, scored in one["scores"].items()
        }
    ).rename_axis("score")
    report.table("Scores", scores)
    print(f"\n{profile.profile_text(counts)}")
    print(f"\n{scores.round(4).to_string()}\n\n{table.round(3).to_string()}")
    numbers.update(
        events=rows,
        scores=scores.to_dict(),
        gained=gained.to_dict(),
        posteriors={"clip": clip, "class": label},
        profiles={name: one.loc[profile.ALL].to_dict() for name, one in profiles.items()},
    )
    write_whole(Path(args.log_dir, "boundaries.json"), to_json(numbers))
    report.write(args.log_dir)


def classwise(sets: dict, kind: str) -> dict[str, dict[str, pd.DataFrame]]:
    """F1 of each class by set and model; a class that is there and never predicted has 0."""
    tables: dict = {}
    for name, one in sets.items():
        tables[name] = {}
        for model, scored in one["scores"].items():
            table = getattr(scored, kind).classwise.reindex(one["encoder"].labels)
            f1 = table["f1"].mask(table["f1"].isna() & (table["n_ref"] > 0), 0.0)
            tables[name][model] = f1.to_frame()
    return tables


def clip_and_class(clips: dict, args: argparse.Namespace) -> tuple[str, str]:
    """Clip and class whose posteriors are shown: by default where the second model gains most.

    The gain is the drop of the mean distance between posterior and label.
    """
    import pandas as pd

    gains = []
    for label, *both in zip(clips["labels"], *clips["posteriors"].values()):
        frames = min(map(len, (label, *both)))
        first, second = (abs(values[:frames] - label[:frames]) for values in both)
        gains.append((first - second).mean(axis=0))
    named = {"index": clips["names"], "columns": clips["encoder"].labels}
    present = pd.DataFrame([label.any(axis=0) for label in clips["labels"]], **named)
    gain = pd.DataFrame(gains, **named).where(present)
    rows = gain.index == (args.clip or gain.index)
    gain = gain.loc[rows, gain.columns == (args.label or gain.columns)]
    if not gain.notna().any(axis=None):
        raise InputError(
            f"no clip of the validation set fits --clip {args.clip} --class {args.label}; give "
            f"one of its clips, and a class that is in it, of {', '.join(named['columns'])}"
        )
    return gain.stack().idxmax()


if __name__ == "__main__":
    main()
