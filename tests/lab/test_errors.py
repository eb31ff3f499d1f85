"""Exit codes and sentences of commands."""

import os
import signal
import sys
import time

import pytest

from lab.errors import RESUME_ME, InputError, Stopped, command


def run(main, capsys):
    """Exit code of a command and what it said."""
    with pytest.raises(SystemExit) as stop:
        command(main)()
    return stop.value.code, capsys.readouterr().err


def test_bad_input_is_a_sentence(capsys):
    def main():
        raise InputError("--trials is 0; give at least 1")

    assert run(main, capsys) == (2, "error: --trials is 0; give at least 1\n")


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
    said = run(main, capsys)
    assert said[0] == code
    assert said[1].startswith(words)
    assert said[1].count("\n") == 1
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

    code, said = run(main, capsys)
    assert code == RESUME_ME
    assert said.count("\n") == 1


def test_a_process_that_was_stopped_is_named(capsys):
    def main():
        raise Stopped("baseline 1 was told to stop")

    code, said = run(main, capsys)
    assert code == RESUME_ME
    assert said.startswith("baseline 1 was told to stop: ")


def test_what_the_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert command(lambda: signal.getsignal(signal.SIGINT))() == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
