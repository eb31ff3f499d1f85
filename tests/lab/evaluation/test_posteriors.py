"""Posteriors of clips of several lengths, tags, and the files written."""

import numpy as np
import pandas as pd
import pytest
import torch

from lab.data.labels import ManyHotEncoder
from lab.errors import InputError
from lab.evaluation.decode import decode
from lab.evaluation.posteriors import Posteriors, WeakScore, load_posteriors, write_detections


def test_batches_decode_as_one_and_read_back(tmp_path):
    encoder = ManyHotEncoder(["Cat", "Dog"], 10, 2048, 256, 4)
    strong = torch.rand(5, 2, 30, generator=torch.Generator().manual_seed(0))
    output = Posteriors()
    output.add(strong[:3], ["x/a.wav", "b.WAV", "c.flac"], 10.0)
    output.add(strong[3:], ["d.wav", "e.wav"], 10.0)
    expected = decode(
        strong.transpose(1, 2).numpy(),
        ["x/a.wav", "b.WAV", "c.flac", "d.wav", "e.wav"],
        encoder.labels,
        thresholds=[0.3, 0.5],
        median_window=3,
        frame_seconds=0.064,
        clip_seconds=10.0,
    )
    result = output.decode(encoder, [0.3, 0.5], 3)
    for threshold, table in expected.items():
        pd.testing.assert_frame_equal(result[threshold], table)
    output.add(torch.full((1, 2, 4), 0.5), ["f.wav"], 0.25)
    output.save(tmp_path / "posteriors.npz", encoder, 3)
    clips, classes = load_posteriors(tmp_path / "posteriors.npz")
    assert classes == ["Cat", "Dog"]
    assert list(clips) == output.filenames
    assert all(map(np.array_equal, clips.values(), output.strong))
    with np.load(tmp_path / "posteriors.npz") as saved:
        assert saved["seconds"].tolist() == [10.0] * 5 + [0.25]
    (tmp_path / "posteriors.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"posteriors\.npz holds no posteriors"):
        load_posteriors(tmp_path / "posteriors.npz")


def test_weak_score_counts_over_batches():
    score = WeakScore(3)
    # Class 0: one hit, one false alarm; class 1: one miss; class 2: never there, never found.
    score.add(torch.tensor([[0.5, 0.1, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    score.add(torch.tensor([[0.9, 0.4, 0.49]]), torch.tensor([[0.0, 0.0, 0.0]]))
    assert score.macro_f1() == pytest.approx((2 / 3 + 0 + 0) / 3)


def test_detections_have_the_official_names_and_every_operating_point_its_file(tmp_path):
    table = pd.DataFrame(
        {"event_label": ["Cat"], "onset": [0.064], "offset": [1.5], "filename": ["a.wav"]}
    )
    (tmp_path / "predictions_th_0.37.tsv").touch()  # of an earlier test
    thresholds = [*np.arange(1 / 400, 1, 1 / 200), 1e-05, 1.0000000000000002e-05]
    write_detections(tmp_path, "student", table, dict.fromkeys(thresholds, table.iloc[:0]))
    read = pd.read_csv(tmp_path / "predictions_05_student.tsv", sep="\t")
    pd.testing.assert_frame_equal(read, table)
    names = {path.stem[len("predictions_th_") :] for path in tmp_path.glob("predictions_th_*")}
    assert sorted(map(float, names)) == sorted(thresholds)
