"""Windows, cross-fades and resampling lose nothing; checkpoints of every origin load."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import BCELoss

from lab.baseline.config import load_config
from lab.baseline.detect import (
    cross_fade,
    find_events,
    load_detector,
    posteriors_of,
    read_blocks,
    windows,
)
from lab.baseline.experiment import build
from lab.data.annotations import read_strong_tsv
from lab.data.audio import read_audio, resample
from lab.data.desed import CLASSES
from lab.data.labels import make_encoder
from lab.errors import InputError
from lab.evaluation.decode import decode
from lab.evaluation.posteriors import load_posteriors


@pytest.fixture
def config(config_file):
    return load_config(config_file)


@pytest.fixture
def checkpoint(config, tmp_path):
    """A checkpoint of an untrained network, with what a training would leave in it."""
    experiment = build(config, coherence=False, log_dir=tmp_path / "test", train=False)
    state = experiment.module.state_dict()
    for name, values in state.items():
        # The teacher is another network than the student.
        if name.startswith("sed_teacher") and values.is_floating_point():
            values += 0.1
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": config}, path)
    return path


def state_in(path):
    return torch.load(path, weights_only=True)["state_dict"]


def change(path, **parts):
    torch.save({**torch.load(path, weights_only=True), **parts}, path)


def noise(path, seconds, rate=16000, seed=0, **options):
    rng = np.random.default_rng(seed)
    sound = 0.1 * rng.standard_normal((round(seconds * rate), options.pop("channels", 1)))
    soundfile.write(path, sound, rate, **options)
    return path


def test_clips_get_the_posteriors_of_the_test(config, checkpoint, tmp_path):
    experiment = build(config, coherence=False, log_dir=tmp_path / "again", train=False)
    experiment.test(checkpoint)
    for model, name in (("student", "student"), ("teacher", "teacher"), (None, "teacher")):
        expected, _ = load_posteriors(experiment.folder / "metrics_test" / name / "posteriors.npz")
        detector = load_detector(checkpoint, model=model)
        for clip, posteriors in expected.items():
            result, seconds = posteriors_of(detector, f"{config['data']['test_folder']}/{clip}")
            assert seconds == 1.0
            np.testing.assert_allclose(result, posteriors, atol=1e-6)


LENGTHS = {"a.wav": 1.0, "long.wav": 2.5, "short.wav": 0.4, "longer.wav": 3.1, "b.wav": 2.5}


def heard(path):
    """A clip as it is scored: whole, or padded to the length of the training's clips."""
    audio = read_audio(path)
    return np.pad(audio, (0, max(16000 - len(audio), 0)))


