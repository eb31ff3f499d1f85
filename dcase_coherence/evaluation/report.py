"""One report a run: a self-contained HTML file, Markdown, and a LaTeX table for each table."""

from __future__ import annotations

import base64
import html
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

from dcase_coherence.evaluation import plots
from dcase_coherence.system.errors import InputError
from dcase_coherence.system.files import write_whole

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

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
pre { background: #f3f3f3; padding: .7rem; overflow-x: auto; white-space: pre-wrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { border-top: 2px solid; border-bottom: 1px solid; }
tbody tr:last-child > * { border-bottom: 2px solid; }
tbody th { font-weight: normal; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; } figcaption, .note { color: #444; font-size: .92rem; }
"""


class Report:
    """Collects what a run has to say; :meth:`write` writes it in every format.

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
        ['report.html', 'report.md', 'scores.tex']
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

    def write(self, folder: os.PathLike[str] | str) -> list[Path]:
        """Write `report.html`, `report.md`, and figures (PNG, SVG) and tables (LaTeX) beside it.

        Returns:
            The paths, the HTML file first. The HTML file needs none of the others.
        """
        folder = Path(folder)
        written = [folder / "report.html", folder / "report.md"]
        pictures = {}
        for kind, title, content, _ in self._parts:
            if kind == "figure":
                written += plots.save(content, folder / "figures" / _slug(title))
                pictures[title] = written[-1].read_bytes()
            elif kind == "table":
                path = folder / "tables" / f"{_slug(title)}.tex"
                _write(path, latex(content))
                written.append(path)
        _write(written[0], self._html(pictures))
        _write(written[1], self._markdown())
        return written

    def _add(self, kind: str, title: str, content: Any, note: str) -> None:
        if _slug(title) in {_slug(part[1]) for part in self._parts}:
            raise InputError(f"the report has a part {title!r} already; give each its own title")
        self._parts.append((kind, title, content, note))

    def _html(self, pictures: Mapping[str, bytes]) -> str:
        lines = [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{html.escape(self.title)}</h1>",
        ]
        if self.summary:
            lines.append(f"<p>{html.escape(self.summary)}</p>")
        lines.append(f"<pre>{html.escape(self.command)}</pre>")
        for kind, title, content, note in [*self._parts, _environment_part()]:
            lines.append(f"<h2>{html.escape(title)}</h2>")
            if kind == "figure":
                data = base64.b64encode(pictures[title]).decode()
                lines.append(
                    f'<figure><img alt="{html.escape(title)}" '
                    f'src="data:image/svg+xml;base64,{data}">'
                    f"<figcaption>{html.escape(note)}</figcaption></figure>"
                )
            else:
                lines.append(f'<div class="wide">{_html_table(content)}</div>')
                if note:
                    lines.append(f'<p class="note">{html.escape(note)}</p>')
        return "\n".join([*lines, "</body>", "</html>"]) + "\n"

    def _markdown(self) -> str:
        lines = [f"# {self.title}", ""]
        if self.summary:
            lines += [self.summary, ""]
        lines += ["```", self.command, "```", ""]
        for kind, title, content, note in [*self._parts, _environment_part()]:
            lines += [f"## {title}", ""]
            if kind == "figure":
                lines.append(f"![{title}](figures/{_slug(title)}.png)")
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
    found = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _environment_part() -> tuple[str, str, pd.DataFrame, str]:
    table = pd.Series(environment()).to_frame("value").rename_axis("environment")
    return "settings", "Environment", table, ""


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


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


def _html_table(values: pd.DataFrame) -> str:
    header, rows = _cells(values)
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


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


def _write(path: Path, text: str) -> None:
    write_whole(path, text)
