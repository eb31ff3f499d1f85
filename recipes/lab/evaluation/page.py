"""A page that stands alone: one HTML file with sortable tables, figures that tell their values
under the pointer, and a clip to listen to.

Style and script are in the file; nothing is fetched, which its content security policy holds it to.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from pathlib import Path
from typing import Sequence

import soundfile
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from lab.data.audio import open_audio, read_audio, resample
from lab.errors import InputError
from lab.evaluation import plots
from lab.evaluation.hover import description, hover_values
from lab.files import PathLike

#: Sampling rate of the clip on a page, in Hz: what networks for DESED hear.
RATE = 16000
#: Seconds of the longest clip on a page, about 15 MB.
LONGEST = 600.0

#: Colours of figures that follow the page, light or dark: their variables in the style.
PAINTS = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#666666": "var(--faint)",
    plots.SHADE.lower(): "var(--shade)",
    **{plots.STYLES[name]["color"].lower(): f"var(--{name})" for name in ("baseline", "coherence")},
}


class Clip:
    """Audio for a page, as a FLAC file: without loss, so that what is heard is in time.

    Args:
        path: any file that libsndfile reads; mixed down, and resampled to 16 kHz.

    Attributes:
        name: of the file.
        seconds: its length.
        flac: content of the FLAC file.

    Raises:
        InputError: the file is away or cannot be read, or lasts longer than ten minutes.
    """

    def __init__(self, path: PathLike) -> None:
        self.name = Path(path).name
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist")
        with open_audio(path) as file:
            rate = file.samplerate
            if file.frames > LONGEST * rate:
                raise InputError(
                    f"{path} lasts {file.frames / rate:.0f} s; a page takes up to {LONGEST:.0f} s"
                )
        samples = resample(read_audio(path, None), rate, RATE)
        self.seconds = len(samples) / RATE
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, RATE, subtype="PCM_16", format="FLAC")
        self.flac = buffer.getvalue()


def document(title: str, body: Sequence[str]) -> str:
    """Write a page of a title and parts, each of which is HTML.

    Example:
        >>> text = document("A & B", ["<p>Words.</p>"])
        >>> "<title>A &amp; B</title>" in text, "<p>Words.</p>" in text
        (True, True)
    """
    style, script = (
        Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; media-src data:"
    )
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        '<link rel="icon" href="data:,">',  # else the browser asks for one
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        f"<h1>{html.escape(title)}</h1>",
        *body,
        f"<script>{script}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "sortable") -> str:
    """Write a table, the first cell of each row its name.

    Args:
        header: names of the columns.
        rows: cells as text.
        kind: "sortable", or "settings" for names and values in the order they have.

    Example:
        >>> "<th scope=\\"row\\">a &lt; b</th><td>1</td>" in table(["", "n"], [["a < b", "1"]])
        True
    """
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>"
    )


def figure(name: str, title: str, shown: Figure, note: str = "", clip: Clip | None = None) -> str:
    """Write a figure as SVG in the page, with its values for the script.

    Args:
        name: of the figure, a word that no other figure of the page has.
        title: what it shows, for those who do not see it.
        shown: the figure; with a clip, each panel's x axis is the time in seconds.
        note: caption.
        clip: audio that is played while a cursor runs over the panels.
    """
    drawing = plots.svg(shown)
    # A colour map says what it says in its own colours alone.
    fixed = any(isinstance(part, QuadMesh) for panel in shown.axes for part in panel.collections)
    kinds = ["fixed"] * fixed + ["player"] * (clip is not None)
    found = hover_values(shown)
    for line in [line for panel in found["panels"] for line in panel["lines"]]:
        line["colour"] = line["colour"] if fixed else PAINTS.get(line["colour"], line["colour"])
    # No text of it ends the element.
    values = json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")
    words = f"{title}. {description(shown)}".strip()
    lines = [f'<figure class="{" ".join(kinds)}" data-values="{name}-values">']
    if clip is not None:
        lines.append(
            f'<audio controls preload="auto" aria-label="{html.escape(clip.name)}" '
            f'data-seconds="{clip.seconds:.3f}" '
            f'src="data:audio/flac;base64,{base64.b64encode(clip.flac).decode()}"></audio>'
        )
    drawing = _inline(drawing, name, words, themed=not fixed)
    lines.append(f'<div class="plot">{drawing}</div>')
    lines.append(f'<script type="application/json" id="{name}-values">{values}</script>')
    lines += [f"<figcaption>{html.escape(note)}</figcaption>"] if note else []
    return "\n".join([*lines, "</figure>"])


def _inline(drawing: str, name: str, words: str, *, themed: bool) -> str:
    """An SVG file as an element of a page: with names of its own, and the page's colours."""
    sizes = re.search(r'<svg[^>]*? width="([\d.]+)pt"[^>]*? viewBox="([^"]+)"[^>]*>', drawing)
    assert sizes is not None  # as matplotlib writes them
    start = (
        f'<svg role="img" aria-label="{html.escape(words)}" viewBox="{sizes[2]}" '
        f'style="--width: {sizes[1]}pt" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    # Its style is for all elements of the page.
    inner = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawing)
    inner = inner[inner.index(">", inner.index("<svg")) + 1 :]
    inner = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", inner)
    for colour, paint in PAINTS.items() if themed else ():
        inner = inner.replace(colour, paint)
    return start + re.sub(r"\n\s*\n", "\n", inner).strip()
