"""Whatever a file holds, a reader returns what it promises or raises an InputError.

The inputs are real files, damaged, and files made of the parts that such files have, so that they
get past the first check. The nightly target, of at least 10,000 inputs:
`python -m pytest tests/lab/fuzz --hypothesis-profile=nightly`.
"""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.baseline.checkpoints import load_checkpoint, load_statistics
from lab.baseline.config import SCHEMA, load_config
from lab.data.annotations import (
    read_durations,
    read_events,
    read_filenames,
    read_strong_tsv,
    read_weak_tsv,
)
from lab.data.audio import read_audio
from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.evaluation.posteriors import Posteriors, load_posteriors

pytestmark = pytest.mark.slow

# The number of inputs is the profile's: few in the suite, many in the nightly target.
NIGHTLY = settings().max_examples > 1000
fuzzed = settings(
    max_examples=settings().max_examples if NIGHTLY else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def attempt(reader, path, content, kind, counted):
    """What the reader returns, None for a refusal; anything else it raises fails the test."""
    path.write_bytes(content)
    try:
        found = reader(path)
    except InputError:
        counted(kind, False)
        return None
    counted(kind, True)
    return found


@st.composite
def damaged(draw, originals):
    """A real file with bytes changed, put in, taken out, and its end cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 6))):
        # Headers are where the harm is done.
        top = len(content) if draw(st.booleans()) else min(len(content), 200)
        at = draw(st.integers(0, max(top, 1)))
        new = draw(st.binary(max_size=8) | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f"]))
        content[at : at + draw(st.sampled_from([0, len(new), 1, 50]))] = new
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    return bytes(content)


# Tables

NAMES = st.text(max_size=8) | st.sampled_from(
    [
        "a.wav",
        "b.wav",
        "sub/a.wav",
        "",
        "nan",
        "a\0.wav",
        "~/a.wav",
        "..",
        "a/../../b.wav",
        "../../etc/passwd",
        "/etc/passwd",
        "..\\a.wav",
        "C:\\a.wav",
        "\\\\host\\share\\a.wav",
    ]
)
NUMBERS = st.sampled_from(
    [
        "0",
        "1.5",
        "10",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1_0",
        "",
        " 2 ",
        "0x10",
        "1,5",
        "\u0665",
    ]
) | st.floats().map(str)
LABELS = st.sampled_from([*CLASSES, "", "Dog,Cat", "dog", "Dog,", ",", "NaN"]) | st.text(max_size=6)
COLUMNS = {
    read_events: ("filename", "onset", "offset", "event_label"),
    read_strong_tsv: ("filename", "onset", "offset", "event_label"),
    read_weak_tsv: ("filename", "event_labels"),
    read_durations: ("filename", "duration"),
    read_filenames: ("filename",),
}
FIELDS = {
    "filename": NAMES,
    "onset": NUMBERS,
    "offset": NUMBERS,
    "duration": NUMBERS,
    "event_label": LABELS,
    "event_labels": LABELS,
}


@st.composite
def tables(draw, columns):
    """The right header, or nearly; rows of plausible and implausible fields; any line ends."""
    header = list(columns)
    if draw(st.integers(0, 5)) == 0:
        header = draw(st.lists(st.sampled_from([*columns, "", '"', "x"]), max_size=6))
    lines = ["\t".join(header)]
    for _ in range(draw(st.integers(0, 4))):
        fields = [draw(FIELDS[column]) for column in columns]
        if draw(st.integers(0, 7)) == 0:
            fields = fields[: draw(st.integers(0, 3))] + draw(st.lists(NUMBERS, max_size=3))
        lines.append("\t".join(fields))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), "surrogatepass")


@pytest.mark.parametrize("reader", COLUMNS)
@fuzzed
@given(data=st.data())
def test_tables(reader, data, folder, counted):
    content = data.draw(tables(COLUMNS[reader]) | st.binary(max_size=300))
    found = attempt(reader, folder / "table.tsv", content, "tables", counted)
    if found is None:
        return
    names = list(found if reader is read_filenames else found["filename"])
    root = os.path.realpath(folder)
    for name in names:
        assert name
        inside = os.path.realpath(os.path.join(root, name))
        assert os.path.commonpath([root, inside]) == root
    if reader in (read_events, read_strong_tsv):
        events = found.dropna()
        assert (events["onset"] <= events["offset"]).all()
        assert (events["onset"] >= 0).all()
        assert np.isfinite(events["offset"]).all()
    if reader is read_strong_tsv:
        assert (events["onset"] < events["offset"]).all()
        assert set(events["event_label"]) <= set(CLASSES)
        # A row has an event or has none.
        assert len(events) == found["event_label"].notna().sum()
    if reader is read_durations:
        assert (found["duration"] > 0).all()
        assert np.isfinite(found["duration"]).all()


# Configurations

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [10**400, -(10**400), 1e400, "1e-3", "mean", [1, 2], [[2, 2]] * 7, [12, 0, 0]]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([(section, key) for section, keys in SCHEMA.items() for key in keys])
YAML = [
    "training:\n  batch_size: &a [*a, 1, 2]\n",
    "!!python/object/apply:os.system ['touch {canary}']\n",
    "training: !!python/object/new:os.system ['touch {canary}']\n",
    "a: &a [x, x]\n<<: *a\n",
    "? [1, 2]\n: 3\n",
    "training:\n  seed: 2001-99-99\n",
    "training:\n  seed: -0x" + "f" * 5000,
    "opt:\n  lr: 1" + "0" * 400,
    "opt:\n  lr: 1" + "0" * 5000,
    "training:\n" * 3,
    "[" * 3000,
    "{" * 3000,
    "%YAML 9.9\n---\n{}",
    "--- 1\n--- 2\n",
    "training:\n\tseed: 1\n",
    "opt: {lr: .nan}\n",
    "opt: {lr: .inf}\n",
    "net: {n_in_channel: 1.0}\n",
]


@st.composite
def configurations(draw):
    content: dict = {}
    for section, key in draw(st.lists(KEYS, max_size=4)):
        right = draw(st.booleans())
        content.setdefault(section, {})[key] = SCHEMA[section][key][1] if right else draw(VALUES)
    if draw(st.integers(0, 5)) == 0:
        content[draw(st.text(max_size=5))] = draw(VALUES)
    try:
        text = yaml.safe_dump(content)
    except ValueError:  # an integer of more digits than Python writes
        text = "opt: {lr: 0x" + "f" * 5000 + "}"
    return text.encode("utf-8", "surrogatepass")


@fuzzed
@given(data=st.data())
def test_configurations(data, folder, counted):
    canary = folder / "canary"
    written = [text.replace("{canary}", str(canary)).encode() for text in YAML]
    content = data.draw(
        configurations() | damaged(written) | st.sampled_from(written) | st.binary(max_size=200)
    )
    found = attempt(load_config, folder / "conf.yaml", content, "configurations", counted)
    assert not canary.exists()
    if found is not None:
        assert {section: set(keys) for section, keys in found.items()} == {
            section: set(keys) for section, keys in SCHEMA.items()
        }
        assert all(
            SCHEMA[s][k][0].test(v) or v == SCHEMA[s][k][1]
            for s in found
            for k, v in found[s].items()
        )


# Audio


def encoded(format, subtype, channels=1):
    buffer = io.BytesIO()
    sound = 0.1 * np.random.default_rng(0).standard_normal((800, channels))
    soundfile.write(buffer, sound, 16000, format=format, subtype=subtype)
    return buffer.getvalue()


AUDIO = [
    encoded("WAV", "PCM_16"),
    encoded("WAV", "FLOAT"),
    encoded("WAV", "PCM_24", 2),
    encoded("WAV", "IMA_ADPCM"),
    encoded("WAVEX", "PCM_16"),
    encoded("FLAC", "PCM_16"),
    encoded("OGG", "VORBIS"),
]


@fuzzed
@given(
    content=damaged(AUDIO) | st.binary(max_size=100).map(lambda b: b"RIFF\x80\0\0\0WAVEfmt " + b)
)
def test_audio(content, folder, counted):
    found = attempt(read_audio, folder / "clip.wav", content, "audio files", counted)
    if found is not None:
        assert found.dtype == np.float32
        assert found.ndim == 1
        assert found.size
        assert np.isfinite(found).all()


# Checkpoints


class Harm:
    """Unpickled, it would leave a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def with_pickle(archive, content):
    """A checkpoint with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for item in old.infolist():
            new.writestr(item, content if item.filename.endswith(".pkl") else old.read(item))
    return buffer.getvalue()


OF = {"feats": {"n_mels": 4}, "dims": [1, 2]}


class Files(list):
    """Contents of files; hypothesis shows it when a test fails."""

    def __repr__(self):
        return f"{len(self)} files"


@pytest.fixture(scope="module")
def checkpoints(folder):
    good = {"state_dict": {"a.weight": torch.ones(3, 2)}, "epoch": 3}
    statistics = {**OF, "mean": torch.zeros(1), "mean_squared": torch.ones(1)}
    harm = Harm(folder / "canary")
    originals = [
        saved(good),
        saved(statistics),
        saved({**OF, "mean": [0.0]}),
        saved(good, _use_new_zipfile_serialization=False),
        saved([1, 2]),
        saved({"state_dict": harm}),
        saved({"state_dict": harm}, _use_new_zipfile_serialization=False),
        with_pickle(saved(good), pickle.dumps(harm)),
        with_pickle(saved(good), b"(lp0\n."),
        pickle.dumps(harm),
        pickle.dumps(good["epoch"]),
    ]
    return Files(originals)


@pytest.mark.parametrize("reader", [load_checkpoint, load_statistics])
@fuzzed
@given(data=st.data())
def test_checkpoints(reader, data, folder, counted, checkpoints):
    content = data.draw(
        damaged(checkpoints) | st.sampled_from(checkpoints) | st.binary(max_size=99)
    )
    read = reader if reader is load_checkpoint else (lambda path: load_statistics(path, OF))
    found = attempt(read, folder / "last.ckpt", content, "checkpoints", counted)
    assert not (folder / "canary").exists()
    if found is not None and reader is load_checkpoint:
        assert isinstance(found, dict)


@pytest.fixture(scope="module")
def posterior_files(folder):
    said = Posteriors()
    said.strong, said.filenames = [np.full((4, 2), 0.5), np.zeros((3, 2))], ["a.wav", "b.wav"]
    said.save(folder / "good.npz", ["Cat", "Dog"])
    buffers = [io.BytesIO() for _ in range(3)]
    harm = np.array([Harm(folder / "canary")], dtype=object)
    np.savez(buffers[0], filenames=harm, classes=harm, lengths=np.ones(1, int), strong=harm)
    np.savez(buffers[1], strong=np.ones(3), lengths=np.array([99]), filenames="x", classes="y")
    np.save(buffers[2], np.ones(3))
    return Files([(folder / "good.npz").read_bytes(), *(b.getvalue() for b in buffers)])


@fuzzed
@given(data=st.data())
def test_posteriors(data, folder, counted, posterior_files):
    content = data.draw(damaged(posterior_files) | st.sampled_from(posterior_files))
    found = attempt(load_posteriors, folder / "said.npz", content, "posteriors", counted)
    assert not (folder / "canary").exists()
    if found is not None:
        assert all(clip.shape[1] == len(found[1]) for clip in found[0].values())
