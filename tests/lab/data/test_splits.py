"""Which clips a configuration's sets hold."""

import os
from pathlib import Path

import pytest

from lab.baseline.config import load_config
from lab.baseline.experiment import build
from lab.data.annotations import read_weak_tsv
from lab.data.datasets import StronglyAnnotatedSet, UnlabeledSet, WeakSet
from lab.data.labels import make_encoder
from lab.data.splits import make_test_set, training_sets
from lab.errors import InputError


@pytest.fixture
def config(config_file):
    return load_config(config_file)


def sets(config):
    return training_sets(config, make_encoder(config))


def names(clips):
    return [os.path.basename(path) for path in clips.files]


def test_three_sets_to_train_on_and_two_to_validate_on(config):
    train, valid = sets(config)
    assert [type(clips) for clips in train] == [StronglyAnnotatedSet, WeakSet, UnlabeledSet]
    assert [type(clips) for clips in valid] == [StronglyAnnotatedSet, WeakSet]
    assert [len(clips) for clips in (*train, *valid)] == [6, 6, 11, 3, 2]
    keys = ("synth_folder", "weak_folder", "unlabeled_folder", "synth_val_folder", "weak_folder")
    for clips, key in zip((*train, *valid), keys):
        assert {str(Path(path).parent) for path in clips.files} == {config["data"][key]}
    # The names tell a validation which clip it scores.
    assert [len(clips[0]) for clips in (*train, *valid)] == [3, 3, 3, 4, 4]
    assert all(clips[0][0].shape == (16000,) for clips in (*train, *valid))


def test_weak_clips_are_split_at_random_by_the_seed(config):
    chosen, rest = ([names(sets(config)[i][1]) for _ in range(2)] for i in (0, 1))
    assert chosen[0] == chosen[1]
    assert set(chosen[0]).isdisjoint(rest[0])
    table = read_weak_tsv(config["data"]["weak_tsv"])
    assert sorted(chosen[0] + rest[0]) == sorted(table["filename"])
    others = set()
    for seed in range(5):
        config["training"]["seed"] = seed
        others.add(tuple(names(sets(config)[1][1])))
    assert len(others) > 1


def test_a_set_without_a_share_of_the_batch_is_not_needed(config, tmp_path):
    config["training"]["batch_size"] = [2, 0, 0]
    for key in ("weak_tsv", "weak_folder", "unlabeled_folder"):
        config["data"][key] = str(tmp_path / "nowhere")
    train, valid = sets(config)
    assert train[1:] == [None, None]
    assert [type(clips) for clips in valid] == [StronglyAnnotatedSet]


@pytest.mark.parametrize("key", ["synth_val_tsv", "test_tsv"])
def test_a_table_without_clips_to_score_is_named(config, tmp_path, key):
    nothing = tmp_path / "nothing.tsv"
    nothing.write_text("filename\tonset\toffset\tevent_label\n")
    config["data"][key] = str(nothing)
    with pytest.raises(InputError, match=rf"data\.{key}: .*nothing\.tsv names no clip"):
        build(config, coherence=False, log_dir=tmp_path / "run")


def test_labelled_clips_to_test_on(config, tmp_path):
    clips = make_test_set(config, make_encoder(config), evaluation=False)
    assert names(clips) == ["0.wav", "1.wav", "2.wav"]
    assert clips[1][1].sum() > 0
    config["data"]["test_dur"] = str(tmp_path / "nowhere.tsv")
    with pytest.raises(InputError, match=r"nowhere\.tsv does not exist"):
        make_test_set(config, make_encoder(config), evaluation=False)


def test_clips_of_the_evaluation_are_whole_and_need_no_labels(config, tmp_path):
    for key in ("test_tsv", "test_dur", "test_folder"):
        config["data"][key] = str(tmp_path / "nowhere")
    clips = make_test_set(config, make_encoder(config), evaluation=True)
    assert names(clips) == ["a.wav", "b.wav"]
    assert [len(clips[index][0]) for index in (0, 1)] == [16000, 20800]
    assert clips[0][-1].endswith("a.wav")
