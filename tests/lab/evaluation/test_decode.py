from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lab.errors import InputError
from lab.evaluation.decode import decode

CLASSES = ["Cat", "Dog", "Speech"]


def reference(posteriors, filenames, classes, thresholds, window, rate, clip_seconds):
    """The baseline's steps one by one: threshold, median of the decisions, contiguous regions."""
    events = {}
    for threshold in thresholds:
        rows = []
        for clip, name in zip(posteriors, filenames):
            decisions = clip > np.float32(threshold)
            decisions = ndimage.median_filter(decisions, (window, 1))
            for label, column in zip(classes, decisions.T):
                padded = np.concatenate([[False], column, [False]])
                changes = np.flatnonzero(padded[1:] != padded[:-1])
                for first, stop in changes.reshape(-1, 2):
                    times = [min(max(frame / rate, 0), clip_seconds) for frame in (first, stop)]
                    rows.append([label, *times, name])
        events[threshold] = pd.DataFrame(
            rows, columns=["event_label", "onset", "offset", "filename"]
        )
    return events


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    frames=st.integers(1, 40),
    window=st.integers(1, 12),
    levels=st.sampled_from([3, 10, 10_000]),
    clip_seconds=st.sampled_from([1.0, 10.0]),
)
def test_equals_the_slow_reference(seed, frames, window, levels, clip_seconds):
    random = np.random.default_rng(seed)
    # Few levels make posteriors that lie exactly on a threshold.
    posteriors = (random.integers(0, levels + 1, (4, frames, 3)) / levels).astype(np.float32)
    names = ["x/a.wav", "b.WAV", "c.d.wav", "e"]
    thresholds = [0.0, 0.1, 1 / 3, 0.5, 0.7]
    ours = decode(
        posteriors,
        names,
        CLASSES,
        thresholds=thresholds,
        median_window=window,
        frame_seconds=0.064,
        clip_seconds=clip_seconds,
    )
    slow = reference(posteriors, names, CLASSES, thresholds, window, 15.625, clip_seconds)
    assert list(ours) == thresholds
    for threshold in thresholds:
        if slow[threshold].empty:
            assert ours[threshold].empty
        else:
            pd.testing.assert_frame_equal(ours[threshold], slow[threshold], check_exact=True)


@pytest.mark.parametrize("hop", [160, 256, 512])
@pytest.mark.parametrize("pooling", [1, 2, 4, 8])
def test_times_are_the_baselines_floats(hop, pooling):
    frames = 1000
    posteriors = np.zeros((1, frames, 1))
    posteriors[0, ::2] = 1
    seconds = hop * pooling / 16000
    events = decode(
        posteriors,
        ["a"],
        ["Cat"],
        median_window=1,
        frame_seconds=seconds,
        clip_seconds=frames * seconds,
    )
    onsets = np.arange(0, frames, 2) * pooling / (16000 / hop)
    assert (events[0.5]["onset"].to_numpy() == onsets).all()


def test_thresholds_in_float64_act_on_float32_posteriors_as_on_a_tensor():
    posteriors = np.full((1, 4, 1), 0.1, dtype=np.float32)  # 0.1f > 0.1 in float64
    events = decode(
        posteriors,
        ["a"],
        ["Cat"],
        thresholds=np.array([0.1]),
        median_window=1,
        frame_seconds=0.1,
        clip_seconds=1,
    )
    assert events[0.1].empty


def test_half_precision_and_no_clips():
    half = np.full((1, 4, 1), 0.75, dtype=np.float16)
    assert len(decode(half, ["a"], ["Cat"], frame_seconds=0.1, clip_seconds=1)[0.5]) == 1
    none = decode([], [], ["Cat"], frame_seconds=0.1, clip_seconds=1)[0.5]
    assert list(none.columns) == ["event_label", "onset", "offset", "filename"]
    assert none["onset"].dtype == float


def test_clips_of_several_lengths_end_where_they_end():
    clips = [np.ones((7, 1)), np.ones((400, 1)), np.ones((7, 1))]
    options = {"frame_seconds": 0.064, "clip_seconds": [0.44, 25.5, 0.448]}
    events = decode(clips, ["a", "b", "c"], ["Cat"], **options)[0.5]
    assert events[["filename", "offset"]].to_numpy().tolist() == [
        ["a", 0.44],
        ["c", 0.448],
        ["b", 25.5],
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"posteriors": np.zeros((2, 5))}, "shape"),
        ({"posteriors": np.full((2, 5, 3), np.nan)}, "NaN"),
        ({"posteriors": np.full((2, 5, 3), 1.5)}, "1.5"),
        ({"filenames": ["a.wav"]}, "2 clips for 1 filenames"),
        ({"classes": ["Cat", "Dog"]}, "2 classes"),
        ({"thresholds": [1.5]}, "1.5"),
        ({"thresholds": [float("nan")]}, "nan"),
        ({"median_window": 0}, "median_window is 0"),
        ({"median_window": 2.5}, "median_window is 2.5"),
    ],
)
def test_bad_input_is_named(change, words):
    inputs = {
        "posteriors": np.zeros((2, 5, 3)),
        "filenames": ["a.wav", "b.wav"],
        "classes": CLASSES,
        **change,
    }
    with pytest.raises(InputError, match=words):
        decode(**inputs, frame_seconds=0.1, clip_seconds=1.0)
