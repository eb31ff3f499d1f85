"""Detections of many recordings, kept as each is finished, so that a stopped run goes on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

import pandas as pd

from lab.baseline.detections import COLUMNS, FORMATS, Detections
from lab.errors import InputError
from lab.files import PARTIAL, PathLike, write_whole


class Output:
    """Where the detections of several recordings go: standard output, a table or label files.

    Files are written at the end. Until then a progress file beside them holds a line of settings,
    and one for each recording that is finished: the same run goes on from it.

    Args:
        names: of the recordings.
        format: one of :data:`FORMATS`; "audacity" and "raven" write one file a recording.
        out: table, or folder of the label files; None for standard output.
        figures: folder of the figures, if any.
        page: HTML file of the one recording, if any.
        settings: what the detections depend on, by name, as JSON has it.

    Attributes:
        done: detections by the names of the recordings that are finished.
        progress: path of the progress file; None where nothing is kept.

    Raises:
        InputError: a file is there already, or is of a run with other settings.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        format: str,
        out: PathLike | None = None,
        figures: PathLike | None = None,
        page: PathLike | None = None,
        settings: Mapping[str, Any],
    ) -> None:
        self.names = list(names)
        self.format = FORMATS[format]
        if self.format.suffix and out is None and len(names) > 1:
            raise InputError(
                f"--format {format} prints the labels of one recording, and there are {len(names)};"
                " give a folder with --out"
            )
        self.out = None if out is None else Path(out)
        self.figures = None if figures is None else Path(figures)
        self.page = None if page is None else Path(page)
        self.settings = json.loads(json.dumps({"format": format, "columns": COLUMNS, **settings}))
        beside = out or figures
        self.progress = None if beside is None else Path(f"{os.path.abspath(beside)}.progress")
        self.done: dict[str, Detections] = {}
        self._printed = False
        if self.progress and self.progress.exists():
            self._go_on(self.progress)
        else:
            self._refuse_files()
        if out is None:
            for one in self._in_order():
                self._print(self.format.item(one))

    def text(self, name: str) -> Path:
        """The table, or the label file of one recording."""
        assert self.out is not None
        return self.out / f"{name}{self.format.suffix}" if self.format.suffix else self.out

    def pictures(self, name: str) -> list[Path]:
        """The figures, or the page, of one recording."""
        figures = [self.figures / f"{name}.{kind}" for kind in ("png", "svg") if self.figures]
        return [*figures, *([self.page] if self.page else [])]

    def add(self, one: Detections) -> None:
        """Keep the detections of a recording; print them where there is no file."""
        if self.progress and not self.done:
            write_whole(self.progress, _line(self.settings))
        self.done[one.filename] = one
        if self.out is None:
            self._print(self.format.item(one))
        if self.progress:
            _append(self.progress, _progress_line(one))

    def close(self) -> None:
        """Write what there is, in the order of the recordings; drop the progress of a whole run."""
        held = self._in_order()
        if self.out is None:
            self._print(self.format.foot, last=True)
        elif self.format.suffix:
            for one in held:
                write_whole(self.text(one.filename), self.format.text([one]))
        else:
            write_whole(self.out, self.format.text(held))
        if self.progress and len(self.done) == len(self.names):
            self.progress.unlink(missing_ok=True)

    def _in_order(self) -> list[Detections]:
        return [self.done[name] for name in self.names if name in self.done]

    def _print(self, text: str, *, last: bool = False) -> None:
        # As the files are, whatever the locale.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        before = self.format.head if not self._printed else "" if last else self.format.separator
        self._printed = True
        print(before + text, end="", flush=True)

    def _refuse_files(self) -> None:
        for folder in (self.out if self.format.suffix else None, self.figures):
            if folder and folder.exists() and not folder.is_dir():
                raise InputError(f"{folder} is a file; give a folder")
        for name in self.names:
            texts = [self.text(name)] if self.out else []
            for path in (*texts, *self.pictures(name)):
                if path.exists():
                    option = "--out" if path in texts else "--figure"
                    raise InputError(f"{path} exists; remove it or give another {option}")

    def _go_on(self, progress: Path) -> None:
        """Take over what an earlier run finished, and remove what it left unfinished."""
        try:
            # A run that was killed may have left half a line.
            lines = progress.read_text("utf-8").splitlines(keepends=True)
            settings, *held = (json.loads(line) for line in lines if line.endswith("\n"))
            known = {key: settings.get(key) for key in self.settings}
            done = [
                Detections(**{**one, "events": pd.DataFrame(one["events"], columns=COLUMNS)})
                for one in held
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{progress} cannot be read ({error}); remove it and what its run wrote"
            ) from None
        for key, value in self.settings.items():
            if known[key] != value:
                raise InputError(
                    f"{progress} is of a run with another {key}; give the same command to go on "
                    "with it, give another --out or --figure, or remove this file and what its "
                    "run wrote"
                )
        for one in done:
            if one.filename in self.names and all(p.exists() for p in self.pictures(one.filename)):
                self.done[one.filename] = one
        lines = [_line(self.settings), *map(_progress_line, self.done.values())]
        write_whole(progress, "".join(lines))
        for folder in {path.parent for name in self.names for path in self.pictures(name)}:
            for path in folder.glob(f".*{PARTIAL}*"):
                path.unlink(missing_ok=True)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"


def _progress_line(one: Detections) -> str:
    return _line({**one._asdict(), "events": one.events.to_dict("records")})


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); make room, and run the same "
            "command again"
        ) from None
