"""Kill a run at random moments, start it again, and compare its end with an undisturbed run's.

python tests/lab/faults/kill_and_resume.py [--times 50] [--seed 0] [--json]

Five jobs on a tiny data set take turns: generating the data, packing it, training (with its
checkpoints and its test), training killed only at checkpoints, and the test alone. A job is killed
by SIGKILL, either shortly after a random one of its file operations or at a random time, and
started again until it ends by itself. After every kill each file in its place must be readable; at
the end all files must be those of an undisturbed run, to the byte (checkpoints: to the bit of every
tensor).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "recipes"))

from lab.baseline.checkpoints import load_checkpoint
from lab.baseline.config import load_config
from lab.data.audio import read_audio
from lab.data.desed import official_layout
from lab.data.packed import pack, read_index
from lab.errors import command
from lab.evaluation.posteriors import load_posteriors
from lab.runs.trials import Trial, run_trial
from lab.soundscapes import generate

CLIPS = {"strong": 4, "weak": 2, "unlabelled": 2, "validation": 2, "test": 2}
#: Audit events of Python that are file operations.
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.chmod")
MOST_KILLS = 6  # of one job, so that all jobs have their turn


class Job(NamedTuple):
    """Something that is killed.

    Attributes:
        name: shown.
        run: does the work in a folder, or what is left of it.
        prepare: makes the folder that a run begins with.
        at: operations on paths with this in them count, of the kills at operations.
    """

    name: str
    run: Callable[[Path], Any]
    prepare: Callable[[Path], Any] = lambda folder: None
    at: str = ""


class Outcome(NamedTuple):
    """How a child process ended."""

    killed: bool
    operations: int
    seconds: float


def make_jobs(work: Path) -> list[Job]:
    """The jobs, whose data set and undisturbed training lie in `work`."""
    data = work / "data"
    generate(data, progress=False, processes=1, **CLIPS)
    config = load_config(Path(__file__).with_name("tiny.yaml"))
    config["data"].update(official_layout(data))

    def train(folder: Path) -> None:
        run_trial(Trial("trial", config, True, 0, folder))

    def pack_all(folder: Path) -> None:
        for part in ("synth", "weak", "unlabeled"):
            pack(config["data"][f"{part}_folder"], cache=folder)

    def untest(folder: Path) -> None:
        shutil.copytree(work / "reference" / "training", folder, dirs_exist_ok=True)
        shutil.rmtree(folder / "metrics_test")
        record = json.loads((folder / "trial.json").read_text())
        (folder / "trial.json").write_text(json.dumps({"settings": record["settings"]}))

    return [
        Job("generation", lambda folder: generate(folder / "data", progress=False, **GENERATED)),
        Job("packing", pack_all),
        Job("training", train),
        Job("checkpoints", train, at=".ckpt"),
        Job("evaluation", train, prepare=untest),
    ]


GENERATED: dict[str, Any] = {**CLIPS, "seed": 1, "processes": 1}


def run_child(job: Job, folder: Path, kill_at: int | None = None, after: float = 0) -> Outcome:
    """Do a job in a process of its own, which dies `after` seconds from an operation or its start.

    Args:
        job: what to do.
        folder: where.
        kill_at: the operation, counted from 1; 0 is the start, None leaves the process alone.
        after: seconds from there.
    """
    reading, writing = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            log = os.open(folder.parent / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            count = itertools.count(1)

            def strike() -> None:
                time.sleep(after)
                os.kill(os.getpid(), signal.SIGKILL)

            def operation(event: str, arguments: tuple) -> None:
                if event not in OPERATIONS or not arguments:
                    return
                if job.at in str(arguments[0]) and str(folder) in str(arguments[0]):
                    number = next(count)
                    os.write(writing, b".")
                    if number == kill_at:
                        threading.Thread(target=strike, daemon=True).start()

            torch.set_num_threads(1)
            if kill_at == 0:
                threading.Thread(target=strike, daemon=True).start()
            sys.addaudithook(operation)
            job.run(folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    operations = 0
    while chunk := os.read(reading, 65536):
        operations += len(chunk)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status:
        log = (folder.parent / "log.txt").read_text()
        raise RuntimeError(f"{job.name} failed after a kill:\n{log[-3000:]}")
    return Outcome(killed, operations, time.monotonic() - start)


def check_readable(folder: Path) -> int:
    """Read every file that is in its place; return how many they are."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".wav": read_audio,
        ".packed": read_index,
        ".ckpt": load_checkpoint,
        ".npz": load_posteriors,
        ".json": lambda path: json.loads(path.read_text()),
        ".tsv": lambda path: pd.read_csv(path, sep="\t"),
    }
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    for path in paths:
        if path.suffix in readers:
            try:
                readers[path.suffix](path)
            except Exception as error:
                raise RuntimeError(f"{path} is half written: {error}") from error
    return len(paths)


