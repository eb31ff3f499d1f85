"""Scores of a validation and of a test are the libraries', and a test leaves its files."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from libraries import needs_verify

from lab.baseline.config import load_config
from lab.baseline.results import thresholds_of, validation_scores, write_test
from lab.data.annotations import read_durations, read_strong_tsv
from lab.data.labels import make_encoder
from lab.evaluation import reference
from lab.evaluation.posteriors import Posteriors, WeakScore, load_posteriors
from lab.evaluation.scores import Scorer

MODELS = ("student", "teacher")


@pytest.fixture
def config(config_file):
    return load_config(config_file)


@pytest.fixture
def encoder(config):
    return make_encoder(config)


def posteriors(config, encoder, subset, level, missed=0.0, noise=0.0):
    """What a model says that gives events this level but misses a share of them, in noise."""
    table = read_strong_tsv(config["data"][f"{subset}_tsv"])
    output, random = Posteriors(), np.random.default_rng(0)
    for name, events in table.groupby("filename"):
        clip = encoder.encode_strong(events)
        clip *= level * (random.random(clip.shape[1]) >= missed)
        clip = np.clip(clip + noise * random.standard_normal(clip.shape), 0, 1)
        output.add(torch.tensor(clip.T[None]), [name], encoder.audio_len)
    return output


@pytest.fixture
def output(config, encoder):
    """A student that finds some events and a teacher that finds most."""
    return {
        name: posteriors(config, encoder, "test", 0.7, missed, noise=0.2)
        for name, missed in (("student", 0.5), ("teacher", 0.3))
    }


@needs_verify
@pytest.mark.parametrize("score", ["event_based", "segment_based", "intersection_based", "psds"])
def test_scores_that_are_not_the_librarys_are_named_and_not_written(
    config, encoder, output, tmp_path, monkeypatch, score
):
    fast = getattr(Scorer, score)

    def off(by):
        def wrong(self, estimated):
            scores = fast(self, estimated)
            if score == "psds":
                return scores[0] + by, scores[1]
            return dataclasses.replace(scores, macro_f1=scores.macro_f1 + by)

        return wrong

    name = "PSDS 1" if score == "psds" else f"{score.split('_')[0]} macro_f1"
    monkeypatch.setattr(Scorer, score, off(2e-6))
    with pytest.raises(RuntimeError, match=rf"^{name} is [01]\.\d{{8}} here and [01]\.\d{{8}} by"):
        write_test(tmp_path, config, encoder, output, verify_psds=score == "psds")
    assert not (tmp_path / "metrics.json").exists()
    # What it was computed from is there to be reported.
    assert (tmp_path / "student" / "predictions_05_student.tsv").exists()
    # PSDS is held where asked alone; where the libraries are missing nothing is.
    monkeypatch.setattr(Scorer, score, off(5e-7))
    write_test(tmp_path, config, encoder, output)
    monkeypatch.setattr(reference, "missing", lambda: "sed_eval is not installed")
    monkeypatch.setattr(Scorer, score, off(2e-6))
    assert write_test(tmp_path, config, encoder, output)["test/teacher/event_f1_macro"] > 0


@needs_verify
def test_files_and_scores_of_a_test(config, encoder, output, tmp_path):
    folder = tmp_path / "test"
    results = write_test(folder, config, encoder, output)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    names = ("posteriors.npz", "predictions_05_{}.tsv")
    points = ("predictions_th_0.25.tsv", "predictions_th_0.75.tsv")
    assert files == {
        "metrics.json",
        *(f"{model}/{name.format(model)}" for model in MODELS for name in (*names, *points)),
    }
    assert json.loads((folder / "metrics.json").read_text()) == results
    truth = read_strong_tsv(config["data"]["test_tsv"])
    durations = read_durations(config["data"]["test_dur"])
    for model in MODELS:
        events = pd.read_csv(folder / model / f"predictions_05_{model}.tsv", sep="\t")
        expected = reference.event_based(truth, events)
        assert results[f"test/{model}/event_f1_macro"] == pytest.approx(expected.macro_f1)
        clips, classes = load_posteriors(folder / model / "posteriors.npz")
        assert classes == encoder.labels
        assert np.array_equal(clips["1.wav"], output[model].strong[1])
    tables = {
        at: pd.read_csv(folder / "teacher" / f"predictions_th_{at}.tsv", sep="\t")
        for at in (0.25, 0.75)
    }
    expected = reference.psds(tables, truth, durations, scenario=1)
    assert results["test/teacher/psds_score_scenario1"] == pytest.approx(expected)
    psds = [results[f"test/student/psds_score_scenario{scenario}"] for scenario in (1, 2)]
    assert results["hp_metric"] == max(psds)


def test_clips_without_labels_have_detections_and_no_scores(config, encoder, output, tmp_path):
    config["data"]["test_tsv"] = str(tmp_path / "nowhere.tsv")
    assert write_test(tmp_path / "test", config, encoder, output, labelled=False) == {}
    assert (tmp_path / "test" / "teacher" / "predictions_05_teacher.tsv").exists()
    assert not (tmp_path / "test" / "metrics.json").exists()


@pytest.mark.parametrize(("count", "expected"), [(2, [0.25, 0.75]), (50, np.arange(0.01, 1, 0.02))])
def test_operating_points_are_the_official_ones(count, expected):
    assert thresholds_of({"training": {"n_test_thresholds": count}}) == pytest.approx(expected)


@pytest.fixture
def validate(config, encoder):
    """Scores of a validation: the student finds nothing, the teacher everything."""
    output = {
        name: posteriors(config, encoder, "synth_val", level)
        for name, level in zip(MODELS, (0.2, 0.9))
    }
    weak = {name: WeakScore(2) for name in MODELS}
    for name, result in zip(MODELS, ([[0.9, 0.1]], [[0.9, 0.9]])):
        weak[name].add(torch.tensor(result), torch.tensor([[1, 1]]))

    def validate(**training):
        config["training"].update(training)
        return validation_scores(config, encoder, output, weak)

    return validate


def test_scores_of_a_validation(validate, config, encoder):
    scores = validate()
    assert set(scores) == {
        "val/obj_metric",
        *(
            f"val/{name}"
            for model in MODELS
            for name in (
                f"synth/{model}/intersection_f1_macro",
                f"synth/{model}/event_f1_macro",
                f"weak/{model}/macro_F1",
            )
        ),
    }
    assert scores["val/synth/teacher/event_f1_macro"] == 1.0
    assert scores["val/synth/student/event_f1_macro"] == 0.0
    assert scores["val/weak/student/macro_F1"] == 0.5
    # The official choice is by the student; an average is what is tested.
    assert scores["val/obj_metric"] == 0.5
    assert validate(teacher="average")["val/obj_metric"] == 2.0
    # Tags count only where there are weak clips.
    scores = validate(teacher="average", batch_size=[5, 0, 0])
    assert scores["val/obj_metric"] == 1.0
    assert not any(name.startswith("val/weak") for name in scores)


@pytest.mark.parametrize("kind", ["event", "intersection"])
def test_the_objective_is_by_events_or_by_intersections_over_thresholds(config, encoder, kind):
    output = {"student": posteriors(config, encoder, "synth_val", 0.7)}
    config["training"].update(obj_metric_synth_type=kind, batch_size=[5, 0, 0])
    config["training"]["val_thresholds"] = [0.5, 0.6, 0.8, 0.9]
    scores = validation_scores(config, encoder, output, {})
    assert scores["val/synth/student/intersection_f1_macro"] == 0.5
    assert scores["val/synth/student/event_f1_macro"] == 1.0
    assert scores["val/obj_metric"] == (1.0 if kind == "event" else 0.5)


def test_soft_references_are_scored_from_a_confidence_of_one_half(config, encoder, tmp_path):
    config["data"]["test_tsv"] = str(tmp_path / "soft.tsv")
    events = "0.wav\t0\t0.5\tDog\t0.5\n0.wav\t0.5\t1\tDog\t0.9\n0.wav\t0\t1\tCat\t0.4\n"
    head = "filename\tonset\toffset\tevent_label\tconfidence\n"
    (tmp_path / "soft.tsv").write_text(f"{head}{events}1.wav\n2.wav\n")
    strong = torch.zeros(3, 10, encoder.n_frames)
    strong[0, encoder.labels.index("Dog")] = 1.0
    output = Posteriors()
    output.add(strong, ["0.wav", "1.wav", "2.wav"], 1.0)
    scores = write_test(tmp_path, config, encoder, {"student": output})
    assert scores["test/student/event_f1_macro"] == 1.0
