"""Prepare and check DESED, or another data set in the official layout.

    python recipes/prepare_desed.py --check DIR [--conf_file YAML] [--missing FILE]
    python recipes/prepare_desed.py --download DIR
    python recipes/prepare_desed.py --generate DIR [--soundbank DIR]
    python recipes/prepare_desed.py --resample DIR
    python recipes/prepare_desed.py --add SET --audio DIR [--tsv FILE | --labels DIR] --out DIR
    python recipes/prepare_desed.py --split 70 15 15 --audio DIR --labels DIR --out DIR

Given again, the same command goes on where it stopped. Exit code of --check: 0 when all is well, 1
when something is wrong; 2 for input that cannot be used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Iterator

from lab.errors import InputError, command, resumable
from lab.files import one_spelling
from lab.packages import SOUND, require

#: The 12,500 official synthetic clips, ready made; from the official `..._task4_2022.py`.
SYNTHETIC = "https://zenodo.org/record/6026841/files/dcase_synth.zip?download=1"
OFFICIAL = Path(__file__).resolve().parent / "confs" / "dcase2021.yaml"
SETS = {"train": ("synth", 10000), "validation": ("synth_val", 2500)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", metavar="DIR", help="examine every file of a data set")
    what.add_argument("--download", metavar="DIR", help="recordings and official synthetic clips")
    what.add_argument("--generate", metavar="DIR", help="new synthetic clips, with Scaper")
    what.add_argument("--resample", metavar="DIR", help="all that was downloaded, to --rate")
    what.add_argument(
        "--add",
        choices=("training", "weak", "unlabelled", "validation", "test", "public"),
        metavar="SET",
        help="lay recordings of any rate into --out as its training, weak, unlabelled, "
        "validation, test or public set",
    )
    what.add_argument(
        "--split",
        type=float,
        nargs=3,
        metavar="PERCENT",
        help="lay recordings of one folder into --out as its training, validation and test sets",
    )
    add = parser.add_argument
    add("--audio", metavar="DIR", help="clips to --add or --split")
    add("--tsv", metavar="FILE", help="their events, or tags of weak clips")
    labels = "or a file of labels for each: <clip>.txt of Audacity, <clip>.selections.txt of Raven"
    add("--labels", metavar="DIR", help=labels)
    add("--seed", type=int, default=0, metavar="N", help="of --split (default: 0)")
    add("--out", metavar="DIR", help="data set that gets them")
    add("--missing", metavar="FILE", help="with --check: write what is missing")
    conf_file = "of the training: says data.fs, data.audio_max_len and data.classes"
    add("--conf_file", metavar="YAML", help=conf_file)
    values = "values in the place of the configuration's"
    add("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help=values)
    rate = "data.fs of the training (default: 16000); the folders keep their names"
    add("--rate", type=int, metavar="HZ", help=rate)
    seconds = "with --check: data.audio_max_len of the training (default: 10)"
    add("--audio-max-len", type=float, metavar="S", help=seconds)
    classes = "data.classes of the training (default: those of the training set's table)"
    add("--classes", nargs="+", metavar="CLASS", help=classes)
    add("--clips", type=int, nargs=2, metavar="N", help="of each set to --generate")
    bank = "to --generate from: {train,validation}/{foreground,background} (default: DESED's)"
    add("--soundbank", metavar="DIR", help=bank)
    add("--processes", type=int, metavar="P", help="default: all cores")
    add("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(argv)
    for flag in ("processes", "rate", "audio_max_len"):
        value = getattr(args, flag)
        if value is not None and not value > 0:
            raise InputError(f"--{flag.replace('_', '-')} is {value}; give a number above 0")
    if args.clips and min(args.clips) < 0:
        raise InputError(f"--clips is {args.clips}; give two numbers of at least 0")
    if args.add or args.split:
        needed = 0 if args.add == "unlabelled" else 1
        if not (args.audio and args.out) or bool(args.tsv) + bool(args.labels) != needed:
            parser.error(
                "--add and --split need --audio, --out and, but for unlabelled clips, either "
                "--tsv or --labels"
            )
        if args.labels and args.add == "weak":
            parser.error("--labels are of events; give the tags of weak clips as --tsv")
        if args.labels and not os.path.isdir(args.labels):
            raise InputError(f"--labels {args.labels} is no folder; give that of the label files")
    return args


def take_configuration(args: argparse.Namespace) -> None:
    """Fill in what the flags do not say: from the configuration, or DESED's values."""
    from lab.data.check import CLIP_SECONDS
    from lab.data.prepare import RATE

    data: dict = {"fs": RATE, "audio_max_len": CLIP_SECONDS, "classes": None}
    if args.conf_file or args.set:
        from lab.baseline.config import load_config, parse_overrides

        data = load_config(args.conf_file or OFFICIAL, parse_overrides(args.set))["data"]
    args.rate = args.rate or data["fs"]
    args.audio_max_len = args.audio_max_len or data["audio_max_len"]
    args.classes = args.classes or data["classes"]
    if args.classes:
        args.classes = [one_spelling(name) for name in args.classes]


