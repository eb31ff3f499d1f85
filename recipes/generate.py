"""Generate a data set of strongly labelled soundscapes."""

from __future__ import annotations

import argparse

from lab.errors import command
from lab.packages import SOUND, require


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Generate 10 s clips of domestic sound events (16 kHz mono, the ten DESED "
        "classes or those of a soundbank) in the layout of the DCASE 2021 Task 4 baseline. A run "
        "that was interrupted goes on where it stopped.",
    )
    add = parser.add_argument
    add("--out", required=True, help="folder of the data set")
    for name, count, what in (
        ("strong", 1000, "strongly labelled training clips"),
        ("weak", 150, "weakly labelled training clips"),
        ("unlabelled", 600, "unlabelled training clips"),
        ("validation", 250, "validation clips, like the training ones"),
        ("test", 250, "test clips: other parameters, rooms and channels"),
        ("seed", 0, "of the random numbers"),
    ):
        add(f"--{name}", type=int, default=count, metavar="N", help=f"{what} (default {count})")
    for name, what in (
        (
            "soundbank",
            "mix recordings, foreground/<Class>/* and background/<label>/*, instead of parametric "
            "sounds",
        ),
        (
            "validation-soundbank",
            "recordings for the validation clips (default: every fifth one of the same)",
        ),
        ("test-soundbank", "recordings for the test clips (default: the same)"),
    ):
        add(f"--{name}", metavar="DIR", help=what)
    changes = "change pitch, duration, spectrum and room of the sounds of the training clips"
    add("--augment", action="store_true", help=changes)
    density = "factor on the number of classes in a training clip, 1 to 3 (default 1)"
    add("--density", type=float, default=1.0, metavar="D", help=density)
    domain = "rooms and channels like the test clips' for weak and unlabelled clips, or for all"
    add("--in-domain", choices=("weak", "all"), help=domain)
    add("--processes", type=int, metavar="P", help="default: all cores")
    add("--quiet", action="store_true", help="no progress bar")
    settings = vars(parser.parse_args(arguments))
    quiet = settings.pop("quiet")
    require(*SOUND)
    from lab.soundscapes.generate import generate

    out = generate(**settings, progress=not quiet)
    if not quiet:
        print(f"data set ready in {out}")


if __name__ == "__main__":
    main()
