"""Checkpoints hold plain data, and nothing in a file is run."""

import os
import pickle
import resource
import zipfile

import pytest
import torch

from lab.baseline.checkpoints import (
    WholeFileIO,
    classes_in,
    load_checkpoint,
    load_statistics,
    save_statistics,
)
from lab.data.desed import CLASSES
from lab.errors import InputError


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_code_of_a_checkpoint_is_run(tmp_path, protocol):
    path, made = tmp_path / "evil.ckpt", tmp_path / "made"
    torch.save({"state_dict": Attack(made)}, path, pickle_protocol=protocol)
    with pytest.raises(InputError, match=r"evil\.ckpt cannot be loaded"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Attack(made), protocol))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_checkpoint(path)
    assert not made.exists()


def test_a_cut_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.rand(1000)}}, path)
    content = path.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 10, 1):
        path.write_bytes(content[:size])
        with pytest.raises(InputError) as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_checkpoint(tmp_path / "other.ckpt")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFileIO().save_checkpoint({"epoch": 1}, path)

    # A file may not grow beyond 1000 bytes, as on a disk that is full.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"last\.ckpt cannot be written \(File too large\)"):
            WholeFileIO().save_checkpoint({"epoch": 2, "weight": torch.ones(9999)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert WholeFileIO().load_checkpoint(path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_statistics_are_kept_with_what_they_are_of(tmp_path):
    path = tmp_path / "scaler.ckpt"
    save_statistics(path, {"feats": {"n_mels": 64}}, torch.ones(1), torch.zeros(1))
    mean, squares = load_statistics(path, {"feats": {"n_mels": 64}})
    assert (mean.item(), squares.item()) == (1, 0)
    with pytest.raises(InputError, match=r"other settings \(feats differ\)"):
        load_statistics(path, {"feats": {"n_mels": 128}})


def test_classes_of_checkpoints_old_and_new():
    def held(**sections):
        return classes_in({"hyper_parameters": sections})

    assert held(data={"classes": ["b", "a"]}, net={"nclass": 2}) == ["b", "a"]
    for of_desed in (held(), held(data={"fs": 16000}), held(net={"nclass": 10}), classes_in({})):
        assert of_desed == list(CLASSES)
    assert held(net={"nclass": 27}) is None