@command
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    require(*SOUND)
    take_configuration(args)
    if args.check:
        return check(args)
    if args.add or args.split:
        add(args)
        return 0
    if args.download:
        download(Path(args.download), args)
    elif args.generate:
        generate(Path(args.generate), args)
    resample(args.download or args.generate or args.resample, args)
    return 0


def running(args: argparse.Namespace) -> dict:
    return {"processes": args.processes, "progress": not args.quiet}


@resumable()
def add(args: argparse.Namespace) -> None:
    from lab.data.prepare import add_set, add_split

    place = args.out, args.audio, args.labels or args.tsv
    options = {"classes": args.classes, "fs": args.rate, **running(args)}
    if args.split:
        additions = add_split(*place, args.split, args.seed, **options)
    else:
        additions = iter([(args.add, add_set(args.add, *place, **options))])
    for name, addition in additions:
        print(f"the {name} set of {args.out}: {addition.clips} clips")
        tell_loss(addition, args.rate)


def tell_loss(addition, rate: int) -> None:
    """Say how much of the sound a lower sampling rate has cost."""
    if addition.worst:
        name, share = addition.worst
        print(
            f"{100 * addition.loss:.2g} % of the energy of their sound lay above {rate / 2:g} Hz "
            f"and is gone (of {name} {100 * share:.2g} %); a higher --rate, and data.fs of the "
            "training with it, keeps more"
        )


def check(args: argparse.Namespace) -> int:
    from lab.data.check import check, report, write_missing

    options = {"seconds": args.audio_max_len, "fs": args.rate, "classes": args.classes}
    diagnoses = check(args.check, **options, **running(args))
    print(report(diagnoses))
    if args.missing:
        count = write_missing(diagnoses, args.missing)
        print(f"\n{count} missing clips listed in {args.missing}")
    return int(any(diagnosis.problems for diagnosis in diagnoses))


@resumable()
def resample(folder: str, args: argparse.Namespace) -> None:
    from lab.data.prepare import resample_tree

    for target, addition in resample_tree(folder, fs=args.rate, **running(args)).items():
        print(f"{addition.clips} clips at {args.rate} Hz in {target}")
        tell_loss(addition, args.rate)


@resumable()
def download(folder: Path, args: argparse.Namespace) -> None:
    """Download the recordings and the official synthetic clips with the `desed` package."""
    from lab.data.scaper import import_desed

    package = import_desed()
    folder.mkdir(parents=True, exist_ok=True)
    with inside(folder, args):
        public = Path("audio", "eval", "public").exists()
        package.download_real(".", eval=not public, n_jobs=3, chunk_size=10)
        if not Path("metadata", "train", "synthetic21_train").exists():
            package.download.download_and_unpack_archive(SYNTHETIC, "raw", archive_format="zip")
            merge(Path("raw", "dcase_synth"), Path())
    print(f"what could not be downloaded is listed in {folder / 'missing_files'}")


@resumable()
def generate(folder: Path, args: argparse.Namespace) -> None:
    """Generate synthetic clips with the `desed` package, by default from its own soundbank."""
    from lab.data.desed import official_layout
    from lab.data.scaper import generate_clips, import_desed

    package = import_desed()
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / "soundbank"
    if args.soundbank is None and not (own / "audio" / "validation").exists():
        with inside(folder, args):
            package.download_desed_soundbank("soundbank")
    for index, (split, (part, official)) in enumerate(SETS.items()):
        bank = own / "audio" / split / "soundbank"
        generate_clips(
            official_layout(folder)[f"{part}_folder_44k"],
            official_layout(folder)[f"{part}_tsv"],
            bank if args.soundbank is None else Path(args.soundbank, split),
            official if args.clips is None else args.clips[index],
            seed=2021 + index,
            processes=args.processes,
            progress=None if args.quiet else f"synthetic {split}",
        )


@contextmanager
def inside(folder: Path, args: argparse.Namespace) -> Iterator[None]:
    """Let the `desed` package download: in a folder, as it writes where it is called."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        with open(os.devnull, "w") as nowhere, ExitStack() as stack:
            if args.quiet or not sys.stderr.isatty():
                # It draws its bars wherever it writes.
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield
    except (OSError, EOFError, tarfile.TarError) as error:
        request = getattr(error, "request", None)
        reason = f"no answer from {request.url}" if request else " ".join(str(error).split())
        raise InputError(
            f"the download into {folder} failed: {reason}; see to the network, and run the same "
            "command again: clips that are there are kept"
        ) from None
    finally:
        for left_over in Path().glob("tmp_*"):
            shutil.rmtree(left_over, ignore_errors=True)
        os.chdir(before)


def merge(source: Path, target: Path) -> None:
    """Move the files of a tree into another; what is there stays."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(str(path), str(place))


if __name__ == "__main__":
    raise SystemExit(main())
