"""Which paths a configuration ends up with."""

import pytest
import yaml

from dcase_coherence.baseline.config import load_config
from dcase_coherence.baseline.place import place_data
from dcase_coherence.data.desed import official_layout
from dcase_coherence.system.errors import InputError

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
