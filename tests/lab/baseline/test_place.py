"""Where a configuration's data are: given, named in it, or generated."""

import copy
import multiprocessing
from pathlib import Path

import filelock
import numpy as np
import pytest
import soundfile
import yaml

from lab.baseline import place
from lab.baseline.config import load_config
from lab.baseline.place import place_data
from lab.data.desed import CLASSES, official_layout
from lab.errors import InputError


@pytest.fixture
def config(config_file):
    return load_config(config_file)


@pytest.fixture
def described(config):
    """A configuration that describes clips."""
    config["soundscapes"].update(strong=3, validation=1, test=2, seed=4, processes=1)
    return config


@pytest.fixture
def generated(monkeypatch):
    """What would have been generated: the arguments of each call."""
    calls = []

    def generate(out, **settings):
        assert Path(f"{calls[0][0] if calls else out}.lock").exists()
        calls.append((out, settings))
        return Path(out)

    monkeypatch.setattr(place, "generate", generate)
    return calls


def test_a_folder_that_is_given_takes_the_place_of_all_paths(described, tmp_path, generated):
    place_data(described, tmp_path, tmp_path / "clips")
    assert official_layout(tmp_path).items() <= described["data"].items()
    assert described["data"]["audio_max_len"] == 1
    assert not generated


def test_a_folder_that_does_not_exist_is_named(config, tmp_path):
    before = copy.deepcopy(config)
    with pytest.raises(InputError, match=r"--data is \S+nowhere, which is no folder"):
        place_data(config, tmp_path / "nowhere", tmp_path / "clips")
    assert config == before


def test_without_a_folder_the_paths_are_the_configurations(config, tmp_path, generated):
    before = copy.deepcopy(config)
    place_data(config, None, tmp_path / "clips")
    before["data"]["classes"] = list(CLASSES)
    assert config == before
    assert not generated
    assert not (tmp_path / "clips.lock").exists()


def test_described_clips_are_generated(described, tmp_path, generated):
    out = tmp_path / "new" / "clips"
    place_data(described, None, out, progress=False)
    assert generated == [(out, {**described["soundscapes"], "progress": False})]
    assert described["data"]["synth_folder"] == official_layout(out)["synth_folder"]


def test_a_few_clips_are_a_set_of_their_own(described, tmp_path, generated):
    described["soundscapes"].update(strong=place.FEW + 1, weak=5)
    place_data(described, None, tmp_path / "clips", public=True, few=True)
    (folder, few), (public, second) = generated
    assert (folder, public) == (f"{tmp_path / 'clips'}_few", f"{tmp_path / 'clips'}_few_public")
    assert [few[kind] for kind in place.KINDS] == [place.FEW, 5, 0, 1, 2]
    assert [second[kind] for kind in place.KINDS] == [0, 0, 0, 0, 2]
    assert described["data"]["synth_folder"] == official_layout(folder)["synth_folder"]


def test_the_public_set_is_a_second_test_set_of_another_seed(described, tmp_path, generated):
    place_data(described, None, tmp_path / "clips", public=True)
    folder, settings = generated[1]
    assert folder == f"{tmp_path / 'clips'}_public"
    counts = ("strong", "weak", "unlabelled", "validation", "test")
    assert [settings[name] for name in counts] == [0, 0, 0, 0, 2]
    assert (settings["seed"], settings["processes"]) == (5, 1)
    for part in ("folder", "tsv", "dur"):
        assert described["data"][f"public_{part}"] == official_layout(folder)[f"test_{part}"]
        assert described["data"][f"test_{part}"].startswith(str(tmp_path / "clips/"))


@pytest.mark.slow
def test_a_process_waits_for_another_that_generates(described, tmp_path, generated):
    with filelock.FileLock(f"{tmp_path / 'clips'}.lock"):
        second = multiprocessing.get_context("fork").Process(
            target=place_data, args=(described, None, tmp_path / "clips")
        )
        second.start()
        second.join(0.3)
        assert second.is_alive()
    second.join(60)
    assert second.exitcode == 0


