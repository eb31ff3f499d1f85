from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dcase_coherence.errors import InputError
from dcase_coherence.evaluation import plots

CLASSES = ["Cat", "Dog", "Frying", "Speech"]
REFERENCE = pd.DataFrame(
    {
        "filename": "a.wav",
        "onset": [1.0, 6.0, 2.0],
        "offset": [3.0, 7.5, 9.0],
        "event_label": ["Dog", "Dog", "Speech"],
    }
)


def bumps(frames=156):
    time = np.arange(frames)[:, None] * 0.064
    centre, width = np.array([5, 2, 5, 5.5]), np.array([1, 1, 2, 3.5])
    height = np.array([0.2, 0.9, 0.4, 0.95])
    return height / (1 + np.exp((np.abs(time - centre) - width) * 6))


def texts(figure):
    return [panel.get_title(loc="left") for panel in figure.axes]


def test_shows_classes_of_the_reference_and_those_predicted():
    figure = plots.posteriors(
        {"baseline": bumps(), "coherence": bumps() ** 1.1},
        REFERENCE,
        CLASSES,
        frame_seconds=0.064,
    )
    assert texts(figure) == ["Dog", "Frying", "Speech"]  # Cat stays below 0.3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["baseline", "coherence", "reference event", "threshold"]
    assert figure.axes[-1].get_xlim() == pytest.approx((0, 156 * 0.064))


def test_the_two_models_keep_their_colours():
    figure = plots.posteriors(
        {"coherence": bumps(), "baseline": bumps()}, REFERENCE, CLASSES, frame_seconds=0.064
    )
    colours = {
        line.get_label(): line.get_color()
        for line in figure.axes[0].lines
        if line.get_label() in ("baseline", "coherence")
    }
    assert colours == {"baseline": "#0072B2", "coherence": "#D55E00"}


def test_a_silent_clip_shows_the_likeliest_class():
    silent = pd.DataFrame(
        {"filename": ["a.wav"], "onset": [None], "offset": [None], "event_label": [None]}
    )
    low = bumps() * 0.2
    figure = plots.posteriors({"baseline": low}, silent, CLASSES, frame_seconds=0.064)
    assert texts(figure) == ["Speech"]


def test_png_and_svg_are_written_the_same_each_time(tmp_path):
    def write(name):
        figure = plots.posteriors({"a": bumps()}, REFERENCE, CLASSES, frame_seconds=0.064)
        return plots.save(figure, tmp_path / name)

    png, svg = write("new/figure.png")
    assert (png.name, svg.name) == ("figure.png", "figure.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in png.parent.iterdir()) == ["figure.png", "figure.svg"]
    again = write("new/v1.2")
    assert [path.name for path in again] == ["v1.2.png", "v1.2.svg"]
    assert again[1].read_bytes() == svg.read_bytes()


@pytest.mark.parametrize(
    ("models", "reference", "words"),
    [
        ({}, REFERENCE, "models is empty"),
        ({"baseline": bumps()[:, :2]}, REFERENCE, r"baseline have the shape \(156, 2\)"),
        ({"baseline": bumps()}, REFERENCE.assign(event_label="Bell"), "'Bell'"),
        ({"baseline": bumps()}, REFERENCE.assign(filename=["a", "b", "c"]), "3 clips"),
    ],
)
def test_bad_input_is_named(models, reference, words):
    with pytest.raises(InputError, match=words):
        plots.posteriors(models, reference, CLASSES, frame_seconds=0.064)
