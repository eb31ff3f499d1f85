import json
import os
import runpy
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import postgres
import pytest
import torch

if not hasattr(torch.testing, "assert_close"):  # torch 1.8, of the official 2021 environment

    def assert_close(actual, expected, rtol=1e-5, atol=1e-7):
        assert actual.dtype == expected.dtype
        assert torch.allclose(actual, expected, rtol=rtol, atol=atol)

    torch.testing.assert_close = assert_close

# Two test processes on two cores must not fight over four threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets its background jobs ignore Ctrl-C, and some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Scripts that made the golden numbers: run by hand, with a checkout of the official code.
collect_ignore = ["golden"]

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared():
    """Folder of real recordings and golden predictions that may stand beside the clone."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs the recordings and golden predictions in ../shared")
    return folder


@pytest.fixture(scope="session")
def golden():
    """Arrays of the official baseline, by name."""
    with np.load(GOLDEN / "baseline" / "golden.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="session")
def golden_inputs():
    """The script that made them: its inputs and settings."""
    return SimpleNamespace(**runpy.run_path(str(GOLDEN / "make_golden_baseline.py")))


@pytest.fixture(scope="session")
def golden_json():
    """Tables of the official baseline, by file name."""
    return {p.stem: json.loads(p.read_text()) for p in (GOLDEN / "baseline").glob("*.json")}


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.chrome.service.Service(programs[1])
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture
def browse(chromium):
    """Open a file in Chromium; nothing may be said on its console, and nothing be fetched."""
    opened = []

    def browse(path):
        for log in ("browser", "performance"):
            chromium.get_log(log)
        opened.append(path.resolve().as_uri())
        chromium.get(opened[-1])
        return chromium

    yield browse
    assert chromium.get_log("browser") == []
    messages = [
        json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")
    ]
    requests = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in requests if not url.startswith("data:")} == set(opened)


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions on every machine, and no fight over cores."""
    torch.set_num_threads(1)


def write_wav(path, seconds=1.0, rate=16000, seed=0, **options):
    """A tone in noise."""
    import soundfile

    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    sound = 0.2 * np.sin(2 * np.pi * rng.uniform(200, 3000) * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound + 0.01 * rng.standard_normal(len(time)), rate, **options)


def write_table(path, *rows):
    """A tab-separated file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def write_strong(folder, table, durations, clips, seed):
    """Strongly labelled clips of a second; the first has no event."""
    from lab.data.desed import CLASSES

    rng = np.random.default_rng(seed)
    rows = [("filename", "onset", "offset", "event_label"), ("0.wav", "", "", "")]
    for clip in range(clips):
        write_wav(folder / f"{clip}.wav", seed=1000 * seed + clip)
        for label in rng.permutation(10)[: 6 * (clip > 0)]:
            row = (f"{clip}.wav", round(rng.uniform(0, 0.3), 3), round(rng.uniform(0.7, 1), 3))
            rows.append((*row, CLASSES[label]))
    write_table(table, *rows)
    if durations:
        names = [(f"{clip}.wav", 1.0) for clip in range(clips)]
        write_table(durations, ("filename", "duration"), *names)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A data set of clips of a second in the official layout; returns its folder."""
    from lab.data.desed import CLASSES, official_layout

    root = tmp_path_factory.mktemp("dataset")
    data = {name: Path(path) for name, path in official_layout(root).items()}
    write_strong(data["synth_folder"], data["synth_tsv"], None, 6, seed=1)
    write_strong(data["synth_val_folder"], data["synth_val_tsv"], data["synth_val_dur"], 3, seed=2)
    write_strong(data["test_folder"], data["test_tsv"], data["test_dur"], 3, seed=3)
    for clip in range(8):
        write_wav(data["weak_folder"] / f"{clip}.wav", seed=4000 + clip)
        write_wav(data["unlabeled_folder"] / f"{clip}.wav", seed=5000 + clip)
    # One longer and one shorter clip: part of the one is drawn at random, the other padded.
    write_wav(data["unlabeled_folder"] / "long.wav", seconds=1.5)
    write_wav(data["unlabeled_folder"] / "short.wav", seconds=0.4)
    tags = [(f"{c}.wav", f"{CLASSES[c]},{CLASSES[9 - c // 2]}") for c in range(7)]
    write_table(data["weak_tsv"], ("filename", "event_labels"), *tags, ("7.wav", ""))
    write_wav(data["eval_folder"] / "a.wav", seconds=1.0)
    write_wav(data["eval_folder"] / "b.wav", seconds=1.3)
    return root


