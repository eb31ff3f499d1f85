"""Which classes there are, and that nobody takes one set of them for another."""

import copy
from pathlib import Path

import pytest

from lab.baseline.config import load_config
from lab.data.classes import (
    classes_of,
    classes_of_table,
    in_order,
    refuse_other_classes,
    settle_classes,
)
from lab.data.desed import CLASSES
from lab.data.labels import make_encoder
from lab.data.splits import make_test_set, training_sets
from lab.errors import InputError

HEAD = "filename\tonset\toffset\tevent_label\n"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (CLASSES, CLASSES),
        (["Speech", "Cat"], CLASSES),
        ([], CLASSES),
        (["siren", "Wolf", "Dog"], ["Dog", "Wolf", "siren"]),
        # As before a misspelled class of DESED's is no class: its line is named when it is read.
        (["Dog", "Speech", "Vaccum_cleaner"], CLASSES),
        (["Dog", "speech"], CLASSES),
        # Without any of DESED's there is nothing to be misspelled.
        (["speech"], ["speech"]),
    ],
)
def test_desed_s_order_for_desed_s_names_and_sorted_others(names, expected):
    assert in_order(names) == list(expected)


def test_a_table_tells_its_classes(tmp_path):
    table = tmp_path / "events.tsv"
    assert classes_of_table(table) is None
    table.write_text(f"{HEAD}a.wav\t0\t1\tsiren\nb.wav\t\t\t\na.wav\t1\t2\tdrill\n")
    assert classes_of_table(table) == ["drill", "siren"]
    table.write_text(f"{HEAD}a.wav\t0\t1\tsiren,drill\n")
    with pytest.raises(InputError, match=r"line 2: the class 'siren,drill' has a comma in it"):
        classes_of_table(table)


def test_a_configuration_names_its_classes_or_its_table_does(
    own_config_file, own_classes, config_file
):
    assert classes_of(load_config(config_file)) == list(CLASSES)
    config = load_config(own_config_file)
    assert classes_of(config) == own_classes
    named = load_config(own_config_file, {"data": {"classes": [*own_classes[::-1], "rain"]}})
    assert classes_of(named) == [*own_classes[::-1], "rain"]
    config["data"]["synth_tsv"] = "/nowhere.tsv"
    assert classes_of(config) is None
    assert make_encoder(config).labels == list(CLASSES)


def test_settled_classes_bring_their_number(own_config_file, own_classes):
    config = load_config(own_config_file)
    settle_classes(config)
    assert (config["data"]["classes"], config["net"]["nclass"]) == (own_classes, 6)
    before = copy.deepcopy(config)
    settle_classes(config)
    assert config == before
    config["net"]["nclass"] = 7
    with pytest.raises(InputError, match=r"net\.nclass is 7 and there are 6 classes \(NA"):
        settle_classes(config)


@pytest.mark.parametrize("key", ["synth_val_tsv", "weak_tsv", "test_tsv"])
def test_a_class_that_one_table_alone_has_is_named_with_its_line(own_config_file, key):
    config = load_config(own_config_file)
    encoder = make_encoder(config)
    table = Path(config["data"][key])
    text = table.read_text()
    table.write_text(text.replace("siren", "rain"))
    line = 1 + next(i for i, row in enumerate(text.splitlines()) if "siren" in row)
    sentence = rf"{table.name}, line {line}: the class 'rain' is unknown; .*none, siren \(data\.cl"
    with pytest.raises(InputError, match=sentence):
        training_sets(config, encoder), make_test_set(config, encoder, evaluation=False)


def test_other_classes_are_refused_by_name():
    refuse_other_classes("it", ["a", "b"], ["a", "b"])
    refuse_other_classes("it", None, ["a", "b"])
    with pytest.raises(InputError, match=r"^it has the classes a, b, and here they are a, c; set"):
        refuse_other_classes("it", ["a", "b"], ["a", "c"])
    with pytest.raises(InputError, match="here they are, in another order, b, a; set data"):
        refuse_other_classes("it", ["a", "b"], ["b", "a"])
