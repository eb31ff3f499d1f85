from __future__ import annotations

import builtins

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sed_scores_eval", reason="needs pip install '.[exact]'")
from libraries import needs_verify

from lab.errors import InputError
from lab.evaluation import exact
from lab.evaluation.decode import decode
from lab.evaluation.reference import psds

COLUMNS = ["filename", "onset", "offset", "event_label"]
LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
TIMES = {"median_window": 3, "frame_seconds": 0.1, "clip_seconds": 5.0}


def a_set(seed, clips=12, frames=50, classes=3):
    """Posteriors of five levels, so that five thresholds are all there are."""
    random = np.random.default_rng(seed)
    labels = [f"class{k}" for k in range(classes)]
    names = [f"{clip}.wav" for clip in range(clips)]
    levels = np.repeat(random.integers(0, 2, (clips, 10, classes)), frames // 10, axis=1)
    rows = []
    for clip, name in enumerate(names):
        for k, label in enumerate(labels):
            if random.random() < 0.6:
                onset, offset = np.sort(random.uniform(0, 5, 2))
                rows.append([name, onset, offset, label])
                found = slice(int(onset * 10 + random.normal()), int(offset * 10))
                levels[clip, found, k] = random.integers(1, len(LEVELS))
        if not any(row[0] == name for row in rows):
            rows.append([name, None, None, None])
    durations = pd.DataFrame({"filename": names, "duration": 5.0})
    return LEVELS[levels], names, pd.DataFrame(rows, columns=COLUMNS), durations, labels


@needs_verify
@pytest.mark.parametrize("scenario", [1, 2])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_psds_eval_when_every_threshold_is_given(scenario, classes, seed):
    posteriors, names, reference, durations, labels = a_set(seed, classes=classes)
    points = decode(posteriors, names, labels, thresholds=LEVELS - 0.05, **TIMES)
    expected = psds(points, reference, durations, scenario=scenario)
    ours = exact.psds(posteriors, names, reference, durations, labels, scenario=scenario, **TIMES)
    assert 0 < expected < 1
    assert ours == pytest.approx(expected, abs=1e-9)


def test_a_class_the_reference_lacks_does_not_count():
    posteriors, names, reference, durations, labels = a_set(0)
    label = reference["event_label"]
    alone = reference.assign(event_label=label.where(label != "class2"))
    whole = exact.psds(posteriors, names, alone, durations, labels, scenario=2, **TIMES)
    part = posteriors[..., :2], names, alone, durations, labels[:2]
    assert whole == exact.psds(*part, scenario=2, **TIMES)


def test_frames_after_the_end_of_the_clip_do_not_count():
    posteriors, names, reference, durations, labels = a_set(0)
    padded = np.concatenate([posteriors, np.full_like(posteriors[:, :7], 0.9)], axis=1)
    rest = names, reference, durations, labels
    times = {**TIMES, "median_window": 1}
    assert exact.psds(padded, *rest, scenario=1, **times) == pytest.approx(
        exact.psds(posteriors, *rest, scenario=1, **times)
    )


def test_bad_input_is_named():
    posteriors, names, reference, durations, labels = a_set(0)
    with pytest.raises(InputError, match=r"11\.wav is in the reference but not in the post"):
        exact.psds(posteriors[:-1], names[:-1], reference, durations, labels, scenario=1, **TIMES)
    with pytest.raises(InputError, match="class2"):
        exact.psds(
            posteriors[..., :2], names, reference, durations, labels[:2], scenario=1, **TIMES
        )
    with pytest.raises(InputError, match="scenario is 0"):
        exact.psds(posteriors, names, reference, durations, labels, scenario=0, **TIMES)


def test_a_missing_library_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "sed_scores_eval":
            raise ImportError("No module named 'sed_scores_eval'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'dcase-coherence\[exact\]'"):
        exact.psds(*a_set(0), scenario=1, **TIMES)
