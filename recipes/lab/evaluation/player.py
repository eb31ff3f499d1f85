"""A page of one recording: spectrogram, posteriors, and events that play when they are clicked.

One HTML file with plotly's script in it: nothing is fetched, which its security policy holds it to.
"""

from __future__ import annotations

import base64
import html
import io
from typing import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.colors
import soundfile
from plotly.subplots import make_subplots

from lab.evaluation.plots import SHOWN_ABOVE
from lab.evaluation.sound import RATE, spectrogram

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; media-src data:"
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
audio { width: 100%; }
table { border-collapse: collapse; margin: 1.5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .1rem 1.5rem .1rem 0; text-align: left; }
"""
#: Runs once the figure is drawn: shape 0 is the cursor, an event has its onset and offset as data.
SCRIPT = """
const figure = document.getElementById("{plot_id}");
const audio = document.querySelector("audio");
let end = Infinity;
function play(from, to) {
  end = to;
  audio.currentTime = from;
  audio.play();
}
function follow() {
  if (audio.currentTime >= end) audio.pause();
  const now = audio.currentTime;
  Plotly.relayout(figure, {"shapes[0].x0": now, "shapes[0].x1": now});
  if (!audio.paused) setTimeout(follow, 50);
}
figure.on("plotly_click", ({points: [point]}) => {
  if (point.data.type === "bar") play(...point.data.customdata[point.pointNumber]);
  else play(point.x, Infinity);
});
audio.addEventListener("play", follow);
audio.addEventListener("seeked", follow);
audio.addEventListener("pause", () => { end = Infinity; });
"""


def player(
    title: str,
    sound: np.ndarray,
    posteriors: np.ndarray,
    events: pd.DataFrame,
    classes: Sequence[str],
    *,
    frame_seconds: float,
    threshold: float,
    settings: Mapping[str, object],
) -> str:
    """Write the page.

    Args:
        title: heading, for example the name of the recording.
        sound: as :func:`sound.read_sound` returns it.
        posteriors: `(frames, classes)`, in [0, 1].
        events: event_label, onset, offset (seconds), confidence (0 to 1).
        classes: names, in the order of the last axis.
        frame_seconds: time from one frame to the next.
        threshold: of the posteriors, drawn as a line.
        settings: shown below the figure, by name.

    Returns:
        The content of an HTML file.
    """
    figure = make_subplots(
        3, 1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[0.35, 0.4, 0.25]
    )
    time, frequency, level = spectrogram(sound)
    figure.add_heatmap(
        row=1,
        col=1,
        x=time,
        y=frequency / 1000,
        z=level,
        colorscale="Greys",
        showscale=False,
        hovertemplate="%{x:.2f} s, %{y:.1f} kHz<extra></extra>",
    )
    centres = (np.arange(len(posteriors)) + 0.5) * frame_seconds
    heard = set(events["event_label"])
    colours = plotly.colors.qualitative.D3
    for number, label in enumerate(classes):
        # In plotly's texts some tags have a meaning.
        name, colour = html.escape(label), colours[number % len(colours)]
        values = posteriors[:, number]
        shown = label in heard or values.max() > SHOWN_ABOVE  # the others wait in the legend
        figure.add_scatter(
            row=2,
            col=1,
            x=centres,
            y=values.astype(np.float32),
            name=name,
            legendgroup=name,
            line={"color": colour},
            visible=True if shown else "legendonly",
            hovertemplate=f"{name}: %{{y:.2f}} at %{{x:.2f}} s<extra></extra>",
        )
        ends = events.loc[events["event_label"] == label, ["onset", "offset"]].to_numpy(float)
        if len(ends):
            figure.add_bar(
                row=3,
                col=1,
                orientation="h",
                base=ends[:, 0].tolist(),
                x=(ends[:, 1] - ends[:, 0]).tolist(),
                y=[name] * len(ends),
                customdata=ends.tolist(),
                name=name,
                legendgroup=name,
                showlegend=False,
                marker={"color": colour},
                hovertemplate="%{y}, %{customdata[0]:.2f} to %{customdata[1]:.2f} s: click to play"
                "<extra></extra>",
            )
    cursor = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1}
    figure.update_layout(
        shapes=[{**cursor, "line": {"color": "#d55e00", "width": 1.5}}],
        height=700,
        margin={"t": 20, "r": 10, "b": 40, "l": 60},
        template="simple_white",
        barmode="overlay",
        hovermode="closest",
    )
    figure.add_hline(threshold, line={"dash": "dot", "width": 1}, row=2, col=1)
    seconds = max(len(sound) / RATE, float(events["offset"].max() if len(events) else 0))
    figure.update_xaxes(range=[0, seconds])
    figure.update_xaxes(title="time (s)", row=3, col=1)
    figure.update_yaxes(title="kHz", row=1, col=1)
    figure.update_yaxes(title="posterior", range=[-0.02, 1.02], row=2, col=1)
    figure.update_yaxes(title="events", type="category", autorange="reversed", row=3, col=1)
    drawing = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="figure",
        post_script=SCRIPT,
        config={
            "scrollZoom": True,
            "displaylogo": False,
            "responsive": True,
            "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
        },
    )
    rows = [
        (
            event.event_label,
            *(f"{value:.3f}" for value in (event.onset, event.offset, event.confidence)),
        )
        for event in events.itertuples()
    ]
    count = f"{len(events) or 'No'} event{'s' * (len(events) != 1)}"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<link rel="icon" href="data:,">',  # else the browser asks for one
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{html.escape(title)}</h1>",
            f"<p>{count} at threshold {threshold:g}. Click one to hear it, or any place to play "
            "from there; drag or scroll to zoom, double-click to see all.</p>",
            f'<audio controls src="{sound_url(sound)}"></audio>',
            drawing,
            table(("class", "onset (s)", "offset (s)", "confidence"), rows) if rows else "",
            table(("setting", "value"), [(name, str(value)) for name, value in settings.items()]),
            "</body>\n</html>\n",
        ]
    )


def sound_url(sound: np.ndarray) -> str:
    """The sound as a FLAC file in a URL: without loss, so that what is heard is in time."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, subtype="PCM_16", format="FLAC")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of text.

    Example:
        >>> table(["class"], [["a < b"]])
        '<table>\\n<tr><th>class</th></tr>\\n<tr><td>a &lt; b</td></tr>\\n</table>'
    """
    lines = [("th", header), *(("td", row) for row in rows)]
    cells = [
        "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in line) for kind, line in lines
    ]
    return "\n".join(["<table>", *(f"<tr>{line}</tr>" for line in cells), "</table>"])
