"""Posteriors of clips of several lengths, tags, and the files written."""

import numpy as np
import pandas as pd
import pytest
import torch

from lab.data.labels import ManyHotEncoder
from lab.evaluation.decode import decode
from lab.evaluation.posteriors import (
    Posteriors,
    WeakScore,
    load_seconds,
    write_detections,
)


@pytest.fixture
def encoder():
    return ManyHotEncoder(["Cat", "Dog"], 10, 2048, 256, 4)


def test_batches_and_lengths_decode_as_one(encoder):
    strong = torch.rand(5, 2, 30, generator=torch.Generator().manual_seed(0))
    said = Posteriors()
    said.add(strong[:3], ["x/a.wav", "b.WAV", "c.flac"], 10.0)
    said.add(strong[3:], ["d.wav", "e.wav"], 10.0)
    # As they are given, which is as the table has them.
    assert said.filenames == ["x/a.wav", "b.WAV", "c.flac", "d.wav", "e.wav"]
    found = said.decode(encoder, [0.3, 0.5], 3)
    expected = decode(
        strong.transpose(1, 2).numpy(),
        said.filenames,
        encoder.labels,
        thresholds=[0.3, 0.5],
        median_window=3,
        frame_seconds=0.064,
        clip_seconds=10.0,
    )
    for threshold, table in expected.items():
        pd.testing.assert_frame_equal(found[threshold], table)
    said.add(torch.ones(1, 2, 7), ["f.wav"], 0.448)
    longer = said.decode(encoder, [0.5], 3)[0.5]
    last = longer[longer["filename"] == "f.wav"]
    assert last["offset"].tolist() == pytest.approx([7 * 0.064] * 2)
    assert len(longer) == len(expected[0.5]) + 2
    # Each clip ends where it ends, before or after the length of the training clips.
    said.add(torch.ones(1, 2, 400), ["long.wav"], 25.5)
    found = said.decode(encoder, [0.5], 3)[0.5]
    assert found[found["filename"] == "long.wav"]["offset"].tolist() == [25.5] * 2


def test_saved_posteriors_read_back(tmp_path):
    said = Posteriors()
    said.add(torch.full((1, 2, 3), 0.25), ["a.wav"], 0.192)
    said.add(torch.full((1, 2, 4), 0.5), ["b.wav"], 0.25)
    said.save(tmp_path / "posteriors.npz", ["Cat", "Dog"])
    with np.load(tmp_path / "posteriors.npz") as saved:
        first, second = np.split(saved["strong"], np.cumsum(saved["lengths"])[:-1])
        assert (first.shape, second.shape) == ((3, 2), (4, 2))
        assert list(saved["classes"]) == ["Cat", "Dog"]
        older = {name: saved[name] for name in saved.files if name != "seconds"}
    assert load_seconds(tmp_path / "posteriors.npz", 10.0) == [0.192, 0.25]
    np.savez(tmp_path / "older.npz", **older)
    assert load_seconds(tmp_path / "older.npz", 10.0) == [10.0, 10.0]


def test_weak_score_counts_over_batches():
    score = WeakScore(3)
    # Class 0: one hit, one false alarm; class 1: one miss; class 2: never there, never found.
    score.add(torch.tensor([[0.5, 0.1, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    score.add(torch.tensor([[0.9, 0.4, 0.49]]), torch.tensor([[0.0, 0.0, 0.0]]))
    assert score.macro_f1() == pytest.approx((2 / 3 + 0 + 0) / 3)


def test_detections_have_the_official_names(tmp_path):
    table = pd.DataFrame(
        {"event_label": ["Cat"], "onset": [0.064], "offset": [1.5], "filename": ["a.wav"]}
    )
    write_detections(tmp_path, "student", table, {0.01: table, 0.99: table.iloc[:0]})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions_05_student.tsv",
        "predictions_th_0.01.tsv",
        "predictions_th_0.99.tsv",
    ]
    read = pd.read_csv(tmp_path / "predictions_05_student.tsv", sep="\t")
    pd.testing.assert_frame_equal(read, table)


def test_every_operating_point_has_a_file_and_no_other_is_left(tmp_path):
    events = pd.DataFrame({"event_label": [], "onset": [], "offset": [], "filename": []})
    (tmp_path / "predictions_th_0.37.tsv").touch()
    points = dict.fromkeys([*np.arange(1 / 400, 1, 1 / 200), 1e-05, 1.0000000000000002e-05], events)
    write_detections(tmp_path, "student", events, points)
    names = {path.stem[len("predictions_th_") :] for path in tmp_path.glob("predictions_th_*")}
    assert sorted(map(float, names)) == sorted(points)
