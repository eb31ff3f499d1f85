"""The configuration: the official YAML keys, each checked, with the official values as defaults."""

from __future__ import annotations

import copy
import difflib
import math
import reprlib
import sys
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import yaml

from dcase_coherence.settings import DEFAULTS as COHERENCE
from dcase_coherence.settings import Settings, preset_laid_out
from lab.baseline.controls import CONTROLS
from lab.data.annotations import wrong_name
from lab.data.classes import check_number
from lab.data.desed import official_layout
from lab.errors import InputError
from lab.files import PathLike, one_spelling


class Kind(NamedTuple):
    """What a value must be: in words, and as a test."""

    words: str
    test: Callable[[Any], bool]


def _whole(least: int) -> Kind:
    return Kind(
        f"a whole number of at least {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def _number(words: str, fits: Callable[[float], bool]) -> Kind:
    most = sys.float_info.max  # isfinite fails for an integer beyond any float
    return Kind(
        f"a number {words}",
        lambda value: (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and -most <= value <= most
            and fits(value)
        ),
    )


def _list_of(kind: Kind, words: str, length: int | None = None) -> Kind:
    return Kind(
        words,
        lambda value: (
            isinstance(value, list)
            and bool(value)
            and (length is None or len(value) == length)
            and all(kind.test(item) for item in value)
        ),
    )


def _choice(*options: str) -> Kind:
    return Kind(f"one of {', '.join(options)}", lambda value: value in options)


def _or_empty(kind: Kind) -> Kind:
    return Kind(f"{kind.words}, or empty", lambda value: value is None or kind.test(value))


COUNT, WHOLE = _whole(1), _whole(0)
POSITIVE = _number("above 0", lambda value: value > 0)
NOT_NEGATIVE = _number("of at least 0", lambda value: value >= 0)
SHARE = _number("from 0 to 1", lambda value: 0 <= value <= 1)
PROBABILITY = _number("from 0 to below 1", lambda value: 0 <= value < 1)
DENSITY = _number("from 1 to 3", lambda value: 1 <= value <= 3)
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
TEACHER = Kind(
    "true, false or average", lambda value: isinstance(value, bool) or value == "average"
)
TEXT = Kind("a text", lambda value: isinstance(value, str) and bool(value))
NAMES = _list_of(
    TEXT, "a list of one or more names of classes (in quotes where YAML reads another thing)"
)
COUNTS = _list_of(COUNT, "a list of whole numbers of at least 1")
WHOLES = _list_of(WHOLE, "a list of whole numbers of at least 0")
DIMS = _list_of(Kind("1 or 2", lambda value: value in (1, 2)), "a list of 1 (mels) and 2 (frames)")
ANYTHING = Kind("any value", lambda value: True)
PAIRS = _list_of(_list_of(COUNT, "", 2), "a list of pairs [time, frequency] of whole numbers")
CONTROL = Kind(
    f"one of {', '.join(CONTROLS)} with a number above 0, as {{positive: 2}}",
    lambda value: (
        isinstance(value, dict)
        and len(value) == 1
        and all(name in CONTROLS and POSITIVE.test(size) for name, size in value.items())
    ),
)


#: Every key with what it must be and its default: the value of the official `confs/sed.yaml`.
SCHEMA: dict[str, dict[str, tuple[Kind, Any]]] = {
    "training": {
        "batch_size": (_list_of(WHOLE, "[strong, weak, unlabelled], whole", 3), [12, 12, 24]),
        "batch_size_val": (COUNT, 24),
        "const_max": (NOT_NEGATIVE, 2),
        "n_epochs_warmup": (WHOLE, 50),
        "num_workers": (WHOLE, 6),
        "n_epochs": (COUNT, 200),
        # Ours: least number of optimizer steps in all: where the clips are few an epoch goes
        # through them several times. 0 leaves it at once.
        "min_steps": (WHOLE, 0),
        "early_stop_patience": (COUNT, 200),
        "accumulate_batches": (COUNT, 1),
        "gradient_clip": (NOT_NEGATIVE, 0.0),
        "median_window": (COUNT, 7),
        "val_thresholds": (_list_of(SHARE, "a list of numbers from 0 to 1"), [0.5]),
        "n_test_thresholds": (COUNT, 50),
        "ema_factor": (SHARE, 0.999),
        "self_sup_loss": (_choice("mse", "bce"), "mse"),
        "backend": (_or_empty(_choice("ddp")), None),
        "validation_interval": (COUNT, 1),
        "weak_split": (SHARE, 0.9),
        "seed": (WHOLE, 42),
        "mixup": (_or_empty(_choice("soft", "hard")), "soft"),
        "obj_metric_synth_type": (_or_empty(_choice("event", "intersection")), "intersection"),
        # Ours: false trains the student alone, on strong and weak labels; so does average, whose
        # teacher is the moving average of the student, statistics included, and is what is tested.
        "teacher": (TEACHER, True),
        # Ours: "test" chooses the epoch on the test set, as the paper's Table 1 does; empty is the
        # baseline's choice on synth_val_*.
        "select_on": (_or_empty(_choice("test")), None),
        # Ours: another strong loss, to tell what the term does from what it does.
        "control": (_or_empty(CONTROL), None),
        # Ours: of the loss of weak labels; a few clips a batch give noisy gradients.
        "weak_weight": (NOT_NEGATIVE, 1),
        # Ours: augmentation of the training's clips; 0 leaves it out.
        "time_shift": (NOT_NEGATIVE, 0),  # circular, in seconds
        "gain": (NOT_NEGATIVE, 0),  # standard deviation, in dB
        "frequency_mask": (WHOLE, 0),  # mel bands
    },
    "scaler": {
        "statistic": (_choice("instance", "dataset"), "instance"),
        "normtype": (_choice("minmax", "standard", "mean"), "minmax"),
        "dims": (DIMS, [1, 2]),
        "savepath": (_or_empty(TEXT), "./scaler.ckpt"),
    },
    "data": {
        **{
            name: (TEXT, path) for name, path in official_layout("../../data/dcase/dataset").items()
        },
        "audio_max_len": (POSITIVE, 10),
        "fs": (COUNT, 16000),
        "net_subsample": (COUNT, 4),
        # Ours: the classes, in the order of the outputs; empty for those of the table synth_tsv.
        "classes": (_or_empty(NAMES), None),
        # Ours: make the mel spectrogram of each clip once and keep it in memory.
        "keep_mels": (BOOLEAN, False),
    },
    "opt": {
        "lr": (POSITIVE, 0.001),
        # Ours: the paper's Table 1 multiplies the rate by 0.8 every 5 epochs.
        "decay_factor": (_or_empty(SHARE), None),
        "decay_epochs": (_or_empty(COUNT), None),
        # Ours: after the warm-up the rate falls to 0, which it reaches at n_epochs.
        "schedule": (_or_empty(_choice("cosine")), None),
    },
    "feats": {
        "n_mels": (COUNT, 128),
        "n_filters": (COUNT, 2048),
        "hop_length": (COUNT, 256),
        "n_window": (COUNT, 2048),
        "sample_rate": (COUNT, 16000),
        "f_min": (NOT_NEGATIVE, 0),
        "f_max": (POSITIVE, 8000),
    },
    "net": {
        "dropout": (PROBABILITY, 0.5),
        "rnn_layers": (_or_empty(COUNT), None),
        "n_layers_RNN": (COUNT, 2),
        "n_in_channel": (Kind("1", lambda value: value == 1), 1),
        "nclass": (COUNT, 10),
        "attention": (BOOLEAN, True),
        "n_RNN_cell": (COUNT, 128),
        "activation": (_choice("glu", "relu", "leakyrelu"), "glu"),
        "rnn_type": (_choice("BGRU"), "BGRU"),
        "kernel_size": (COUNTS, [3] * 7),
        "padding": (WHOLES, [1] * 7),
        "stride": (COUNTS, [1] * 7),
        "nb_filters": (COUNTS, [16, 32, 64, 128, 128, 128, 128]),
        "pooling": (PAIRS, [[2, 2], [2, 2], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2]]),
        "normalization": (_choice("batch", "layer"), "batch"),
        "dropout_recurrent": (PROBABILITY, 0),
        "train_cnn": (BOOLEAN, True),
        "freeze_bn": (BOOLEAN, False),
        # Ours: share that a batch has in the batch normalisation's statistics.
        "norm_momentum": (SHARE, 0.99),
    },
    # Checked by the section's own settings.
    "coherence": {key: (ANYTHING, default) for key, default in COHERENCE.items()},
    # What to generate where there is no data set; the arguments of lab.soundscapes.
    "soundscapes": {
        "strong": (WHOLE, 0),
        "weak": (WHOLE, 0),
        "unlabelled": (WHOLE, 0),
        "validation": (WHOLE, 0),
        "test": (WHOLE, 0),
        "seed": (WHOLE, 0),
        "soundbank": (_or_empty(TEXT), None),
        "validation_soundbank": (_or_empty(TEXT), None),
        "test_soundbank": (_or_empty(TEXT), None),
        "augment": (BOOLEAN, False),
        "density": (DENSITY, 1),
        "in_domain": (_or_empty(_choice("weak", "all")), None),
        "processes": (_or_empty(COUNT), None),
    },
}


