"""Files that are either whole or not there."""

import errno
import os
import signal

import pytest

from lab.errors import InputError
from lab.files import remove_left_over, whole_file


def test_file_appears_whole_with_its_suffix_and_the_usual_permissions(tmp_path):
    target = tmp_path / "new" / "scores.tsv"
    with whole_file(target) as temporary:
        assert (temporary.suffix, temporary.parent) == (".tsv", target.parent)
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["scores.tsv"]
    (tmp_path / "usual").write_text("")
    assert target.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
    ],
)
def test_an_error_leaves_what_was_there(tmp_path, error, told):
    target = tmp_path / "scores.tsv"
    target.write_text("before")

    def half():
        with whole_file(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(told):
        half()
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["scores.tsv"]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    writing = whole_file(tmp_path / "file" / "scores.tsv")
    with pytest.raises(InputError, match=r"scores\.tsv cannot be written"):
        writing.__enter__()


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
