"""Generate a data set of strongly labelled soundscapes."""

from __future__ import annotations

import argparse

from lab.errors import command
from lab.packages import SOUND, require


@command
def main(arguments: list[str] | None = None) -> None:
    """Generate the data set that the command line asks for."""
    require(*SOUND)
    from lab.soundscapes.generate import generate
    from lab.soundscapes.worker import IN_DOMAIN_SUBSETS

    parser = argparse.ArgumentParser(
        description="Generate 10 s clips of domestic sound events (16 kHz mono, the ten DESED "
        "classes or those of a soundbank) in the layout of the DCASE 2021 Task 4 baseline. A run "
        "that was interrupted goes on where it stopped.",
    )
    parser.add_argument("--out", required=True, help="folder of the data set")
    for name, count, what in (
        ("strong", 1000, "strongly labelled training clips"),
        ("weak", 150, "weakly labelled training clips"),
        ("unlabelled", 600, "unlabelled training clips"),
        ("validation", 250, "validation clips, like the training ones"),
        ("test", 250, "test clips: other parameters, rooms and channels"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=count, metavar="N", help=f"{what} (default {count})"
        )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument(
        "--soundbank",
        metavar="DIR",
        help="mix recordings, foreground/<Class>/* and background/<label>/*, instead of "
        "parametric sounds",
    )
    parser.add_argument(
        "--validation-soundbank",
        metavar="DIR",
        help="recordings for the validation clips (default: every fifth one of the same)",
    )
    parser.add_argument(
        "--test-soundbank", metavar="DIR", help="recordings for the test clips (default: the same)"
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="change pitch, duration, spectrum and room of the sounds of the training clips",
    )
    parser.add_argument(
        "--density",
        type=float,
        default=1.0,
        metavar="D",
        help="factor on the number of classes in a training clip, 1 to 3 (default 1)",
    )
    parser.add_argument(
        "--in-domain",
        choices=[*filter(None, IN_DOMAIN_SUBSETS)],
        help="rooms and channels like the test clips' for weak and unlabelled clips, or for all",
    )
    parser.add_argument("--processes", type=int, metavar="P", help="default: all cores")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    asked = vars(parser.parse_args(arguments))
    quiet = asked.pop("quiet")
    generate(asked.pop("out"), progress=not quiet, **asked)
    if not quiet:
        print(f"data set ready in {parser.parse_args(arguments).out}")


if __name__ == "__main__":
    main()