def load_config(path: PathLike, *overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read a configuration file and check every key, type and range in it.

    Args:
        path: YAML file with some or all sections and keys of :data:`SCHEMA`; what is missing
            takes the official value. `coherence.preset` stands for the keys that it sets.
        overrides: values that replace the file's, as sections (`{"training": {"seed": 1}}`) or
            under dotted names (`{"training.seed": 1}`); the last ones win.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value cannot be used.
    """
    config: dict[str, dict[str, Any]] = {
        section: {key: copy.deepcopy(default) for key, (_, default) in keys.items()}
        for section, keys in SCHEMA.items()
    }
    for source, values in (
        (str(path), read_yaml(path)),
        *(("override", nest_overrides(values)) for values in overrides),
    ):
        for section, keys in values.items():
            _check_name(source, section, SCHEMA, "section")
            if not isinstance(keys, Mapping):
                raise InputError(
                    f"{source}: the section {section} is {_show(keys)}; give it keys and values"
                )
            if section == "coherence":
                try:
                    keys = preset_laid_out(keys)
                except ValueError as error:
                    raise InputError(f"{source}: {error}") from None
            for key, value in keys.items():
                _check_name(f"{source}, {section}", key, SCHEMA[section], "key")
                kind = SCHEMA[section][key][0]
                if not kind.test(value):
                    raise InputError(
                        f"{source}: {section}.{key} is {_show(value)}; it must be {kind.words}"
                        + _yaml_hint(value)
                    )
                config[section][key] = copy.deepcopy(value)
    _check_together(str(path), config)
    return config


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Read overrides `section.key=value` from a command line, the values as in YAML.

    Raises:
        InputError: one of them has no `=`, or a value that is no YAML.

    Example:
        >>> parse_overrides(["coherence.margin=4", "training.mixup="])
        {'coherence.margin': 4, 'training.mixup': None}
    """
    overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise InputError(f"--set {text} cannot be read; write section.key=value")
    return overrides


def read_yaml(path: PathLike) -> Mapping[str, Any]:
    """Read the sections of a YAML file, unchecked.

    Raises:
        InputError: the file cannot be read, is no YAML or holds no sections.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no sections; its sections are: {', '.join(SCHEMA)}")
    # An empty section is one whose keys are all commented out.
    return {section: {} if keys is None else keys for section, keys in content.items()}


def nest_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to sections.

    Example:
        >>> nest_overrides({"training.seed": 1, "data": {"fs": 8000}})
        {'training': {'seed': 1}, 'data': {'fs': 8000}}
    """
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        section, dot, key = name.partition(".")
        if dot:
            nested.setdefault(section, {})[key] = value
        elif isinstance(value, Mapping):
            nested.setdefault(section, {}).update(value)
        else:
            raise InputError(f"override {name!r} names no key; write section.key")
    return nested


def _check_name(source: str, name: Any, known: Mapping[str, Any], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise InputError(f"{source}: the {what} {str(name)!r} is unknown; {hint}")


def _show(value: Any) -> str:
    """Write a value as Python does, but shortened: a YAML file of a line can hold millions."""
    short = reprlib.Repr()
    short.maxlist, short.maxdict, short.maxlevel = 12, 12, 3
    short.maxstring = short.maxother = 100
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to write an integer of more than 4300 digits
        return "a number of thousands of digits"


def _yaml_hint(value: Any) -> str:
    """YAML takes 1e-3 for a text."""
    try:
        return f" (write {float(value)!r}, without quotes)" if isinstance(value, str) else ""
    except ValueError:
        return ""


def _check_together(path: str, config: dict[str, dict[str, Any]]) -> None:
    """Raise where values that are right alone do not fit each other."""
    training, net, feats, data, opt = (
        config[section] for section in ("training", "net", "feats", "data", "opt")
    )

    def require(fits: bool, names: str, fix: str) -> None:
        if not fits:
            keys = [(name, *name.split(".")) for name in names.split()]
            held = [f"{name} is {_show(config[section][key])}" for name, section, key in keys]
            raise InputError(f"{path}: {' and '.join(held)}; {fix}")

    for key in ("kernel_size", "padding", "stride", "pooling"):
        fits = len(net[key]) == len(net["nb_filters"])
        require(fits, f"net.{key} net.nb_filters", "give one entry for each block")
    fix = f"the official network ignores it; give net.n_layers_RNN: {net['rnn_layers']}"
    require(net["rnn_layers"] in (None, net["n_layers_RNN"]), "net.rnn_layers", fix)
    bins = _left_after_pooling(net, feats["n_mels"], axis=1)
    fix = f"{bins} bands are left; choose the second values so that one is"
    require(bins == 1, "feats.n_mels net.pooling", fix)
    pooled = math.prod(time * stride for (time, _), stride in zip(net["pooling"], net["stride"]))
    fix = f"net.pooling pools {pooled} frames into one; make them equal"
    require(pooled == data["net_subsample"], "data.net_subsample", fix)
    samples = int(data["audio_max_len"] * data["fs"])
    outputs = _left_after_pooling(net, samples // feats["hop_length"] + 1, axis=0)
    labelled = int(samples / feats["hop_length"] / data["net_subsample"])
    fix = f"the network gives {outputs} frames a clip and the labels {labelled}; make them equal"
    require(outputs == labelled, "feats.hop_length net.pooling", fix)
    require(feats["sample_rate"] == data["fs"], "feats.sample_rate data.fs", "make them equal")
    require(
        feats["f_min"] < feats["f_max"] <= feats["sample_rate"] / 2,
        "feats.f_min feats.f_max",
        f"they must rise and stay within half the sampling rate, {feats['sample_rate'] / 2:g} Hz",
    )
    require(
        samples >= feats["n_window"],
        "data.audio_max_len data.fs feats.n_window",
        "give longer clips",
    )
    fix = "it must contain 0.5, at which the event-based F1 is computed"
    require(0.5 in training["val_thresholds"], "training.val_thresholds", fix)
    require(
        training["validation_interval"] <= training["n_epochs"],
        "training.validation_interval training.n_epochs",
        "no epoch would be validated, lower the first",
    )
    fix = "the share of strongly labelled clips must be at least 1"
    require(training["batch_size"][0] > 0, "training.batch_size", fix)
    scaler = (config["scaler"]["statistic"], config["scaler"]["normtype"])
    fix = "minmax is per instance; give standard or mean"
    require(scaler != ("dataset", "minmax"), "scaler.statistic scaler.normtype", fix)
    decays = [opt[key] is not None for key in ("decay_factor", "decay_epochs")]
    require(len({*decays}) == 1, "opt.decay_factor opt.decay_epochs", "give both or neither")
    cosine = opt["schedule"] is not None
    require(not (cosine and any(decays)), "opt.schedule opt.decay_factor", "give one of them")
    require(
        not cosine or training["n_epochs_warmup"] < training["n_epochs"],
        "training.n_epochs_warmup training.n_epochs",
        "with opt.schedule give a shorter warm-up",
    )
    short = training["time_shift"] <= data["audio_max_len"]
    require(short, "training.time_shift data.audio_max_len", "give a shift of at most a clip")
    few = training["frequency_mask"] < feats["n_mels"]
    require(few, "training.frequency_mask feats.n_mels", "give fewer bands")
    if data["classes"] is not None:
        data["classes"] = list(map(one_spelling, data["classes"]))
        for number, name in enumerate(data["classes"]):
            problem = wrong_name(name)
            if name in data["classes"][:number]:
                problem = f"{name!r} comes twice"
            if problem:
                raise InputError(f"{path}: data.classes: {problem}; give each class its own name")
    try:
        if data["classes"] is not None:
            check_number(net["nclass"], data["classes"])
            net["nclass"] = len(data["classes"])
        Settings(config["coherence"])
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None


def _left_after_pooling(net: Mapping[str, Any], size: int, axis: int) -> int:
    """Frames (axis 0) or mel bins (axis 1) after the last block."""
    for kernel, padding, stride, pool in zip(
        net["kernel_size"], net["padding"], net["stride"], net["pooling"]
    ):
        size = ((size + 2 * padding - kernel) // stride + 1) // pool[axis]
    return max(size, 0)
