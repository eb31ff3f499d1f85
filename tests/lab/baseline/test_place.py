"""Where a configuration's data are: given, named in it, or generated."""

import copy
import multiprocessing
from pathlib import Path

import filelock
import numpy as np
import pytest
import soundfile

from lab.baseline import place
from lab.baseline.config import load_config
from lab.baseline.place import place_data
from lab.data.desed import CLASSES, official_layout
from lab.errors import InputError

PARTS = ("folder", "tsv", "dur")


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


def test_without_a_folder_the_paths_are_the_configurations(config, tmp_path, generated):
    before = copy.deepcopy(config)
    place_data(config, None, tmp_path / "clips")
    before["data"]["classes"] = list(CLASSES)
    assert config == before
    assert not generated
    assert not (tmp_path / "clips.lock").exists()


@pytest.mark.parametrize("few", [False, True])
def test_described_clips_are_generated_and_a_second_test_set(described, tmp_path, generated, few):
    described["soundscapes"].update(strong=place.FEW + 1, weak=5)
    place_data(described, None, tmp_path / "new" / "clips", public=True, few=few, progress=False)
    (folder, first), (public, second) = generated
    expected = f"{tmp_path / 'new' / 'clips'}{'_few' * few}"
    assert (str(folder), public) == (expected, f"{expected}_public")
    requests = {**described["soundscapes"], "progress": False}
    requests["strong"] -= few
    assert first == requests
    assert [second[kind] for kind in place.KINDS] == [0, 0, 0, 0, 2]
    assert second["seed"] == 5
    data = described["data"]
    assert data["synth_folder"] == official_layout(folder)["synth_folder"]
    for part in PARTS:
        assert data[f"public_{part}"] == official_layout(public)[f"test_{part}"]
        assert data[f"test_{part}"] == official_layout(folder)[f"test_{part}"]


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


@pytest.mark.parametrize("generates", [False, True])
def test_what_is_set_wins_over_the_layout(config_file, tmp_path, dataset, generated, generates):
    table, folder = tmp_path / "own.tsv", tmp_path / "own_16k"
    table.write_text("filename\tonset\toffset\tevent_label\n")
    folder.mkdir()
    inputs = {"public_tsv": str(table), "test_folder": str(folder)}
    counts = {"strong": 4, "test": 1}
    config = load_config(config_file, {"data": inputs}, {"soundscapes": counts})
    root = tmp_path / "clips" if generates else dataset
    place_data(config, None if generates else dataset, root, {"data": inputs}, public=True)
    assert len(generated) == 2 * generates
    expected = {**official_layout(root), **inputs}
    if generates:
        expected["public_dur"] = official_layout(f"{root}_public")["test_dur"]
    for key in ("test_tsv", "public_dur", *inputs):
        assert config["data"][key] == expected[key]


@pytest.mark.parametrize(("key", "kind"), [("test_tsv", "file"), ("weak_folder", "folder")])
def test_a_path_that_does_not_exist_is_refused_before_any_work(
    config_file, tmp_path, generated, key, kind
):
    for path in (tmp_path / "none", config_file if kind == "folder" else tmp_path):
        override = {f"data.{key}": str(path)}
        config = load_config(config_file, override, {"soundscapes.strong": 4})
        with pytest.raises(InputError, match=rf"^data\.{key} is {path}, .* no such {kind};"):
            place_data(config, None, tmp_path / "clips", override)
    with pytest.raises(InputError, match=r"--data is \S+nowhere, which is no folder"):
        place_data(load_config(config_file), tmp_path / "nowhere", tmp_path / "clips")
    assert not generated


def test_classes_follow_the_data(own_config_file, own_classes, own_dataset, tmp_path):
    config = load_config(own_config_file)
    place_data(config, own_dataset, tmp_path / "clips")
    assert (config["data"]["classes"], config["net"]["nclass"]) == (own_classes, 6)


def test_generated_clips_have_the_classes_of_the_soundbank(
    described, generated, own_classes, tmp_path
):
    bank = tmp_path / "bank"
    for name in (*(f"foreground/{label}" for label in own_classes), "background/room"):
        (bank / name).mkdir(parents=True)
        soundfile.write(bank / name / "a.wav", np.full(8000, 0.1), 16000)
    described["soundscapes"]["soundbank"] = str(bank)
    named = copy.deepcopy(described)
    place_data(described, None, tmp_path / "clips")
    # Not all of them need to occur in the few clips that are asked for.
    assert (described["data"]["classes"], described["net"]["nclass"]) == (own_classes, 6)
    named["data"]["classes"] = own_classes[:-1]
    for sounds, label in ((str(bank), "siren"), (None, "Alarm_bell_ringing")):
        named["soundscapes"]["soundbank"] = sounds
        with pytest.raises(InputError, match=f"would give clips with the class '{label}'"):
            place_data(named, None, tmp_path / "other")
    assert len(generated) == 1
