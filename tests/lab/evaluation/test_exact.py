from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sed_scores_eval", reason="needs pip install '.[exact]'")
from libraries import needs_verify

from evaluate import main
from lab.data.labels import ManyHotEncoder
from lab.errors import InputError
from lab.evaluation import exact
from lab.evaluation.decode import decode
from lab.evaluation.posteriors import Posteriors, decoding_of, load_posteriors
from lab.evaluation.reference import psds

COLUMNS = ["filename", "onset", "offset", "event_label"]
LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
TIMES = {"median_window": 3, "frame_seconds": 0.1}


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
                detection = slice(int(onset * 10 + random.normal()), int(offset * 10))
                levels[clip, detection, k] = random.integers(1, len(LEVELS))
        if not any(row[0] == name for row in rows):
            rows.append([name, None, None, None])
    durations = pd.DataFrame({"filename": names, "duration": 5.0})
    return LEVELS[levels], names, pd.DataFrame(rows, columns=COLUMNS), durations, labels


def exact_psds(posteriors, names, *rest, scenario, **options):
    scores = exact.psds(dict(zip(names, posteriors)), *rest, **{**TIMES, **options})
    return scores[scenario - 1]


@needs_verify
@pytest.mark.parametrize("scenario", [1, 2])
@pytest.mark.parametrize("classes", [1, 3])
def test_equals_psds_eval_when_every_threshold_is_there(scenario, classes):
    posteriors, names, reference, durations, labels = a_set(0, classes=classes)
    thresholds = LEVELS - 0.05
    points = decode(posteriors, names, labels, thresholds=thresholds, clip_seconds=5.0, **TIMES)
    expected = psds(points, reference, durations, scenario=scenario)
    ours = exact_psds(posteriors, names, reference, durations, labels, scenario=scenario)
    assert 0 < expected < 1
    assert ours == pytest.approx(expected, abs=1e-9)


def test_a_class_the_reference_lacks_does_not_count():
    posteriors, names, reference, durations, labels = a_set(0)
    label = reference["event_label"]
    alone = reference.assign(event_label=label.where(label != "class2"))
    whole = exact_psds(posteriors, names, alone, durations, labels, scenario=2)
    assert whole == exact_psds(posteriors[..., :2], names, alone, durations, labels[:2], scenario=2)


def test_frames_after_the_end_of_the_clip_do_not_count():
    posteriors, names, *rest = a_set(0)
    padded = np.concatenate([posteriors, np.full_like(posteriors[:, :7], 0.9)], axis=1)
    options = {"scenario": 1, "median_window": 1}
    assert exact_psds(padded, names, *rest, **options) == pytest.approx(
        exact_psds(posteriors, names, *rest, **options)
    )


def test_a_clip_or_class_without_posteriors_is_named():
    posteriors, names, reference, durations, labels = a_set(0)
    with pytest.raises(InputError, match=r"11\.wav"):
        exact_psds(posteriors[:-1], names[:-1], reference, durations, labels, scenario=1)
    with pytest.raises(InputError, match="the class 'class2', of which there are no posteriors"):
        exact_psds(posteriors[..., :2], names, reference, durations, labels[:2], scenario=1)


def test_the_file_of_a_test_and_the_command_that_reads_it(tmp_path, capsys):
    posteriors, names, reference, durations, labels = a_set(0)
    clips = Posteriors()
    clips.strong, clips.filenames, clips.seconds = list(posteriors), names, [5.0] * len(names)
    path = tmp_path / "p.npz"
    clips.save(path, ManyHotEncoder(labels, 5, 2048, 1600), TIMES["median_window"])
    assert decoding_of(path) == TIMES
    expected = tuple(
        exact_psds(posteriors, names, reference, durations, labels, scenario=scenario)
        for scenario in (1, 2)
    )
    held, classes = load_posteriors(path)
    assert exact.psds(held, reference, durations, classes, **decoding_of(path)) == expected
    tables = {"reference": reference, "durations": durations}
    for name, table in tables.items():
        table.assign(filename="x/" + table["filename"]).to_csv(tmp_path / name, sep="\t")
    events = str(tmp_path / "reference")
    options = ["--durations", str(tmp_path / "durations"), "--posteriors", str(path)]
    main([events, events, *options, "--names", "name"])
    output = "exact PSDS 1 {:.3f}, exact PSDS 2 {:.3f}, over every threshold".format(*expected)
    assert output in capsys.readouterr().out
    # Two clips of one name are refused, as those of a table are.
    clips.filenames = ["x/0.wav", "y/0.wav", *names[2:]]
    clips.save(path, ManyHotEncoder(labels, 5, 2048, 1600), TIMES["median_window"])
    with pytest.raises(SystemExit):
        main([events, events, *options, "--names", "name"])
    assert "x/0.wav and y/0.wav are one clip by --names name" in capsys.readouterr().err
    with np.load(path) as arrays:
        np.savez(tmp_path / "old.npz", **{k: v for k, v in arrays.items() if k[:6] != "median"})
    with pytest.raises(InputError, match=r"old\.npz has no median_window"):
        decoding_of(tmp_path / "old.npz")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sed_scores_eval", None)
    with pytest.raises(InputError, match="sed_scores_eval"):
        exact_psds(*a_set(0), scenario=1)
