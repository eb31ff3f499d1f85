"""Files that are either whole or not there."""

import os

import pytest

from dcase_coherence.files import whole_file


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