def contents(folder: Path) -> dict[str, str]:
    """Digest of each file; TensorBoard's logs hold times and are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("events.") or path.name == "hparams.yaml":
            continue
        digest = hashlib.sha256()
        if path.suffix == ".ckpt" and not path.name.startswith("."):
            state = load_checkpoint(path)
            for name, tensor in state["state_dict"].items():
                digest.update(name.encode() + tensor.numpy().tobytes())
            digest.update(repr(state["lr_schedulers"]).encode())
            for moments in state["optimizer_states"][0]["state"].values():
                digest.update(b"".join(value.numpy().tobytes() for value in moments.values()))
        else:
            digest.update(path.read_bytes())
        found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def session(job: Job, folder: Path, reference: Outcome, draw: random.Random, most: int) -> int:
    """Kill a job again and again, then let it end; return the number of kills."""
    folder.mkdir(parents=True)
    job.prepare(folder)
    kills = 0
    while True:
        kill_at, after = None, 0.0
        if kills < most:
            # Half of them near a file operation: a random time would hit few of these.
            near = bool(job.at) or draw.random() < 0.5
            kill_at = draw.randint(1, max(reference.operations, 1)) if near else 0
            after = draw.uniform(0, 0.002 if near else reference.seconds)
        outcome = run_child(job, folder, kill_at, after)
        if not outcome.killed:
            return kills
        kills += 1
        check_readable(folder)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    kills: dict[str, int] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        jobs = make_jobs(work)
        references, expected = {}, {}
        for job in jobs:
            folder = work / "reference" / job.name
            folder.mkdir(parents=True)
            job.prepare(folder)
            references[job.name] = run_child(job, folder)
            expected[job.name] = contents(folder)
        for number, job in enumerate(itertools.cycle(jobs)):
            left = arguments.times - sum(kills.values())
            if left <= 0:
                break
            folder = work / f"session_{number}" / job.name
            folder.parent.mkdir()
            most = min(left, MOST_KILLS, draw.randint(1, MOST_KILLS))
            done = session(job, folder, references[job.name], draw, most)
            kills[job.name] = kills.get(job.name, 0) + done
            found = contents(folder)
            if found != expected[job.name]:
                differing = {
                    path
                    for path in {*found, *expected[job.name]}
                    if found.get(path) != expected[job.name].get(path)
                }
                raise RuntimeError(
                    f"{job.name}, killed {done} times, ended otherwise: {sorted(differing)[:5]}"
                )
            shutil.rmtree(folder.parent)
    result = {
        "kills": kills,
        "all": sum(kills.values()),
        "seconds": round(time.monotonic() - start),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    counts = ", ".join(f"{count} in {name}" for name, count in kills.items())
    print(
        f"killed {result['all']} times ({counts}) in {result['seconds']} s; every run ended as an "
        "undisturbed one, and no file was half written"
    )


if __name__ == "__main__":
    main()
