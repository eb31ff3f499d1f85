"""Files that are either whole or not there."""

import errno
import os
import signal

import pytest

from lab.errors import InputError
from lab.files import remove_left_over, whole_file


def test_file_appears_whole_and_keeps_its_suffix(tmp_path):
    target = tmp_path / "new" / "scores.tsv"
    with whole_file(target) as temporary:
        assert temporary.suffix == ".tsv"
        assert temporary.parent == target.parent
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["scores.tsv"]


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "scores.tsv"
    target.write_text("before")

    def interrupted():
        with whole_file(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["scores.tsv"]


def test_file_has_the_usual_permissions(tmp_path):
    with whole_file(tmp_path / "ours") as temporary:
        temporary.write_text("")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    writing = whole_file(tmp_path / "file" / "scores.tsv")
    with pytest.raises(InputError, match=r"scores\.tsv cannot be written"):
        writing.__enter__()


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(tmp_path):
    target = tmp_path / "scores.tsv"
    target.write_text("before")

    def on_full_disk():
        with whole_file(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"No space left on device"):
        on_full_disk()
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["scores.tsv"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in ("scores.tsv", ".hidden", "new-partial-x"):
        (tmp_path / name).write_text("")
    killed = os.fork()
    if not killed:
        with whole_file(tmp_path / "below" / "scores.tsv"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    (left,) = (tmp_path / "below").iterdir()
    assert left.name.startswith(".scores-partial-")
    remove_left_over(tmp_path)
    assert os.listdir(tmp_path / "below") == []
    assert sorted(os.listdir(tmp_path)) == [".hidden", "below", "new-partial-x", "scores.tsv"]