@pytest.mark.slow
def test_a_second_test_set_is_made_of_other_clips(config_file, tmp_path):
    counts = {"soundscapes.strong": 1, "soundscapes.test": 2, "soundscapes.processes": 1}
    config = load_config(config_file, counts)
    place_data(config, None, tmp_path / "clips", public=True, progress=False)
    tables = [Path(config["data"][f"{name}_tsv"]).read_text() for name in ("test", "public")]
    assert tables[0] != tables[1]
    for name in ("test", "public"):
        assert len(list(Path(config["data"][f"{name}_folder"]).glob("*.wav"))) == 2


COUNTS = {"strong": 4, "weak": 0, "unlabelled": 0, "validation": 1, "test": 1}


@pytest.fixture
def own(tmp_path):
    """A table, a folder, and a configuration that describes a data set."""
    table, folder, file = (tmp_path / n for n in ("own.tsv", "own_16k", "conf.yaml"))
    table.write_text("filename\tonset\toffset\tevent_label\n")
    folder.mkdir()
    file.write_text(yaml.safe_dump({"soundscapes": COUNTS}))
    return {"data.test_tsv": str(table), "data": {"test_folder": str(folder)}}, file


@pytest.mark.parametrize("generates", [False, True])
def test_what_is_set_wins_over_the_layout(own, tmp_path, dataset, generates):
    overrides, file = own
    config = load_config(file, overrides)
    place = None if generates else dataset
    place_data(config, place, tmp_path / "clips", overrides, progress=False)
    given = {
        "test_tsv": overrides["data.test_tsv"],
        "test_folder": overrides["data"]["test_folder"],
    }
    expected = {**official_layout(tmp_path / "clips" if generates else dataset), **given}
    assert {key: config["data"][key] for key in expected} == expected


def test_what_is_set_wins_over_a_generated_public_set(own, tmp_path):
    overrides, file = own
    public = {"data.public_tsv": overrides["data.test_tsv"]}
    config = load_config(file, public)
    place_data(config, None, tmp_path / "clips", public, public=True, progress=False)
    assert config["data"]["public_tsv"] == public["data.public_tsv"]
    assert config["data"]["public_dur"] == official_layout(tmp_path / "clips_public")["test_dur"]


@pytest.mark.parametrize(
    ("key", "kind"), [("test_tsv", "file"), ("weak_folder", "folder"), ("synth_val_dur", "file")]
)
def test_a_path_that_does_not_exist_is_refused_before_any_work(own, tmp_path, key, kind):
    _, file = own
    for path in (tmp_path / "none", file if kind == "folder" else tmp_path):
        override = {f"data.{key}": str(path)}
        config = load_config(file, override)
        with pytest.raises(InputError, match=rf"^data\.{key} is {path}, .* no such {kind};"):
            place_data(config, None, tmp_path / "clips", override, progress=False)
    assert not (tmp_path / "clips").exists()


def test_classes_follow_the_data(own_config_file, own_classes, own_dataset, tmp_path):
    config = load_config(own_config_file)
    place_data(config, own_dataset, tmp_path / "clips")
    assert (config["data"]["classes"], config["net"]["nclass"]) == (own_classes, 6)


def bank_of(folder, classes):
    for name in (*(f"foreground/{label}" for label in classes), "background/room"):
        (folder / name).mkdir(parents=True)
        soundfile.write(folder / name / "a.wav", np.full(8000, 0.1), 16000)
    return str(folder)


def test_generated_clips_have_the_classes_of_the_soundbank(
    described, generated, own_classes, tmp_path
):
    bank = bank_of(tmp_path / "bank", own_classes)
    described["soundscapes"]["soundbank"] = bank
    named = copy.deepcopy(described)
    place_data(described, None, tmp_path / "clips")
    # Not all of them need to occur in the few clips that are asked for.
    assert (described["data"]["classes"], described["net"]["nclass"]) == (own_classes, 6)
    named["data"]["classes"] = own_classes[:-1]
    with pytest.raises(InputError, match=r"bank would give clips with the class 'siren', which is"):
        place_data(named, None, tmp_path / "other")
    named["soundscapes"]["soundbank"] = None
    with pytest.raises(InputError, match=r"parametric sounds would give .* 'Alarm_bell_ringing'"):
        place_data(named, None, tmp_path / "other")
    assert len(generated) == 1
