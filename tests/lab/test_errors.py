"""Exit codes and sentences of commands."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from lab.errors import RESUME_ME, UNREAD, InputError, Stopped, command, resumable

ROOT = Path(__file__).parents[2]


def run(main, capsys):
    """Exit code of a command and what it said."""
    with pytest.raises(SystemExit) as stop:
        command(main)()
    return stop.value.code, capsys.readouterr().err


def test_bad_input_is_a_sentence(capsys):
    def main():
        raise InputError("--trials is 0; give at least 1")

    assert run(main, capsys) == (2, "error: --trials is 0; give at least 1\n")


def test_a_pipe_to_something_else_is_an_error_of_its_own():
    def main():
        raise BrokenPipeError("the database left")

    with pytest.raises(BrokenPipeError, match="the database left"):
        command(main)()


@pytest.mark.parametrize("kept", [True, False])
def test_only_work_that_goes_on_promises_to(capsys, kept):
    def main():
        with resumable() if kept else nullcontext():
            raise Stopped("baseline 1 was told to stop")

    code, output = run(main, capsys)
    assert code == RESUME_ME
    assert output.startswith("baseline 1 was told to stop: ")
    assert ("what is finished is kept" in output) == kept
    assert ("to start over" in output) != kept


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, RESUME_ME, "stopped by SIGTERM: "),
        (signal.SIGINT, 130, "stopped by Ctrl-C: "),
    ],
)
def test_a_signal_is_a_sentence(capsys, number, code, words):
    tidied = []

    def main():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            # A second one does not disturb the end.
            os.kill(os.getpid(), signal.SIGINT)
            tidied.append(True)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook
    output = run(main, capsys)
    assert output[0] == code
    assert output[1].startswith(words)
    assert output[1].count("\n") == 1
    assert tidied
    after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert after == before


def test_a_signal_while_an_object_is_deleted_is_not_lost(capsys):
    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def main():
        deleted = Deleted()
        del deleted
        time.sleep(10)

    code, output = run(main, capsys)
    assert code == RESUME_ME
    assert output.count("\n") == 1


RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_prints_to_any_console_and_ends_quietly_without_one(tmp_path, recipe):
    # Python finds what a script imports beside the file that a link leads to.
    link = tmp_path / f"für_字_{recipe}"
    link.symlink_to(ROOT / "recipes" / recipe)
    command = [sys.executable, "-S", str(link), "--help"]  # nothing needs to be installed
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, env=latin, capture_output=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"usage: für_\\u5b57_{recipe}".encode("latin-1") in done.stdout
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command, env=latin, stdout=writer, stderr=subprocess.PIPE, timeout=600, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (UNREAD, b"")


@pytest.mark.parametrize(("stream", "unbuffered"), [("stdout", ""), ("stderr", "1")])
def test_a_long_output_that_nobody_reads_ends_the_command(tmp_path, unbuffered, stream):
    script = tmp_path / "long.py"
    script.write_text(
        "import sys\nfrom lab.errors import command\n\n@command\ndef main():\n"
        f"    while True:\n        print('a line', file=sys.{stream})\n\nmain()\n"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "recipes")])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    pipe = getattr(process, stream)
    assert pipe.readline() == b"a line\n"
    pipe.close()
    other = process.stderr if stream == "stdout" else process.stdout
    assert other.read() == b""
    other.close()
    assert process.wait(600) == UNREAD


def test_what_the_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert command(lambda: signal.getsignal(signal.SIGINT))() == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
