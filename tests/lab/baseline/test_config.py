"""Every key and type of a configuration, checked."""

import inspect
from pathlib import Path

import pytest
import yaml
from damage import damaged, fuzz, read_or_refuse
from hypothesis import given
from hypothesis import strategies as st

from dcase_coherence.settings import DEFAULTS, Settings
from lab.baseline.config import SCHEMA, load_config
from lab.baseline.crnn import CRNN
from lab.data.desed import official_layout
from lab.errors import InputError
from lab.soundscapes import generate

RECIPES = Path(__file__).parents[3] / "recipes" / "confs"


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "sed.yaml"
        text = content if isinstance(content, (str, bytes)) else yaml.safe_dump(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_an_empty_file_is_the_official_configuration(write):
    config = load_config(write(""))
    assert set(config) == set(SCHEMA)
    assert config["training"]["batch_size"] == [12, 12, 24]
    assert config["net"]["nb_filters"] == [16, 32, 64, 128, 128, 128, 128]
    assert config["coherence"] == DEFAULTS
    assert sum(p.numel() for p in CRNN(**config["net"]).parameters()) == 1112420
    assert len(Settings(config["coherence"]).build(CRNN(**config["net"]))) == 1


def test_a_preset_goes_behind_the_keys_beside_it_and_before_those_of_the_layers_below(write):
    path = write({"coherence": {"preset": "steps", "alpha1": 0.2, "path": "cnn.cnn"}})
    steps = load_config(path)["coherence"]
    assert "preset" not in steps
    assert (steps["alpha1"], steps["alpha2"], steps["lags"]) == (0.2, 0.3, [1, 2, 4, 8])
    exact = load_config(path, {"coherence.preset": "exact", "coherence.alpha2": 0.01})["coherence"]
    assert exact == {**DEFAULTS, "alpha1": 0.1, "alpha2": 0.01, "path": "cnn.cnn"}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_configurations_load(path):
    config = load_config(path)
    CRNN(**config["net"])


def test_file_and_overrides(write):
    path = write({"training": {"seed": 1, "n_epochs": 5}})
    overrides = {"training.seed": 2, "data": official_layout("/d"), "opt": {"lr": 0.1}}
    config = load_config(path, overrides)
    assert config["training"]["seed"] == 2
    assert config["training"]["n_epochs"] == 5
    assert config["opt"]["lr"] == 0.1
    assert config["data"]["weak_folder"] == "/d/audio/train/weak_16k"
    assert config["data"]["fs"] == 16000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"trainning": {}}, "'trainning' is unknown; did you mean 'training'"),
        ({"training": {"sead": 1}}, "'sead' is unknown; did you mean 'seed'"),
        ({"training": {"qqq": 1}}, "there are: batch_size"),
        ({"training": [1]}, "give it keys and values"),
        ({"training": {"seed": "1"}}, "training.seed is '1'.*write 1.0"),
        ({"training": {"seed": True}}, "training.seed is True"),
        ({"training": {"seed": -1}}, "training.seed is -1"),
        ({"training": {"batch_size": [12, 12]}}, r"\[strong, weak, unlabelled\]"),
        ({"training": {"batch_size": [0, 12, 24]}}, r"training.batch_size is \[0, 12, 24\]"),
        ({"training": {"ema_factor": 1.5}}, "from 0 to 1"),
        ({"training": {"mixup": "firm"}}, "one of soft, hard, or empty"),
        ({"training": {"val_thresholds": [0.4]}}, "must contain 0.5"),
        ({"training": {"control": {"other": 1}}}, "training.control is"),
        ("opt: {lr: 1e-3}", r"opt.lr is '1e-3'.*write 0.001"),
        ("opt: {lr: .nan}", "a number above 0"),
        ({"training": {"n_epochs": 1, "validation_interval": 2}}, "validation_interval is 2"),
        ({"opt": {"decay_factor": 0.8}}, "opt.decay_epochs is None"),
        ({"opt": {"schedule": "cosine", "decay_factor": 1, "decay_epochs": 1}}, "give one of them"),
        ({"opt": {"schedule": "cosine"}, "training": {"n_epochs": 50}}, "n_epochs_warmup is 50"),
        ({"training": {"time_shift": 11}}, "training.time_shift is 11"),
        ({"training": {"frequency_mask": 128}}, "training.frequency_mask is 128"),
        ({"scaler": {"statistic": "dataset"}}, "scaler.normtype is 'minmax'"),
        ({"net": {"pooling": [[2, 2]] * 6}}, "give one entry for each block"),
        ({"net": {"pooling": [[2, 2]] * 2 + [[1, 1]] * 5}}, "32 bands are left"),
        ({"net": {"pooling": [2] * 7}}, "pairs"),
        ({"net": {"rnn_layers": 3}}, "give net.n_layers_RNN: 3"),
        ({"feats": {"n_mels": 64}}, "feats.n_mels is 64"),
        ({"feats": {"f_max": 9000}}, "feats.f_max is 9000"),
        ({"feats": {"sample_rate": 44100}}, "data.fs is 16000"),
        ({"data": {"net_subsample": 8}}, "net_subsample is 8; net.pooling pools 4"),
        (
            {"data": {"net_subsample": 1}, "net": {"pooling": [[1, 2]] * 7}},
            "the network gives 626 frames a clip and the labels 625",
        ),
        ({"data": {"audio_max_len": 0.1}}, "data.audio_max_len is 0.1"),
        ({"data": {"classes": ["Dog", True]}}, "names of classes .in quotes where"),
        ({"data": {"classes": ["siren", "rain", "siren"]}}, "'siren' comes twice"),
        ({"data": {"classes": ["caf\u00e9", "cafe\u0301"]}}, "'caf\u00e9' comes twice"),
        ({"data": {"classes": ["siren, far"]}}, "'siren, far'"),
        ({"data": {"classes": ["nan"]}}, "'nan'"),
        ({"data": {"classes": ["siren", "rain"]}, "net": {"nclass": 3}}, "net.nclass is 3"),
        ({"coherence": {"preset": ["steps"]}}, "preset is"),
        ({"coherence": {"alpha1": -1}}, "alpha1 is -1"),
        ({"coherence": {"pseudo": {}}}, "'pseudo' is unknown"),
        ("- a", "holds no sections"),
        ("training: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        (b"\xff\xfe\x00", "sed.yaml"),
    ],
)
def test_bad_configurations_are_refused_in_one_sentence(write, content, words):
    with pytest.raises(InputError, match=words) as error:
        load_config(write(content))
    assert "sed.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_overrides_and_paths_are_named(write, tmp_path):
    with pytest.raises(InputError, match="override, training: the key 'sead'"):
        load_config(write(""), {"training.sead": 1})
    with pytest.raises(InputError, match=r"write section\.key"):
        load_config(write(""), {"seed": 1})
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)


