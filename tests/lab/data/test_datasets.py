"""Clips and their labels, every kind of bad audio, and the batches."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch.utils.data import ConcatDataset

from lab.data.annotations import read_strong_tsv, read_weak_tsv
from lab.data.audio import read_audio
from lab.data.datasets import (
    ConcatDatasetBatchSampler,
    LengthBatchSampler,
    StronglyAnnotatedSet,
    UnlabeledSet,
    WeakSet,
)
from lab.data.desed import CLASSES, official_layout
from lab.data.labels import ManyHotEncoder
from lab.errors import InputError


@pytest.fixture
def encoder():
    return ManyHotEncoder(CLASSES, 1, 2048, 256, 4, 16000)


@pytest.fixture
def data(dataset):
    return official_layout(dataset)


def write(path, sound):
    soundfile.write(path, sound, 16000)


def test_strong_set(data, encoder):
    table = read_strong_tsv(data["synth_tsv"])
    clips = StronglyAnnotatedSet(
        data["synth_folder"], table, encoder, pad_to=1, return_filename=True
    )
    audio, labels, padded, filename = clips[1]
    assert (audio.shape, labels.shape, padded) == ((16000,), (10, 15), 1.0)
    assert audio.dtype == labels.dtype == torch.float32
    assert filename.endswith("soundscapes_16k/1.wav")
    events = table[table["filename"] == "1.wav"]
    assert np.array_equal(labels.numpy().T, encoder.encode_strong(events))
    assert labels.sum() > 0
    # The first clip has no events.
    assert (len(clips), clips[0][1].sum()) == (6, 0)


def test_weak_labels_stand_in_the_first_frame(data, encoder):
    clips = WeakSet(data["weak_folder"], read_weak_tsv(data["weak_tsv"]), encoder, pad_to=1)
    _, labels, _ = clips[2]
    assert labels[:, 0].nonzero().flatten().tolist() == [2, 8]
    assert labels[:, 1:].sum() == 0
    assert clips[7][1].sum() == 0


def test_unlabelled_set_is_sorted_and_pads(data, encoder):
    clips = UnlabeledSet(data["unlabeled_folder"], encoder, pad_to=1, return_filename=True)
    assert clips.files == sorted(clips.files)
    # Of the longer clip there are two windows.
    assert len(clips) == 11
    audio, labels, *_ = clips[10]
    assert clips.files[10].endswith("short.wav")
    assert audio.shape == (16000,)
    assert audio[6400:].abs().sum() == 0
    assert audio[:6400].abs().sum() > 0
    assert labels.shape == (10, 15)
    assert labels.sum() == 0


def test_an_epoch_hears_all_of_a_long_clip(tmp_path, encoder):
    # Of 2.6 s: windows of a second from 0, 0.8 and 1.6 s on.
    write(tmp_path / "a.wav", np.arange(41600) / 41600)
    write(tmp_path / "b.wav", np.ones(16000) / 2)
    write(tmp_path / "c.wav", np.ones(16100) / 2)
    clips = UnlabeledSet(tmp_path, encoder, pad_to=1, return_filename=True)
    # What is longer by a hundredth only is not cut in two.
    assert (clips.starts, clips.clips) == ([0, 12800, 25600, 0, 0], [0, 0, 0, 1, 2])
    whole = torch.from_numpy(read_audio(tmp_path / "a.wav"))
    for item, start in enumerate((0, 12800, 25600)):
        audio, _, _, path = clips[item]
        assert torch.equal(audio, whole[start : start + 16000])
        assert path == str(tmp_path / "a.wav")
        assert clips.length(item) == 16000
    assert [len(clips[item][0]) for item in (3, 4)] == [16000, 16000]


def test_labels_go_with_the_windows_of_a_long_clip(tmp_path, encoder):
    # A tone from 1.0 to 1.5 s of 2.3 s: in each window labels and sound agree.
    sound = np.zeros(36800)
    sound[16000:24000] = 0.5
    write(tmp_path / "a.wav", sound)
    events = [("a.wav", 1.0, 1.5, "Dog"), ("a.wav", 0.0, 0.001, "Cat")]
    table = pd.DataFrame(events, columns=["filename", "onset", "offset", "event_label"])
    clips = StronglyAnnotatedSet(tmp_path, table, encoder, pad_to=1)
    assert len(clips) == 3
    seen = set()
    for audio, labels, _ in (clips[item] for item in range(3)):
        frames = audio[: 15 * 1024].reshape(15, 1024).abs().amax(1) > 0
        # Frames that the event touches by less than a millisecond may differ.
        assert (frames != (labels[4] > 0)).sum() <= 1
        seen.add(int(labels[4].sum()))
    assert len(seen) > 1
    tags = WeakSet(
        tmp_path, pd.DataFrame({"filename": ["a.wav"], "event_labels": ["Cat,Dog"]}), encoder, 1
    )
    assert [tags[item][1][:, 0].nonzero().flatten().tolist() for item in range(3)] == [[2, 4]] * 3


def test_clips_that_are_scored_stay_whole(tmp_path, encoder):
    # Of 2.5, 0.5 and 1 s; an event at the end of each.
    for name, seconds in (("a.wav", 2.5), ("b.wav", 0.5), ("c.wav", 1)):
        write(tmp_path / name, 0.1 * np.ones(int(16000 * seconds)))
    events = [("a.wav", 2.0, 2.5, "Dog"), ("b.wav", 0.4, 0.5, "Dog"), ("c.wav", 0.9, 1, "Dog")]
    table = pd.DataFrame(events, columns=["filename", "onset", "offset", "event_label"])
    clips = StronglyAnnotatedSet(tmp_path, table, encoder, pad_to=1, whole=True)
    for item, (samples, frames) in enumerate([(40000, 39), (16000, 15), (16000, 15)]):
        audio, labels, _ = clips[item]
        assert (len(audio), clips.length(item), labels.shape) == (samples,) * 2 + ((10, frames),)
    assert clips[0][0].min() > 0
    assert clips[0][1][4].nonzero().flatten().tolist() == list(range(31, 39))
    assert clips[1][1][4].nonzero().flatten().tolist() == [6, 7]


def test_a_batch_holds_clips_of_one_length_and_not_too_many(tmp_path, encoder):
    for number, seconds in enumerate([1, 3, 0.5, 1, 3, 1, 3, 9, 1]):
        write(tmp_path / f"{number}.wav", 0.1 * np.ones(int(16000 * seconds)))
    clips = UnlabeledSet(tmp_path, encoder, pad_to=1, whole=True)
    # Shorter ones are padded to a second; of those of three a batch holds a third as many.
    batches = list(LengthBatchSampler(clips, 4, 16000))
    assert batches == [[0, 2, 3, 5], [8], [1], [4], [6], [7]]
    assert list(LengthBatchSampler(clips, 7, 16000)) == [[0, 2, 3, 5, 8], [1, 4], [6], [7]]
    joined = ConcatDataset([clips, clips])
    together = [0, 2, 3, 5, 8, 9, 11, 12, 14, 17]
    assert next(iter(LengthBatchSampler(joined, 99, 16000))) == together
    cut = UnlabeledSet(tmp_path, encoder, pad_to=1)
    assert [len(batch) for batch in LengthBatchSampler(cut, 8, 16000)] == [8, 8, 7]
    (tmp_path / "7.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match=r"7\.wav cannot be read"):
        LengthBatchSampler(clips, 4, 16000)


def test_missing_files_and_folders_are_named(data, encoder, tmp_path):
    names = [f"{n}.wav" for n in range(20)]
    table = pd.DataFrame({"filename": names, "event_labels": "Dog"})
    with pytest.raises(InputError, match=r"12 of 20 clips .*: 8\.wav, 9\.wav, 10\.wav, \.\.\."):
        WeakSet(data["weak_folder"], table, encoder)
    with pytest.raises(InputError, match=r"folder .*nowhere does not exist"):
        UnlabeledSet(tmp_path / "nowhere", encoder)
    with pytest.raises(InputError, match="holds no audio file"):
        UnlabeledSet(tmp_path, encoder)


def test_batches_hold_the_shares_in_order_and_no_clip_twice():
    sampler = ConcatDatasetBatchSampler([10, 7, 30], [3, 2, 4], seed=5)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    for batch in batches:
        origin = [(i >= 10) + (i >= 17) for i in batch]
        assert origin == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    drawn = [i for batch in batches for i in batch]
    assert len(set(drawn)) == len(drawn)


def test_batches_are_a_function_of_seed_and_epoch():
    def batches(seed, epoch):
        sampler = ConcatDatasetBatchSampler([10, 7], [3, 2], seed)
        sampler.set_epoch(epoch)
        torch.rand(1)
        return list(sampler)

    assert batches(0, 1) == batches(0, 1)
    assert batches(0, 1) != batches(0, 2)
    assert batches(0, 1) != batches(1, 1)


def test_an_epoch_may_go_through_the_clips_several_times():
    sampler = ConcatDatasetBatchSampler([8, 9], [4, 2], seed=3, passes=3)
    sampler.set_epoch(1)
    batches = list(sampler)
    assert len(sampler) == len(batches) == 6
    passes = [batches[start : start + 2] for start in (0, 2, 4)]
    for one in passes:
        assert sorted(i for batch in one for i in batch if i < 8) == list(range(8))
    assert passes[0] != passes[1] != passes[2]
    # No pass comes twice, in whatever epoch.
    sampler.set_epoch(0)
    assert not any(batch in batches for batch in sampler)


def test_a_set_that_cannot_fill_its_share_is_named():
    assert len(ConcatDatasetBatchSampler([6, 0, 0], [5, 0, 0])) == 1
    with pytest.raises(InputError, match="weak set has 5 clips, fewer than its batch size of 12"):
        ConcatDatasetBatchSampler([100, 5, 100], [12, 12, 24])
    with pytest.raises(InputError, match="0 for every set"):
        ConcatDatasetBatchSampler([1, 1], [0, 0])


def test_soft_labels_are_cut_with_their_clip(dataset):
    events = pd.DataFrame(
        [("1.wav", 0.0, 0.5, "Dog", 0.25), ("1.wav", 0.5, 1.0, "Dog", 0.75)],
        columns=["filename", "onset", "offset", "event_label", "confidence"],
    )
    folder = official_layout(dataset)["synth_folder"]
    encoder = ManyHotEncoder(["Cat", "Dog"], 0.5, 2048, 256, 1, 16000)
    clips = StronglyAnnotatedSet(folder, events, encoder, pad_to=0.5)
    assert [clips.labels(item)[1:-1, 1].tolist() for item in (0, 1)] == [
        [0.25] * (encoder.n_frames - 2),
        [0.75] * (encoder.n_frames - 2),
    ]
