"""One report a run: Markdown with its figures, and a LaTeX table for each table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lab.errors import InputError
from lab.evaluation import plots
from lab.files import PathLike, write_whole

PACKAGES = (
    "dcase-coherence",
    "torch",
    "torchaudio",
    "pytorch-lightning",
    "numpy",
    "scipy",
    "pandas",
    "sed_eval",
    "psds_eval",
    "sed_scores_eval",
)

DASH = "\N{EN DASH}"


class Report:
    """Collects the results of a run; :meth:`write` writes them.

    Args:
        title: of the report.
        command: the command line that made the run.
        summary: what came out, in a sentence or two.

    Example:
        >>> import tempfile
        >>> report = Report("A run", command="python train.py")
        >>> report.settings({"alpha1": 0.1})
        >>> report.table("Scores", pd.DataFrame({"F1": ["40.1 %"]}, index=["baseline"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(path.name for path in report.write(folder))
        ['report.md', 'scores.tex']
    """

    def __init__(self, title: str, *, command: str, summary: str = "") -> None:
        self.title = title
        self.command = command
        self.summary = summary
        self._parts: list[tuple[str, str, Any, str]] = []

    def settings(self, values: Mapping[str, Any], title: str = "Settings") -> None:
        """Add settings; nested ones are named with dots, as `training.batch_size`."""
        flat = pd.Series(dict(_flatten(values)), dtype=object)
        self._add("settings", title, flat.map(str).to_frame("value").rename_axis("setting"), "")

    def table(self, title: str, values: pd.DataFrame, note: str = "") -> None:
        """Add a table: its index is the first column; floats are shown with three decimals.

        Args:
            title: heading; also the name of the LaTeX file.
            values: cells are strings or numbers; a missing number is shown as a dash.
            note: what the reader should know, for example how an interval was made.
        """
        self._add("table", title, values, note)

    def figure(self, title: str, figure: Figure, note: str = "") -> None:
        """Add a figure.

        Args:
            title: heading; also the name of the files.
            figure: as the functions of :mod:`plots` return it.
            note: caption.
        """
        self._add("figure", title, figure, note)

    def text(self, title: str, words: str) -> None:
        """Add a sentence, for example on what the run cannot show."""
        self._add("text", title, words, "")

    def write(self, folder: PathLike) -> list[Path]:
        """Write `report.md`, then tables (LaTeX) and figures (PNG, SVG) beside it.

        Returns:
            The paths, the report first.
        """
        folder = Path(folder)
        written = [folder / "report.md"]
        write_whole(written[0], self._markdown())
        for title, content in self._of("table"):
            path = folder / "tables" / f"{_slug(title)}.tex"
            write_whole(path, latex(content))
            written.append(path)
        for title, content in self._of("figure"):
            written += plots.save(content, folder / "figures" / _slug(title))
        return written

    def _of(self, wanted: str) -> list[tuple[str, Any]]:
        return [(title, content) for kind, title, content, _ in self._parts if kind == wanted]

    def _add(self, kind: str, title: str, content: Any, note: str) -> None:
        if _slug(title) in {_slug(part[1]) for part in self._parts}:
            raise InputError(f"the report has a part {title!r} already; give each its own title")
        self._parts.append((kind, title, content, note))

    def _markdown(self) -> str:
        lines = [f"# {self.title}", ""]
        if self.summary:
            lines += [self.summary, ""]
        lines += ["```", self.command, "```", ""]
        for kind, title, content, note in [*self._parts, _environment_part()]:
            lines += [f"## {title}", ""]
            if kind == "figure":
                lines.append(f"![{title}](figures/{_slug(title)}.png)")
            elif kind == "text":
                lines.append(content)
            else:
                header, rows = _cells(content)
                lines.append("| " + " | ".join(_pipes(header)) + " |")
                lines.append("|:--|" + "--:|" * (len(header) - 1))
                lines += ["| " + " | ".join(_pipes(row)) + " |" for row in rows]
            lines += ["", note, ""] if note else [""]
        return "\n".join(lines)


def latex(values: pd.DataFrame) -> str:
    r"""Write a table with booktabs rules (`\usepackage{booktabs}`).

    Args:
        values: as for :meth:`Report.table`.

    Example:
        >>> print(latex(pd.DataFrame({"F1 (%)": [40.1234]}, index=["a_b"])))
        \begin{tabular}{lr}
        \toprule
         & F1 (\%) \\
        \midrule
        a\_b & 40.123 \\
        \bottomrule
        \end{tabular}
        <BLANKLINE>
    """
    header, rows = _cells(values)
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex_text, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex_text, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


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


def _environment_part() -> tuple[str, str, pd.DataFrame, str]:
    table = pd.Series(environment()).to_frame("value").rename_axis("environment")
    return "settings", "Environment", table, ""


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _cells(values: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, the index first."""
    header = [str(values.index.name or ""), *map(str, values.columns)]
    rows = [
        [str(name), *map(_text, row)]
        for name, row in zip(values.index, values.itertuples(index=False, name=None))
    ]
    return header, rows


def _text(value: Any) -> str:
    if not isinstance(value, (float, np.floating)):
        return DASH if value is None else str(value)
    number = float(value)
    if np.isnan(number):
        return DASH
    return f"{number:.1e}" if 0 < abs(number) < 5e-4 else f"{number:.3f}"


def _pipes(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special.update({char: f"\\{char}" for char in "&%$#_{}"})
    special.update({"\N{PLUS-MINUS SIGN}": r"$\pm$", DASH: "--"})
    return "".join(special.get(char, char) for char in text)


def _slug(title: str) -> str:
    """Name of a file for a title."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
