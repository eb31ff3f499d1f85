from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lab.errors import InputError
from lab.evaluation.boundaries import (
    edge_errors,
    inside_change,
    profile,
    rise_times,
    stable_events,
)

CLASSES = ["Cat", "Dog"]
NAMES = ["a.wav", "b.wav"]
COLUMNS = ["filename", "onset", "offset", "event_label"]
STEP = 0.1
FRAMES = 100
TIME = (np.arange(FRAMES) + 0.5) * STEP


def table(*rows):
    return pd.DataFrame(list(rows), columns=COLUMNS)


REFERENCE = table(
    ["a.wav", 2.0, 5.0, "Dog"],
    ["a.wav", 7.0, 7.3, "Dog"],  # too short for a stable region
    ["b.wav", 0.0, 4.0, "Cat"],  # starts with the clip
    ["b.wav", 6.0, 9.0, "Dog"],
)


def trapezium(onset, offset, ramp, top=0.9):
    """Rises linearly over `ramp` seconds around the onset, falls the same way."""
    up = np.clip((TIME - onset) / ramp + 0.5, 0, 1)
    down = np.clip((offset - TIME) / ramp + 0.5, 0, 1)
    return top * np.minimum(up, down)


def posteriors(ramp):
    values = np.zeros((2, FRAMES, 2))
    values[0, :, 1] = trapezium(2, 5, ramp)
    values[1, :, 0] = trapezium(-5, 4, ramp)
    values[1, :, 1] = trapezium(6, 9, ramp)
    return values


MODELS = {"baseline": posteriors(1.0), "coherence": posteriors(0.4)}
ARGUMENTS = (NAMES, REFERENCE, CLASSES)


def result(models=MODELS):
    return stable_events(models, *ARGUMENTS, frame_seconds=STEP)


def test_stable_events_are_long_enough_and_detected_by_all():
    assert result()[["filename", "onset", "clip", "label"]].to_numpy().tolist() == [
        ["a.wav", 2.0, 0, 1],
        ["b.wav", 0.0, 1, 0],
        ["b.wav", 6.0, 1, 1],
    ]
    deaf, edges = posteriors(0.4), posteriors(0.4)
    deaf[1, :, 1] *= 0.5
    assert result({**MODELS, "coherence": deaf})["onset"].tolist() == [2.0, 0.0]
    # Only what happens 200 ms from the boundaries counts.
    edges[0, (TIME < 2.2) | (TIME > 4.8), 1] = 0
    assert len(result({**MODELS, "coherence": edges})) == 3


def test_profile_is_the_mean_over_events_with_its_standard_error():
    onset = profile(MODELS, result(), "onset", frame_seconds=STEP)
    assert onset.events == 2  # not the one that starts with the clip
    assert onset.seconds[[0, -1]] == pytest.approx([-1, 1])
    at = np.abs(onset.seconds) < 1e-9
    assert onset.mean["baseline"][at] == pytest.approx(0.45)
    expected = 0.9 * np.clip(onset.seconds / 1.0 + 0.5, 0, 1)
    np.testing.assert_allclose(onset.mean["baseline"], expected, atol=0.03)
    np.testing.assert_allclose(onset.standard_error["baseline"], 0, atol=1e-12)
    offset = profile(MODELS, result(), "offset", frame_seconds=STEP)
    assert offset.events == 3
    assert offset.mean["coherence"][0] == pytest.approx(0.9)
    assert offset.mean["coherence"][-1] == pytest.approx(0)


def test_standard_error_by_hand():
    models = {"only": np.concatenate([posteriors(1.0)[:1], 0.8 * posteriors(1.0)[:1]])}
    reference = REFERENCE[:1]
    reference = pd.concat([reference, reference.assign(filename="b.wav")])
    events = stable_events(models, NAMES, reference, CLASSES, frame_seconds=STEP)
    shown = profile(models, events, "onset", frame_seconds=STEP)
    assert shown.mean["only"][-1] == pytest.approx(0.81)
    assert shown.standard_error["only"][-1] == pytest.approx(0.09)


def test_times_outside_a_clip_do_not_count():
    reference = table(["a.wav", 0.5, 5.0, "Dog"], ["b.wav", 5.0, 6.5, "Dog"])
    models = {"only": [np.full((FRAMES, 2), 0.8), np.full((70, 2), 0.6)]}  # of two lengths
    events = stable_events(models, NAMES, reference, CLASSES, frame_seconds=STEP)
    shown = profile(models, events, "onset", frame_seconds=STEP)
    assert shown.mean["only"][[0, -1]] == pytest.approx([0.6, 0.7])
    shown = profile(models, events, "offset", frame_seconds=STEP)
    assert shown.mean["only"][[0, -1]] == pytest.approx([0.7, 0.8])
    with pytest.raises(InputError, match="no event with its onset inside a clip"):
        profile(models, events[:0], "onset", frame_seconds=STEP)


@pytest.mark.parametrize("ramp", [0.4, 1.0])
def test_rise_and_fall_of_a_linear_ramp(ramp):
    times = rise_times(posteriors(ramp), result(), frame_seconds=STEP)
    # From 10 to 90 % of a linear ramp; the corners are rounded by a frame at most.
    assert times["rise"][[0, 2]].tolist() == pytest.approx([0.8 * ramp] * 2, abs=0.05)
    assert times["fall"].tolist() == pytest.approx([0.8 * ramp] * 3, abs=0.05)
    assert np.isnan(times["rise"][1])  # it was there from the start


def test_a_step_rises_within_a_frame():
    step = {"only": np.zeros((2, FRAMES, 2))}
    step["only"][0, 20:50, 1] = 0.9
    events = stable_events(step, *ARGUMENTS, frame_seconds=STEP)
    assert rise_times(step["only"], events, frame_seconds=STEP).iloc[0].tolist() == (
        pytest.approx([0.8 * STEP] * 2)
    )


def test_edge_errors_take_the_largest_intersection():
    estimated = table(
        ["a.wav", 1.8, 2.2, "Dog"],
        ["a.wav", 2.3, 5.5, "Dog"],
        ["a.wav", 2.0, 5.0, "Cat"],
        ["b.wav", 0.0, 3.5, "Cat"],
        ["b.wav", 9.0, 9.5, "Dog"],  # touches, does not intersect
    )
    errors = edge_errors(REFERENCE, estimated)
    assert errors["event_label"].tolist() == ["Dog", "Cat"]
    assert errors["onset_error"].tolist() == pytest.approx([0.3, 0.0])
    assert errors["offset_error"].tolist() == pytest.approx([0.5, -0.5])
    assert edge_errors(REFERENCE, table()).empty


def test_change_inside_events_only():
    z = np.array([[0.0, 0], [1, 0], [3, 1], [4, 4], [9, 9], [9, 8]])
    y = np.array([[0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [1, 1]])
    # t = 1 is outside, 2 and 4 are boundaries.
    assert inside_change([z], [y]).tolist() == [4.0, 1.0]
    with pytest.raises(InputError, match="z of 6 frames and labels of 5"):
        inside_change([z], [y[:5]])
