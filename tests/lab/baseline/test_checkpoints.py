"""Checkpoints hold plain data, and nothing in a file is run."""

import io
import os
import pickle
import resource

import pytest
import torch
from damage import Attack, damaged, fuzz, read_or_refuse
from hypothesis import given
from hypothesis import strategies as st

from lab.baseline.checkpoints import (
    WholeFileIO,
    classes_in,
    load_checkpoint,
    load_statistics,
    save_statistics,
)
from lab.data.desed import CLASSES
from lab.errors import InputError


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
    with pytest.raises(InputError, match=r"scaler\.ckpt .*another feats"):
        load_statistics(path, {"feats": {"n_mels": 128}})


def test_classes_of_checkpoints_old_and_new():
    def held(**sections):
        return classes_in({"hyper_parameters": sections})

    assert held(data={"classes": ["b", "a"]}, net={"nclass": 2}) == ["b", "a"]
    for of_desed in (held(), held(data={"fs": 16000}), held(net={"nclass": 10}), classes_in({})):
        assert of_desed == list(CLASSES)
    assert held(net={"nclass": 27}) is None


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


OF = {"feats": {"n_mels": 4}, "dims": [1, 2]}
STATE = {"state_dict": {"a.weight": torch.ones(3, 2)}, "epoch": 3}
CHECKPOINTS = [
    saved(STATE),
    saved(STATE, _use_new_zipfile_serialization=False),
    saved({**OF, "mean": torch.zeros(1), "mean_squared": torch.ones(1)}),
    saved({**OF, "mean": [0.0]}),
    saved([1, 2]),
    pickle.dumps(3),
]


@pytest.mark.parametrize("reader", [load_checkpoint, lambda path: load_statistics(path, OF)])
@fuzz
@given(content=damaged(CHECKPOINTS) | st.sampled_from(CHECKPOINTS) | st.binary(max_size=99))
def test_whatever_a_checkpoint_holds_it_is_read_or_refused(tmp_path, reader, content):
    held = read_or_refuse(reader, tmp_path / "last.ckpt", content)
    assert held is None or isinstance(held, (dict, tuple))