def test_the_number_of_outputs_follows_the_classes(write):
    named = {"data": {"classes": ["siren", "rain"]}}
    for more in ({}, {"net": {"nclass": 2}}):
        assert load_config(write(named), more)["net"]["nclass"] == 2


def test_the_soundscapes_section_takes_the_arguments_of_generate():
    arguments = set(inspect.signature(generate).parameters) - {"out", "progress"}
    assert set(SCHEMA["soundscapes"]) == arguments


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KEYS = st.sampled_from([(section, key) for section, keys in SCHEMA.items() for key in keys])
TRAPS = [
    b"training:\n  batch_size: &a [*a, 1, 2]\n",
    b"a: &a [x, x]\n<<: *a\n",
    b"? [1, 2]\n: 3\n",
    b"training:\n  seed: 2001-99-99\n",
    b"training:\n  seed: -0x" + b"f" * 5000,
    b"opt:\n  lr: 1" + b"0" * 400,
    b"[" * 3000,
    b"%YAML 9.9\n---\n{}",
    b"--- 1\n--- 2\n",
    b"opt: {lr: .inf}\n",
    b"net: {n_in_channel: 1.0}\n",
]


@st.composite
def sections(draw):
    content = {}
    for section, key in draw(st.lists(KEYS, max_size=4)):
        content.setdefault(section, {})[key] = draw(st.just(SCHEMA[section][key][1]) | VALUES)
    return yaml.safe_dump(content).encode("utf-8", "surrogatepass")


@fuzz
@given(content=sections() | damaged(TRAPS) | st.sampled_from(TRAPS) | st.binary(max_size=200))
def test_whatever_a_configuration_holds_each_key_is_sound_or_refused(tmp_path, content):
    config = read_or_refuse(load_config, tmp_path / "conf.yaml", content)
    if config is not None:
        assert {name: set(keys) for name, keys in config.items()} == {
            name: set(keys) for name, keys in SCHEMA.items()
        }
        for section, keys in SCHEMA.items():
            for key, (kind, default) in keys.items():
                assert kind.test(config[section][key]) or config[section][key] == default
