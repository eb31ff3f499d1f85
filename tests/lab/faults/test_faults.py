"""Full disk, closed folder, deleted audio, killed worker, SIGTERM, SIGKILL.

What counts is the exit code, the sentence, the last checkpoint, and that the same run afterwards
ends as an undisturbed one. A fault happens when the first checkpoint moves into its place.
"""

import json
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from lab.baseline import experiment
from lab.baseline.checkpoints import load_checkpoint
from lab.baseline.config import load_config
from lab.data.desed import official_layout
from lab.errors import RESUME_ME, command
from lab.runs.trials import Trial, run_trial
from lab.soundscapes import generate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SETTINGS = ROOT / "recipes" / "confs" / "settings"
TIMEOUT = 300  # seconds; a machine under load is slow
TINY = Path(__file__).with_name("tiny.yaml")
CONFIG = yaml.safe_load(TINY.read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "data"
    counts = {"strong": 4, "weak": 2, "unlabelled": 2, "validation": 2, "test": 2}
    return generate(folder, progress=False, processes=1, **counts)


@pytest.fixture
def config(data):
    config = load_config(TINY)
    config["data"].update(official_layout(data))
    return config


def at_first_checkpoint(fault):
    """Let a fault happen, once, in this process."""
    happened = []

    def look(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith("last.ckpt") and not happened:
            happened.append(event)
            fault()

    sys.addaudithook(look)


def child(config, folder, fault, log):
    """Train and test as the recipes do, with standard error in a file."""
    # Python's own standard error is pytest's here.
    sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    torch.set_num_threads(1)
    if fault:
        at_first_checkpoint(fault)
    command(run_trial)(Trial("trial", config, True, 0, folder))


def run(config, folder, fault=None):
    """Run it in a process of its own; return its exit code and what it said."""
    log = folder.parents[1] / f"{folder.parent.name}_stderr.txt"
    process = multiprocessing.get_context("fork").Process(
        target=child, args=(config, folder, fault, log)
    )
    process.start()
    process.join(TIMEOUT)
    return process.exitcode, log.read_text()


def scores(folder):
    return json.loads((folder / "trial.json").read_text())["scores"]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    config = load_config(TINY)
    config["data"].update(official_layout(data))
    folder = tmp_path_factory.mktemp("undisturbed") / "trial"
    code, said = run(config, folder)
    assert code == 0, said
    return scores(folder)


def assert_goes_on(config, folder, undisturbed):
    """The last checkpoint is whole, and the next run ends as if nothing had happened."""
    assert load_checkpoint(folder / "last.ckpt")["epoch"] < CONFIG["training"]["n_epochs"] - 1
    code, said = run(config, folder)
    assert code == 0, said
    assert scores(folder) == undisturbed
    assert not list(folder.rglob(".*-partial-*"))


def test_a_full_disk_keeps_the_last_checkpoint(config, tmp_path, undisturbed):
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))

    code, said = run(config, tmp_path / "trial", fill)
    assert code == 2, said
    # TensorBoard's own thread may print its traceback before.
    sentence = said.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert "cannot be written (File too large); make room" in sentence
    assert_goes_on(config, tmp_path / "trial", undisturbed)


def test_a_folder_that_cannot_be_written_is_a_sentence(config, tmp_path):
    # Not by its permissions: root may do everything. A file in a folder's place is as closed.
    (tmp_path / "exp").write_text("")
    code, said = run(config, tmp_path / "exp" / "trial")
    assert code == 2
    assert said.startswith("error: ")
    assert "cannot be" in said
    assert said.count("\n") == 1


def test_audio_that_disappears_is_named(config, tmp_path, undisturbed):
    clip = sorted(Path(config["data"]["synth_folder"]).iterdir())[0]
    content = clip.read_bytes()
    try:
        code, said = run(config, tmp_path / "trial", clip.unlink)
        assert code == 2
        assert said == f"error: {clip} does not exist; copy it there or remove its row\n"
    finally:
        clip.write_bytes(content)
    assert_goes_on(config, tmp_path / "trial", undisturbed)


def test_a_worker_that_dies_is_a_sentence(config, tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(experiment, "cores", lambda: 2)
    config["training"]["num_workers"] = 1

    def kill_workers():
        # As the kernel does when memory runs out.
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGKILL))

    code, said = run(config, tmp_path / "trial", kill_workers)
    assert code == 2, said
    sentence = said.splitlines()[-1]
    assert sentence.startswith("error: a process that loads clips was killed")
    assert_goes_on(config, tmp_path / "trial", undisturbed)


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def long_conf_file(data):
    """Epochs enough for a signal to find the training at work."""
    path = data.parent / "long.yaml"
    training = {**CONFIG["training"], "n_epochs": 15, "early_stop_patience": 15}
    path.write_text(yaml.safe_dump({**CONFIG, "training": training}))
    return path


