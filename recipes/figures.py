"""What two models do at the boundaries of events: the paper's Figures 2 to 4, and more.

Takes the checkpoints of the baseline and of the coherence model; both are run over the validation
set (and the public set where there is one), and the figures and numbers written as PNG, SVG, JSON
and a report.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lab.errors import InputError, command
from lab.packages import NETWORK, require

MODELS = ("baseline", "coherence")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoints", nargs=2, help="of the baseline and of the coherence model")
    parser.add_argument(
        "--conf_file", help="YAML of both trainings (default: the settings in the checkpoints)"
    )
    parser.add_argument("--data", help="DESED tree in the official layout (audio/, metadata/)")
    parser.add_argument("--log_dir", default="exp/boundaries", help="folder of the results")
    parser.add_argument("--names", nargs=2, default=MODELS, help="of the models, in the figures")
    parser.add_argument("--model", choices=["teacher", "student"], help="default: teacher if any")
    parser.add_argument("--path", default="cnn", help="submodule whose output is z")
    parser.add_argument(
        "--classes", nargs="+", help="of the segment F1 (default: those that gained)"
    )
    parser.add_argument("--clip", help="of the posteriors (default: the one with the largest gain)")
    parser.add_argument("--class", dest="label", help="of the posteriors (default: the same)")
    parser.add_argument("--gpus", help="index, or cpu")
    parser.add_argument("--fast_dev_run", action="store_true", help="the first clips only")
    args = parser.parse_args(argv)
    if args.names[0] == args.names[1]:
        raise InputError(f"--names are both {args.names[0]!r}; give two names")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK)
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
        config = {"data": dict(held_data(args.checkpoints[0])), "soundscapes": {"strong": 0}}
    place_data(config, args.data, Path("data", Path(args.conf_file or "").stem), public=True)
    sets = {"validation": examine(detectors, config["data"], "test", args)}
    if Path(config["data"].get("public_tsv", "")).is_file():
        sets["public"] = examine(detectors, config["data"], "public", args)
    else:
        print("no public set: validation only")
    write(sets, args)
    print(f"report.md, figures and boundaries.json in {args.log_dir}")


def held_data(checkpoint: str) -> dict:
    """Paths of the data that a checkpoint was trained with."""
    from lab.baseline.checkpoints import load_checkpoint

    return load_checkpoint(checkpoint)["hyper_parameters"]["data"]


def examine(detectors: dict, data: dict, part: str, args: argparse.Namespace) -> dict:
    """Run both models over one set: posteriors, z, labels, and all scores."""
    import torch

    from dcase_coherence.tap import FeatureTap
    from lab.data.annotations import read_durations, read_reference
    from lab.data.datasets import LengthBatchSampler, StronglyAnnotatedSet
    from lab.evaluation import decode, scores

    encoder = next(iter(detectors.values())).encoder
    reference = read_reference(data[f"{part}_tsv"], encoder.labels)
    durations = read_durations(data[f"{part}_dur"])
    if args.fast_dev_run:
        reference = reference[reference["filename"].isin(reference["filename"].unique()[:8])]
    clips = StronglyAnnotatedSet(
        data[f"{part}_folder"],
        reference,
        encoder,
        pad_to=encoder.audio_len,
        fs=encoder.fs,
        whole=True,
    )
    batches = LengthBatchSampler(clips, 16, round(encoder.audio_len * encoder.fs))
    names = [clips.names[item] for batch in batches for item in batch]
    seconds: list = []
    posteriors: dict = {name: [] for name in detectors}
    z: dict = {name: [] for name in detectors}
    labels: list = []
    for batch in torch.utils.data.DataLoader(clips, batch_sampler=batches):
        labels.extend(batch[1].transpose(1, 2).numpy())
        frames = batch[1].shape[2]
        seconds += [batch[0].shape[1] / encoder.fs] * len(batch[0])
        for name, detector in detectors.items():
            with FeatureTap(detector.network, args.path) as tap:
                posteriors[name].extend(detector.posteriors(batch[0].numpy()))
                z[name].extend(tap.pop()[:, :frames].float().cpu().numpy())
    evaluated, events = {}, {}
    for name, values in posteriors.items():
        settings = {
            "median_window": detectors[name].median_window,
            "frame_seconds": encoder.frame_seconds,
            "clip_seconds": seconds,
        }
        evaluated[name] = scores.evaluate(
            values, names, reference, durations, encoder.labels, **settings
        )
        # Nothing is found after the end of a clip that is shorter than others.
        posteriors[name] = stacked(values)
        events[name] = decode.decode(posteriors[name], names, encoder.labels, **settings)[0.5]
    return {
        "posteriors": posteriors,
        "z": z,
        "labels": labels,
        "names": names,
        "reference": reference,
        "encoder": encoder,
        "scores": evaluated,
        "events": events,
    }


def stacked(clips: list):
    """One array `(clips, frames, classes)` of clips, with zeros after the end of shorter ones."""
    import numpy as np

    longest = max(map(len, clips))
    return np.stack([np.pad(clip, ((0, longest - len(clip)), (0, 0))) for clip in clips])


def write(sets: dict, args: argparse.Namespace) -> None:
    """Draw the figures, print the numbers, write the report and boundaries.json."""
    import pandas as pd

    from lab.data.classes import are_desed
    from lab.evaluation import boundaries, plots
    from lab.evaluation.profile import (
        ALL,
        NOTE,
        OFFICIAL_NOTE,
        error_profile,
        of_systems,
        profile_table,
        profile_text,
    )
    from lab.evaluation.report import Report
    from lab.evaluation.tables import to_json
    from lab.files import write_whole

    report = Report("At the boundaries of events", command=shlex.join(sys.argv))
    found = sets["validation"]
    models, encoder = found["posteriors"], found["encoder"]
    frame_seconds = encoder.frame_seconds

    figure = plots.classwise_f1(classwise(sets, "event"))
    report.figure("Event F1 by class", figure, "Figure 2.")
    segments = classwise(sets, "segment")
    gained = gains(*segments["validation"].values())
    shown = args.classes or list(gained.index)
    if shown:
        figure = plots.classwise_f1(segments, ylabel="segment-based F1", show=shown)
        words = "Figure 3a." + ("" if args.classes else " The classes that gained on validation.")
        report.figure("Segment F1", figure, words)
    numbers: dict = {"models": dict(zip(args.names, map(str, args.checkpoints)))}

    for title, relative, words in (
        ("Change of z inside events", False, "Figure 3b: z of the network in evaluation mode."),
        ("Relative change of z inside events", True, "Divided by the mean L1 norm of z."),
    ):
        change = boundaries.histogram(
            {
                name: boundaries.inside_change(z, found["labels"], relative=relative)
                for name, z in found["z"].items()
            }
        )
        axis = "L1 norm of the change of z" + ", relative to |z|" * relative
        report.figure(title, plots.change_histogram(change, xlabel=axis), words)
        numbers[title] = {"mean": change.mean, "variance": change.variance}

    stable = boundaries.stable_events(
        models, found["names"], found["reference"], encoder.labels, frame_seconds=frame_seconds
    )
    rows: dict = {name: {} for name in models}
    common = "Events that both models detect in their stable region"
    try:
        edges = [
            boundaries.profile(models, stable, edge, frame_seconds=frame_seconds)
            for edge in ("onset", "offset")
        ]
        figure = plots.edge_profiles(*edges)
        report.figure("Mean posterior around boundaries", figure, f"Figures 4a and 4b. {common}.")
    except InputError as error:
        print(f"no Figure 4a and 4b: {error}")
    for name, values in models.items():
        times = boundaries.rise_times(values, stable, frame_seconds=frame_seconds)
        rows[name]["events in common"] = len(stable)
        rows[name]["rise (s), median"] = times["rise"].dropna().median()
        rows[name]["fall (s), median"] = times["fall"].dropna().median()
    errors = {
        name: boundaries.edge_errors(found["reference"], found["events"][name]) for name in models
    }
    for name, table in errors.items():
        rows[name]["events found"] = len(table)
        for edge in ("onset", "offset"):
            error = table[f"{edge}_error"]
            rows[name][f"{edge} error (s), median"] = error.dropna().median()
            rows[name][f"{edge} error (s), median size"] = error.dropna().abs().median()
    profiles = {name: error_profile(found["reference"], found["events"][name]) for name in models}
    official = are_desed(encoder.labels)
    counts = of_systems(profiles, official=official)
    print(f"\n{profile_text(counts)}")
    words = NOTE + OFFICIAL_NOTE * official
    report.table("Reference events (%)", profile_table(counts), words)
    report.table("Estimated events (%)", profile_table(counts, "estimated"))
    figure = plots.error_profiles(profiles, official=official)
    report.figure("Error profile", figure, "Of the reference events.")
    try:
        figure = plots.edge_error_boxes(errors)
        words = "Late is positive. Median, quartiles, 5th and 95th percentile."
        report.figure("Errors of onsets and offsets", figure, words)
    except InputError as error:
        print(f"no figure of the errors: {error}")

    for name, z in found["z"].items():
        ratios = boundaries.growth_ratios(z, found["labels"])
        rows[name]["boundary / inside, all of z"], rows[name]["along its best direction"] = ratios

    distances = pd.concat(
        {name: boundaries.step_distances(z, found["labels"]) for name, z in found["z"].items()},
        axis=1,
    )

    clip, label = chosen(found, args)
    number, reference = found["names"].index(clip), found["reference"]
    figure = plots.posteriors(
        {name: values[number] for name, values in models.items()},
        reference[reference["filename"] == clip],
        encoder.labels,
        frame_seconds=frame_seconds,
        show=[label],
        title=clip,
    )
    words = f"Figure 4c: {label} in {clip}."
    report.figure("Posteriors of a clip", figure, words)

    scores = pd.DataFrame(
        {
            f"{model}, {name}": scored.summary()
            for name, one in sets.items()
            for model, scored in one["scores"].items()
        }
    ).rename_axis("score")
    table = pd.DataFrame(rows).rename_axis("")
    print(f"\n{scores.round(4).to_string()}\n\n{table.round(3).to_string()}")
    print(f"\nsquared distances of centred unit-norm z\n{distances.round(3).to_string()}")
    words = f"{common}: rise and fall, 10 % to 90 %. Late is positive. Boundary / inside: summed "
    words += "squared change of z at label changes over that elsewhere (evaluation mode); above "
    words += "alpha2 / alpha1 (the paper's: 0.3) the exact loss falls without bound as z grows."
    report.table("Boundaries", table, words)
    words = "Means over pairs of frames across a label change and elsewhere, of centred unit-norm "
    words += "z in evaluation mode, without dropout: at most 4."
    report.table(
        "Squared distances of z", distances.set_axis(map(", ".join, distances), axis=1), words
    )
    report.table("Scores", scores)
    numbers.update(events=rows, scores=scores.to_dict(), gained=gained.to_dict())
    numbers["distances"] = {name: distances[name].to_dict(orient="index") for name in found["z"]}
    numbers["posteriors"] = {"clip": clip, "class": label}
    numbers["profiles"] = {name: table.loc[ALL].to_dict() for name, table in profiles.items()}
    write_whole(Path(args.log_dir, "boundaries.json"), to_json(numbers))
    report.write(args.log_dir)


def classwise(sets: dict, kind: str) -> dict:
    """F1 of each class by set and model; a class that is there and never predicted has 0."""
    tables: dict = {}
    for name, one in sets.items():
        tables[name] = {}
        for model, scored in one["scores"].items():
            table = getattr(scored, kind).classwise.reindex(one["encoder"].labels)
            f1 = table["f1"].mask(table["f1"].isna() & (table["n_ref"] > 0), 0.0)
            tables[name][model] = f1.to_frame()
    return tables


def gains(before, after):
    """Classes that gained, by how much, the largest first."""
    gain = (after["f1"] - before["f1"]).dropna()
    return gain[gain > 0].sort_values(ascending=False)


def chosen(found: dict, args: argparse.Namespace) -> tuple[str, str]:
    """Clip and class whose posteriors are shown: by default where the second model gains most.

    The gain is the drop of the mean distance between posterior and label.
    """
    import numpy as np

    first, second = found["posteriors"].values()
    labels, classes = stacked(found["labels"]), found["encoder"].labels
    frames = min(labels.shape[1], first.shape[1])
    labels, first, second = (values[:, :frames] for values in (labels, first, second))
    gain = (np.abs(first - labels) - np.abs(second - labels)).mean(axis=1)
    possible = labels.any(axis=1)
    if args.clip is not None:
        possible[[name != args.clip for name in found["names"]]] = False
    if args.label is not None:
        possible[:, [label != args.label for label in classes]] = False
    if not possible.any():
        raise InputError(
            f"no clip of the validation set fits --clip {args.clip} --class {args.label}; give "
            f"one of its clips, and a class that is in it, of {', '.join(classes)}"
        )
    clip, label = np.unravel_index(np.where(possible, gain, -np.inf).argmax(), gain.shape)
    return found["names"][clip], classes[label]


if __name__ == "__main__":
    main()
