import io

import numpy as np
import pandas as pd
import pytest

from lab.evaluation import plots
from lab.evaluation.boundaries import histogram
from lab.evaluation.hover import description, hover_values
from lab.evaluation.profile import ALL, COLUMNS


def panels(figure):
    figure.savefig(io.BytesIO(), format="svg")
    return hover_values(figure)["panels"]


def test_lines_have_their_values_and_the_spans_their_ends():
    clip = np.linspace(0, 1, 20)[:, None]
    reference = pd.DataFrame({"onset": [0.5], "offset": [2.0], "event_label": ["Dog"]})
    figure = plots.posteriors(
        {"baseline": clip, "coherence": clip**2}, reference, ["Dog"], frame_seconds=0.2
    )
    (panel,) = panels(figure)
    assert panel["x"] == {"name": "time", "unit": " s", "limits": [0, 4], "log": False}
    # The threshold is a line across the panel, without values of its own.
    assert [line["name"] for line in panel["lines"]] == ["baseline", "coherence"]
    assert panel["lines"][0]["colour"] == plots.STYLES["baseline"]["color"].lower()
    assert panel["lines"][1]["x"][:2] == [0.1, 0.3]
    np.testing.assert_allclose(panel["lines"][1]["y"], clip[:, 0] ** 2, rtol=1e-3)
    (span,) = panel["areas"]
    assert span["text"] == "reference event: 0.50 to 2.00 s"
    left, top, right, bottom = panel["box"]
    width, height = 72 * figure.get_size_inches()
    assert 0 < left < right < width
    assert 0 < top < bottom < height
    wide = right - left
    assert span["box"] == pytest.approx([left + wide / 8, top, left + wide / 2, bottom], abs=0.2)


def test_bars_are_named_by_class_or_system_and_part():
    counts = pd.DataFrame([[0] * len(COLUMNS)], columns=COLUMNS, index=[ALL])
    systems = {
        "baseline": counts.assign(events=4, hit=1, missed=3),
        "coherence": counts.assign(events=4, hit=4),
    }
    errors = pd.DataFrame({"onset_error": [-0.1, 0.1, 0.3], "offset_error": [0.0, 1.0, 2.0]})
    bars, onset, offset = panels(plots.error_profiles(systems, {"baseline": errors}))
    told = {area["text"]: area["box"] for area in bars["areas"]}
    assert {"baseline: hit 25 %", "baseline: missed 75 %", "coherence: hit 100 %"} <= set(told)
    assert not any("fragmented 0 %" in text for text in told)
    assert told["baseline: missed 75 %"][0] == told["baseline: hit 25 %"][2]
    assert told["coherence: hit 100 %"][1] > told["baseline: hit 25 %"][3]
    assert onset["areas"][0]["text"] == "baseline: 0 to 0.2 s"
    assert offset["areas"][0]["text"] == "baseline: 0.5 to 1.5 s"

    f1 = pd.DataFrame({"trial": [0.4, 0.5, np.nan]}, index=["Cat", "Dog_bark", "Speech"])
    (panel,) = panels(plots.classwise_f1({"validation": {"baseline": f1}}))
    texts = [area["text"] for area in panel["areas"]]
    assert texts == ["Cat: baseline 40 %", "Dog bark: baseline 50 %"]


def test_steps_and_logarithmic_axes():
    found = histogram({"baseline": np.random.default_rng(0).gamma(2, 1, 500)})
    (panel,) = panels(plots.change_histogram(found))
    (line,) = panel["lines"]
    assert line["x"][0] == pytest.approx(found.edges[:2].mean(), rel=1e-4)
    np.testing.assert_allclose(line["y"], 100 * found.density["baseline"], rtol=1e-3)

    table = pd.DataFrame({"|z|": [1.0, np.nan, 101.0], "loss": [3.0, 2.0, 1.0]})
    size, loss, *others = panels(plots.curves({"exact": table}, panels=["|z|", "loss"]))
    assert not others
    assert size["y"]["log"]
    assert not loss["y"]["log"]
    assert size["lines"][0]["x"] == [0, 2]
    assert loss["x"]["name"] == "epoch"


def test_a_figure_is_described():
    table = pd.DataFrame({"|z|": [1.0, 2.0], "loss": [3.0, 2.0]})
    figure = plots.curves({"baseline": table, "coherence": table}, panels=["|z|", "loss"])
    assert description(figure) == "Panels: |z|, loss. Shown: baseline, coherence."