def recipe_child(log, core, recipe, arguments):
    """Run a recipe as a shell does: in a process group of its own; here, on one core."""
    os.setsid()
    os.sched_setaffinity(0, {core})
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = [str(ROOT / "recipes" / recipe), *map(str, arguments)]
    runpy.run_path(sys.argv[0], run_name="__main__")


class Recipe:
    """A recipe that runs in a process of its own, which has loaded torch already."""

    def __init__(self, log, recipe, *arguments):
        self.log = log
        self.process = multiprocessing.get_context("fork").Process(
            target=recipe_child,
            args=(log, min(os.sched_getaffinity(0)), recipe, arguments),
        )
        self.process.start()

    @property
    def training(self):
        """The process that `run_trials` started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
        return next(child for child, line in lines.items() if "spawn_main" in line)

    def await_checkpoint(self, folder):
        """Wait for the next checkpoint of any training below a folder."""
        begin, give_up = time.time(), time.monotonic() + TIMEOUT
        while not any(path.stat().st_mtime > begin for path in folder.rglob("last.ckpt")):
            assert self.process.is_alive(), self.log.read_text()
            assert time.monotonic() < give_up
            time.sleep(0.02)

    def assert_ends(self, code, words):
        """It ends with this code and one sentence."""
        self.process.join(TIMEOUT)
        said = self.log.read_text()
        assert self.process.exitcode == code, said
        assert said.count("\n") == 1, said
        assert said.startswith(words)
        assert "run the same command again to go on" in said


@pytest.fixture
def start(long_conf_file, data, tmp_path):
    """Start a recipe with results in `exp`; what is still running at the end is killed."""
    started = []

    def start(recipe, *options):
        arguments = ["--conf_file", long_conf_file, "--data", data, "--log_dir", tmp_path / "exp"]
        log = tmp_path / f"log_{len(started)}.txt"
        started.append(Recipe(log, recipe, *arguments, *options, "--gpus", "cpu", "--quiet"))
        return started[-1]

    yield start
    for recipe in started:
        if recipe.process.is_alive():
            os.killpg(recipe.process.pid, signal.SIGKILL)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="looks processes up in /proc"
)


@needs_proc
def test_stopped_and_started_again_it_ends_with_the_same_scores(
    start, long_conf_file, data, tmp_path
):
    options = ("train_sed_coherence.py", "--arm", "coherence")
    trial = tmp_path / "exp" / "coherence" / "trial_0"
    recipe = start(*options)
    recipe.await_checkpoint(trial)
    os.kill(recipe.training, signal.SIGTERM)
    recipe.assert_ends(RESUME_ME, "coherence, seed 42 was told to stop: ")
    first = load_checkpoint(trial / "last.ckpt")["epoch"]

    recipe = start(*options)
    recipe.await_checkpoint(trial)
    os.killpg(recipe.process.pid, signal.SIGINT)
    recipe.assert_ends(130, "stopped by Ctrl-C: ")
    assert first < load_checkpoint(trial / "last.ckpt")["epoch"] < 14
    assert "scores" not in json.loads((trial / "trial.json").read_text())

    recipe = start(*options)
    recipe.process.join(TIMEOUT)
    assert recipe.process.exitcode == 0, recipe.log.read_text()
    config = load_config(long_conf_file, {"coherence.preset": "steps"})
    config["data"].update(official_layout(data))
    code, said = run(config, tmp_path / "undisturbed" / "trial")
    assert code == 0, said
    assert scores(trial) == scores(tmp_path / "undisturbed" / "trial")


@needs_proc
@pytest.mark.parametrize("shared", [False, True])
def test_sigterm_ends_with_the_code_that_says_resume_me(start, tmp_path, shared):
    storage = ("--storage", f"sqlite:///{tmp_path}/study.db") * shared
    recipe = start("compare.py", SETTINGS / "baseline.yaml", *storage)
    recipe.await_checkpoint(tmp_path / "exp")
    recipe.process.terminate()
    recipe.assert_ends(75, "stopped by SIGTERM: ")
    assert [load_checkpoint(path) for path in (tmp_path / "exp").rglob("last.ckpt")]


def test_killed_and_resumed_ends_the_same():
    script = str(ROOT / "tests" / "lab" / "faults" / "kill_and_resume.py")
    done = subprocess.run(
        [sys.executable, script, "--times", "2", "--json"],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["all"] >= 2