@pytest.fixture
def any_length(checkpoint, tmp_path):
    """Clips of several lengths, annotated with what the student finds in each as a whole."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for seed, (name, seconds) in enumerate(LENGTHS.items()):
        noise(folder / name, seconds, seed=seed)
    # Posteriors on either side of one half, so that there are events.
    state = state_in(checkpoint)
    output = load_detector(checkpoint, model="student").posteriors(heard(folder / "a.wav")[None])
    level = torch.from_numpy(np.median(output, axis=(0, 1)))
    state["sed_student.dense.bias"] -= torch.log(level / (1 - level))
    change(checkpoint, state_dict=state)
    detector = load_detector(checkpoint, model="student")
    posteriors = {n: detector.posteriors(heard(folder / n)[None])[0] for n in LENGTHS}
    events = [
        decode(
            posteriors[name][None],
            [name],
            detector.encoder.labels,
            median_window=3,
            frame_seconds=detector.encoder.frame_seconds,
            clip_seconds=max(seconds, 1.0),
        )[0.5]
        for name, seconds in LENGTHS.items()
    ]
    pd.concat(events).to_csv(tmp_path / "events.tsv", sep="\t", index=False)
    lines = [f"{name}\t{max(seconds, 1.0)}" for name, seconds in LENGTHS.items()]
    (tmp_path / "durations.tsv").write_text("\n".join(["filename\tduration", *lines]) + "\n")
    paths = (folder, tmp_path / "events.tsv", tmp_path / "durations.tsv")
    return dict(zip(("folder", "tsv", "dur"), map(str, paths))), posteriors


def test_clips_of_any_length_are_tested_whole(config, checkpoint, tmp_path, any_length):
    paths, posteriors = any_length
    config["data"].update({f"test_{part}": path for part, path in paths.items()})
    experiment = build(config, coherence=False, log_dir=tmp_path / "again", train=False)
    scores = experiment.test(checkpoint)
    output, _ = load_posteriors(experiment.folder / "metrics_test" / "student" / "posteriors.npz")
    for name, clip in posteriors.items():
        np.testing.assert_allclose(output[name], clip, atol=1e-5)
    assert scores["test/student/event_f1_macro"] == 1.0
    assert scores["test/student/intersection_f1_macro"] == 1.0
    # The loss is that of all frames of each clip.
    table, encoder = read_strong_tsv(paths["tsv"]), make_encoder(config)
    losses = []
    for name, clip in posteriors.items():
        frames = int(max(LENGTHS[name], 1.0) * 16000) // 1024
        truth = encoder.encode_strong(table[table["filename"] == name], frames)
        loss = BCELoss()(torch.from_numpy(clip[:frames]).double(), torch.from_numpy(truth))
        losses.append(float(loss))
    loss = float(experiment.trainer.callback_metrics["test/student/loss_strong"])
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("keep", [False, True])
def test_clips_of_any_length_are_validated_whole(config, checkpoint, tmp_path, any_length, keep):
    config["data"].update({f"synth_val_{part}": path for part, path in any_length[0].items()})
    config["data"]["keep_mels"] = keep
    experiment = build(config, coherence=False, log_dir=tmp_path / "again")
    experiment.module.load_state_dict(state_in(checkpoint))
    scores = experiment.trainer.validate(experiment.module, verbose=False)[0]
    assert scores["val/synth/student/event_f1_macro"] == 1.0


@pytest.mark.parametrize("samples", [36800, 16000 + 9 * 1024, 16000 + 9 * 1024 + 1023])
def test_long_recordings_are_their_windows_cross_faded(checkpoint, tmp_path, samples):
    detector = load_detector(checkpoint)
    frame, hop = 256 * 4, detector.encoder.n_frames // 2
    clip = noise(tmp_path / "a.wav", samples / 16000)
    result, seconds = posteriors_of(detector, clip)
    assert seconds == samples / 16000
    assert len(result) == np.ceil(samples / frame)
    audio, _ = soundfile.read(clip, dtype="float32")
    # The last window ends where the recording ends, give or take part of a frame: after it come
    # no zeros, which would be the quietest that minmax features hear.
    last = (len(audio) - 16000) // frame
    single = {
        start: detector.posteriors(audio[None, start * frame : start * frame + 16000])[0]
        for start in range(0, last, hop)
    }
    single[last] = detector.posteriors(audio[None, last * frame :])[0]
    for place in range(last + len(single[last])):
        covering = {
            start: values[place - start]
            for start, values in single.items()
            if start <= place < start + len(values)
        }
        weights = [
            min(place - start, len(single[start]) - 1 - place + start) + 0.5 for start in covering
        ]
        expected = np.average(list(covering.values()), axis=0, weights=weights)
        np.testing.assert_allclose(result[place], expected, atol=1e-6)
    # What is left of a frame is as the frame before it.
    np.testing.assert_allclose(result[-1], single[last][-1], atol=1e-6)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.0, 1.01])
def test_any_length(checkpoint, tmp_path, seconds):
    detector = load_detector(checkpoint)
    result, duration = posteriors_of(detector, noise(tmp_path / "a.wav", seconds))
    assert duration == pytest.approx(seconds)
    frame_seconds = detector.encoder.frame_seconds
    assert (len(result) - 1) * frame_seconds < seconds <= (len(result) + 1) * frame_seconds
    events = find_events(detector, result, duration, threshold=0.0)
    assert set(events["event_label"]) == set(detector.encoder.labels)
    assert events["offset"].max() <= duration


def test_the_confidence_is_the_mean_of_what_was_thresholded(checkpoint):
    detector = load_detector(checkpoint)
    frame = detector.encoder.frame_seconds
    posteriors = np.random.default_rng(0).random((40, 10)) ** 2
    events = find_events(detector, posteriors, 40 * frame, threshold=0.3, median_window=5)
    assert len(events) > 20
    assert set(events["event_label"]) > {"Dog", "Speech"}
    smoothed = ndimage.median_filter(posteriors, size=(5, 1))
    for event in events.itertuples():
        rows = slice(round(event.onset / frame), round(event.offset / frame))
        expected = smoothed[rows, detector.encoder.labels.index(event.event_label)].mean()
        assert event.confidence == pytest.approx(expected)
        assert event.confidence > 0.3


@given(
    length=st.integers(1, 100),
    cuts=st.lists(st.integers(0, 100), max_size=4),
    samples=st.integers(2, 30),
    data=st.data(),
)
def test_windows_hold_every_sample_once_and_in_place(length, cuts, samples, data):
    frame = data.draw(st.integers(1, samples))
    hop = frame * data.draw(st.integers(1, samples // frame))
    audio = np.arange(1, length + 1, dtype=float)
    blocks = np.split(audio, sorted(min(cut, length) for cut in cuts))
    *others, (last, window, real) = windows(blocks, samples, hop, frame)
    for number, (start, other, full) in enumerate(others):
        assert (start, full) == (number * hop, samples)
        np.testing.assert_array_equal(other, audio[start : start + samples])
    # No gap, and no window more than it takes.
    assert len(others) * hop >= last > (len(others) - 1) * hop
    assert last % frame == 0
    assert last + real == length
    assert real < samples + frame
    np.testing.assert_array_equal(window, np.pad(audio[last:], (0, max(samples - length, 0))))


def test_a_cross_fade_keeps_what_windows_agree_on():
    signal = np.random.default_rng(0).random((50, 3))
    parts = [signal[start : start + 20] for start in range(0, 31, 10)]
    # The last one may be anywhere, and of another length.
    np.testing.assert_allclose(cross_fade([*parts, signal[34:]], [0, 10, 20, 30, 34]), signal)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 16001])
def test_blocks_joined_are_the_recording_resampled(tmp_path, rate):
    path = noise(tmp_path / "a.wav", 0.73, rate, channels=2, subtype="FLOAT")
    audio = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    expected = resample(audio, rate, 16000)
    for seconds in (0.1, 0.25, 10):
        result = np.concatenate(list(read_blocks(path, 16000, seconds)))
        assert len(result) == len(expected)
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_formats(checkpoint, tmp_path, name):
    path = noise(tmp_path / name, 1.4, 44100, channels=2)
    result, seconds = posteriors_of(load_detector(checkpoint), path)
    # An mp3 holds whole blocks of samples.
    assert seconds == pytest.approx(1.4, abs=0.08)
    assert np.isfinite(result).all()


@pytest.mark.parametrize("name", ["missing", "text", "empty", "nan", "short"])
def test_broken_recordings_are_refused_in_one_sentence(checkpoint, tmp_path, name):
    path = tmp_path / f"{name}.wav"
    if name == "text":
        path.write_text("this is no audio")
    elif name != "missing":
        sound = {"empty": np.zeros(0), "nan": np.array([0.0, np.nan])}.get(name, np.zeros(16000))
        soundfile.write(path, sound, 16000, subtype="FLOAT")
        if name == "short":
            path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match=path.name) as error:
        posteriors_of(load_detector(checkpoint), path)
    assert "\n" not in str(error.value)


def test_checkpoints_of_lightning_1_2(checkpoint, tmp_path):
    clip = noise(tmp_path / "a.wav", 1)
    expected, _ = posteriors_of(load_detector(checkpoint), clip)
    # There the classes of the callbacks are the keys of their states.
    callbacks = {
        pl.callbacks.EarlyStopping: {"wait_count": 0, "best_score": torch.tensor(0.5)},
        pl.callbacks.ModelCheckpoint: {"best_model_path": "epoch=2.ckpt"},
    }
    change(checkpoint, callbacks=callbacks)
    result, _ = posteriors_of(load_detector(checkpoint), clip)
    np.testing.assert_array_equal(result, expected)


def test_checkpoints_of_later_recipes(config, checkpoint, tmp_path):
    clip = noise(tmp_path / "a.wav", 1)
    expected, _ = posteriors_of(load_detector(checkpoint, model="student"), clip)
    config["net"]["use_embeddings"] = False
    config["training"]["precision"] = 32
    change(checkpoint, hyper_parameters=config)
    with pytest.raises(InputError, match="--minmax_from"):
        load_detector(checkpoint)
    older = load_detector(checkpoint, model="student", minmax_from=0)
    np.testing.assert_array_equal(posteriors_of(older, clip)[0], expected)
    audio = soundfile.read(clip)[0][None]
    newer = load_detector(checkpoint, minmax_from=-1)
    for detector, low in ((older, 0), (newer, -1)):
        features = detector.features(audio)
        assert float(features.min()) == pytest.approx(low, abs=1e-6)
        assert float(features.max()) == pytest.approx(1, abs=1e-6)


def test_a_scaler_of_the_data_set_comes_from_the_checkpoint(config, checkpoint):
    config["scaler"].update(statistic="dataset", normtype="standard")
    change(checkpoint, hyper_parameters=config)
    with pytest.raises(InputError, match=r"scaler\.mean"):
        load_detector(checkpoint)
    statistics = {"scaler.mean": -20.0, "scaler.mean_squared": 500.0}
    of_set = {name: torch.full((1, 1, 1), value) for name, value in statistics.items()}
    change(checkpoint, state_dict={**state_in(checkpoint), **of_set})
    features = load_detector(checkpoint).scaler(torch.full((1, 4, 4), 10 - 20.0))
    torch.testing.assert_close(features, torch.ones(1, 4, 4))


def test_weights_that_are_not_finite_are_one_sentence(config, checkpoint, tmp_path):
    state = state_in(checkpoint)
    state["sed_student.dense.weight"][0, 0] = float("nan")
    change(checkpoint, state_dict=state)
    words = r"model\.ckpt holds weights that are not finite \(sed_student\.dense\.weight\)"
    with pytest.raises(InputError, match=words):
        load_detector(checkpoint)
    with pytest.raises(InputError, match=words):
        build(config, coherence=False, log_dir=tmp_path / "t", train=False).test(checkpoint)
    with pytest.raises(InputError, match=words):
        build(config, coherence=False, log_dir=tmp_path / "r", resume=checkpoint)


def test_the_prefixes_of_wrappers_are_taken_off_and_said(config, checkpoint, tmp_path, capsys):
    clip = noise(tmp_path / "a.wav", 1)
    expected, _ = posteriors_of(load_detector(checkpoint), clip)
    assert capsys.readouterr().err == ""
    state, wrapped = state_in(checkpoint), "module.{}._orig_mod.{}"
    change(checkpoint, state_dict={wrapped.format(*k.split(".", 1)): v for k, v in state.items()})
    result, _ = posteriors_of(load_detector(checkpoint), clip)
    np.testing.assert_array_equal(result, expected)
    assert capsys.readouterr().err.count("is taken off the names of the weights") == 1
    build(config, coherence=False, log_dir=tmp_path / "t", train=False).test(checkpoint)
    assert "is taken off" in capsys.readouterr().err


def test_a_student_alone(checkpoint):
    alone = {name: values for name, values in state_in(checkpoint).items() if "teacher" not in name}
    change(checkpoint, state_dict=alone)
    load_detector(checkpoint)
    with pytest.raises(InputError, match="holds student; give another --model"):
        load_detector(checkpoint, model="teacher")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"state_dict": None}, "holds no state_dict"),
        ({"state_dict": {"encoder.weight": torch.zeros(1)}}, "no sed_student or sed_teacher"),
        ({"hyper_parameters": None}, "--conf_file"),
        ({"hyper_parameters": {}}, "is not that of its settings"),
    ],
)
def test_other_checkpoints_are_refused_in_one_sentence(checkpoint, parts, words):
    change(checkpoint, **parts)
    with pytest.raises(InputError, match=words) as error:
        load_detector(checkpoint)
    assert "\n" not in str(error.value)


@pytest.fixture
def own(own_config_file, tmp_path):
    """A configuration of other classes than DESED's and a checkpoint of it."""
    config = load_config(own_config_file)
    module = build(config, coherence=False, log_dir=tmp_path / "own", train=False).module
    path = tmp_path / "own.ckpt"
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return config, path