@pytest.fixture
def renamed(tmp_path, dataset):
    """A copy of the data set, in which clips are called `1.WAV` and `a/2.wav`."""
    import shutil

    root = tmp_path / "renamed"
    shutil.copytree(dataset, root)
    for folder in (root / "audio").rglob("*_16k"):
        if (folder / "1.wav").exists():
            (folder / "a").mkdir()
            (folder / "1.wav").rename(folder / "1.WAV")
            (folder / "2.wav").rename(folder / "a" / "2.wav")
    for table in (root / "metadata").rglob("*.tsv"):
        text = table.read_text().replace("\n1.wav", "\n1.WAV").replace("\n2.wav", "\na/2.wav")
        table.write_text(text)
    return root


@pytest.fixture
def config_file(tmp_path, dataset, golden_inputs):
    """A configuration of a tiny network for `dataset`, as a YAML file."""
    import yaml

    from lab.data.desed import official_layout

    path = tmp_path / "tiny.yaml"
    config = {
        "training": {
            "batch_size": [2, 2, 3],
            "batch_size_val": 4,
            "n_epochs": 3,
            "n_epochs_warmup": 1,
            "num_workers": 0,
            "weak_split": 0.75,
            "n_test_thresholds": 2,
            "median_window": 3,
            "seed": 1,
        },
        "data": {**official_layout(dataset), "audio_max_len": 1},
        "net": {**golden_inputs.NET, "dropout": 0.2},
        "coherence": {"preset": "exact", "annealing_epochs": 2},
    }
    path.write_text(yaml.safe_dump(config))
    return path


#: Classes of nobody else's, in the order of a network's outputs; sed_eval, psds_eval, pandas and
#: matplotlib take some of these names for something else.
OWN = ["NA", "_hidden", 'caf\u00e9 "3.5"', "injected_psds_world_label", "none", "siren"]


@pytest.fixture(scope="session")
def own_classes():
    """The classes of `own_dataset`."""
    return list(OWN)


@pytest.fixture
def own_dataset(tmp_path, dataset):
    """A copy of the data set under other names: its first six classes; returns its folder."""
    import shutil

    from lab.data.desed import CLASSES

    root = tmp_path / "own"
    shutil.copytree(dataset, root)
    for table in (root / "metadata").rglob("*.tsv"):
        head, *rows = [line.split("\t") for line in table.read_text().splitlines()]
        if head[-1] == "event_label":
            kept = [(*row[:3], OWN[CLASSES.index(row[3])]) for row in rows if row[3] in CLASSES[:6]]
            there = {row[0] for row in kept}
            names = dict.fromkeys(row[0] for row in rows)
            rows = [*kept, *((name, "", "", "") for name in names if name not in there)]
        elif head[-1] == "event_labels":
            rows = [(name, OWN[number % 6]) for number, (name, *_) in enumerate(rows)]
        write_table(table, head, *rows)
    return root


@pytest.fixture
def own_config_file(tmp_path, config_file, own_dataset):
    """The tiny configuration for `own_dataset`, whose classes it does not name."""
    import yaml

    from lab.data.desed import official_layout

    config = yaml.safe_load(config_file.read_text())
    config["data"].update(official_layout(own_dataset))
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server of the tests' own; skipped where it is not installed."""
    with postgres.serving() as server:
        yield server
