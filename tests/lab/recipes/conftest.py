"""A tiny data set with a public set, and a tiny configuration for it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from lab.data.desed import CLASSES, official_layout

ROOT = Path(__file__).parents[3]


def write_clips(folder, table, durations, clips, seed):
    """Clips of a second; events are tones, the last clip has none."""
    rng = np.random.default_rng(seed)
    rows, lengths = ["filename\tonset\toffset\tevent_label"], ["filename\tduration"]
    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(16000) / 16000
    for clip in range(clips):
        sound = 0.01 * rng.standard_normal(16000)
        for label in rng.permutation(3)[:2] if clip < clips - 1 else []:
            onset, offset = rng.uniform(0.1, 0.3), rng.uniform(0.7, 0.9)
            active = (time >= onset) & (time < offset)
            sound[active] += 0.2 * np.sin(2 * np.pi * 500 * (label + 1) * time[active])
            rows.append(f"{clip}.wav\t{onset:.3f}\t{offset:.3f}\t{CLASSES[label]}")
        soundfile.write(folder / f"{clip}.wav", sound, 16000)
        lengths.append(f"{clip}.wav\t1.0")
    rows.append(f"{clips - 1}.wav\t\t\t")
    for path, lines in ((table, rows), (durations, lengths)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A data set of clips of a second in the official layout; returns its folder."""
    root = tmp_path_factory.mktemp("dataset")
    data = {name: Path(path) for name, path in official_layout(root).items()}
    write_clips(data["synth_folder"], data["synth_tsv"], root / "unused", 25, seed=1)
    write_clips(data["test_folder"], data["test_tsv"], data["test_dur"], 5, seed=2)
    write_clips(data["public_folder"], data["public_tsv"], data["public_dur"], 4, seed=3)
    return root


TINY = {
    "training": {
        "batch_size": [5, 0, 0],
        "batch_size_val": 4,
        "n_epochs": 3,
        "num_workers": 0,
        "n_test_thresholds": 3,
        "median_window": 1,
        "teacher": False,
        "mixup": None,
        "obj_metric_synth_type": "event",
        "select_on": "test",
    },
    "scaler": {"statistic": "dataset", "normtype": "standard", "savepath": None},
    "data": {"audio_max_len": 1, "net_subsample": 2},
    "opt": {"lr": 0.03},
    "feats": {"n_mels": 16, "n_window": 512, "n_filters": 512, "hop_length": 256},
    "net": {
        "dropout": 0.0,
        "n_RNN_cell": 16,
        "attention": False,
        "kernel_size": [3, 3],
        "padding": [1, 1],
        "stride": [1, 1],
        "nb_filters": [8, 16],
        "pooling": [[2, 4], [1, 4]],
    },
}


@pytest.fixture(scope="session")
def conf_file(tmp_path_factory):
    """A configuration of a tiny network, as a YAML file."""
    path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def run():
    """Run a recipe as its user does; returns what it said."""

    def run(recipe, *arguments, cwd, code=0):
        done = subprocess.run(
            [sys.executable, ROOT / "recipes" / recipe, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,  # a machine under load is slow
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        # What a log file holds: no bars, nothing that a library remarks.
        assert "\r" not in done.stdout + done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def main():
    """The main function of a recipe, to be called in this process, which has loaded torch."""

    def main(recipe, *arguments):
        runpy.run_path(str(ROOT / "recipes" / recipe))["main"]([str(a) for a in arguments])

    return main


@pytest.fixture
def refused(main, capsys):
    """Run a recipe that must end in one sentence; returns the sentence."""

    def refused(recipe, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(recipe, *arguments)
        assert stop.value.code == 2
        output = capsys.readouterr().err
        assert len(output.splitlines()) == 1
        assert output.startswith("error: ")
        return output

    return refused
