"""One report a run: Markdown with its figures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lab.evaluation import plots
from lab.evaluation.tables import markdown
from lab.files import PathLike, write_whole

PACKAGES = (
    *("dcase-coherence", "torch", "torchaudio", "pytorch-lightning", "numpy", "scipy", "pandas"),
    *("sed_eval", "psds_eval"),
)


class Report:
    """Collects tables and figures under titles; :meth:`write` writes them.

    Args:
        title: of the report.
        command: the command line that made the run.

    Example:
        >>> import tempfile
        >>> report = Report("A run", command="python train.py")
        >>> report.table("Scores", pd.DataFrame({"F1": ["40.1 %"]}, index=["baseline"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in report.write(folder))
        ['report.md']
    """

    def __init__(self, title: str, *, command: str) -> None:
        self.title = title
        self.command = command
        self._parts: list[tuple[str, Any, str]] = []

    def table(self, title: str, values: pd.DataFrame, note: str = "") -> None:
        """Add a table: its index is the first column; floats are shown with three decimals."""
        cells = values.apply(lambda column: column.map(_text))
        cells = cells.reset_index(names=str(values.index.name or "")).astype(str)
        self._parts.append((title, cells, note))

    def figure(self, title: str, figure: Figure, note: str = "") -> None:
        """Add a figure of :mod:`plots`."""
        self._parts.append((title, figure, note))

    def write(self, folder: PathLike) -> list[Path]:
        """Write `report.md`, and the figures (PNG, SVG) beside it.

        Returns:
            The paths, the report first.
        """
        written = [Path(folder, "report.md")]
        write_whole(written[0], self._markdown())
        for title, content, _ in self._parts:
            if isinstance(content, Figure):
                written += plots.save(content, Path(folder, "figures", _slug(title)))
        return written

    def _markdown(self) -> str:
        parts = [f"# {self.title}", f"```\n{self.command}\n```"]
        machine = pd.DataFrame(environment().items(), columns=["environment", "value"])
        for title, content, note in [*self._parts, ("Environment", machine, "")]:
            if isinstance(content, Figure):
                shown = f"![{title}](figures/{_slug(title)}.png)"
            else:
                rows = [[*content], *content.to_numpy().tolist()]
                header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
                shown = markdown(header, rows)
            parts += [f"## {title}", shown, *filter(None, [note])]
        return "\n\n".join(parts) + "\n"


def environment() -> dict[str, str]:
    """Versions, machine and date, as strings by name."""
    versions = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
    }
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        versions["gpu"] = torch.cuda.get_device_name()
    return versions


def _text(value: Any) -> str:
    """A cell: three decimals, two digits of what is nearly zero, a dash for no number."""
    if not isinstance(value, float):
        return str(value)
    if pd.isna(value):
        return "-"
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"


def _slug(title: str) -> str:
    """Name of a file for a title."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