def test_the_classes_are_those_of_the_checkpoint(own, own_classes):
    config, path = own
    # Wherever it is used: the table of its training is not there.
    Path(config["data"]["synth_tsv"]).unlink()
    detector = load_detector(path)
    assert detector.encoder.labels == own_classes
    assert detector.posteriors(np.zeros((1, 16000))).shape == (1, 15, 6)
    assert load_detector(path, config=config).encoder.labels == own_classes
    config["data"]["classes"] = [*own_classes[:-1], "rain"]
    with pytest.raises(InputError, match=r"own\.ckpt has the classes NA, .* rain") as error:
        load_detector(path, config=config)
    assert "\n" not in str(error.value)


def test_classes_that_a_checkpoint_does_not_name(own, own_classes, config, checkpoint):
    own_config, path = own
    # As an official recipe writes it.
    net = {**own_config["net"], "nclass": 6}
    change(path, hyper_parameters={"feats": own_config["feats"], "net": net})
    with pytest.raises(InputError, match="does not name its 6 classes; give a --conf_file"):
        load_detector(path)
    own_config["data"]["classes"] = own_classes[::-1]
    assert load_detector(path, config=own_config).encoder.labels == own_classes[::-1]
    # Ten are DESED's.
    assert load_detector(checkpoint).encoder.labels == list(CLASSES)
    config["data"]["classes"] = own_classes
    with pytest.raises(InputError, match=r"has the classes Alarm_bell_ringing, .* NA"):
        load_detector(checkpoint, config=config)
