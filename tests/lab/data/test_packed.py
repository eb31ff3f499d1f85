"""Packed stores: what they hold, when they are made anew, damage, kills, closed folders."""

import functools
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lab.data.audio import read_audio
from lab.data.packed import find_sources, open_store, pack, store_path
from lab.errors import InputError

FORK = multiprocessing.get_context("fork")


def write(path, samples=800, seed=0, channels=1, **options):
    sound = np.random.default_rng(seed).uniform(-1, 1, (samples, channels))
    soundfile.write(path, sound, 16000, **options)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "audio" / "clips_16k"
    folder.mkdir(parents=True)
    for clip in range(5):
        write(folder / f"{clip}.wav", 800 + 10 * clip, seed=clip)
    return folder


def check(store, folder):
    """All clips of the folder are there, to the bit."""
    names = sorted(path.name for path in folder.glob("[!.]*.wav"))
    assert [clip.name for clip in store.clips] == names
    for number, name in enumerate(names):
        audio = store.read(store.number(name))
        assert store.number(name) == number
        assert audio.dtype == np.float32
        assert audio.tobytes() == read_audio(folder / name).tobytes()


def test_samples_are_those_of_the_files(folder):
    everything = np.arange(-32768, 32768).astype(np.int16)
    soundfile.write(folder / "every value.wav", everything, 16000, subtype="PCM_16")
    # The mean of two equal channels needs no more than 16 bits.
    soundfile.write(folder / "stereo.wav", np.stack([everything] * 2, 1), 16000, subtype="PCM_16")
    soundfile.write(folder / "float.wav", everything / 32768, 16000, subtype="FLOAT")
    (folder / ".hidden.wav").write_text("unfinished")
    store = pack(folder)
    check(store, folder)
    assert store.path == folder.parent / "clips_16k.packed"
    assert store.samples.nbytes == 2 * (3 * 65536 + sum(800 + 10 * clip for clip in range(5)))
    assert torch.equal(store.on(torch.device("cpu")), torch.from_numpy(np.array(store.samples)))


@pytest.mark.parametrize(
    "options", [{"subtype": "PCM_24"}, {"subtype": "FLOAT"}, {"channels": 2, "subtype": "PCM_16"}]
)
def test_a_clip_that_16_bits_do_not_hold_is_refused(folder, options):
    write(folder / "fine.wav", seed=9, **options)
    with pytest.raises(InputError, match=r"fine\.wav holds samples that 16 bits do not hold"):
        pack(folder)
    assert not store_path(folder).exists()


def test_full_scale_of_a_float_clip_does_not_wrap_around(folder):
    soundfile.write(folder / "loud.wav", np.array([0.0, 1.0]), 16000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"loud\.wav holds samples"):
        pack(folder)


def test_a_bad_clip_is_named(folder):
    (folder / "bad.wav").write_text("no audio")
    with pytest.raises(InputError, match=r"bad\.wav cannot be read as audio"):
        pack(folder)
    assert not list(folder.parent.glob(".*partial*"))


def test_a_clip_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match=r"a\.flac is not in the packed clips"):
        pack(folder).number("a.flac")


def test_folders_without_clips_are_sentences(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.wav file"):
        pack(tmp_path)
    with pytest.raises(InputError, match="nowhere cannot be packed"):
        pack(tmp_path / "nowhere")


def test_made_once(folder, capsys):
    first = pack(folder)
    assert capsys.readouterr().err == f"packing 5 clips into {first.path}: there is none yet\n"
    made = os.stat(first.path)
    check(pack(folder), folder)
    assert os.stat(first.path) == made
    assert capsys.readouterr().err == ""


def test_a_cache_holds_folders_of_one_name(folder, tmp_path):
    other = tmp_path / "other" / "clips_16k"
    shutil.copytree(folder, other)
    (other / "0.wav").unlink()
    cache = tmp_path / "cache" / "stores"
    check(pack(folder, cache=cache), folder)
    check(pack(other, cache=cache), other)
    assert len(list(cache.glob("clips_16k-*.packed"))) == 2
    assert sorted(os.listdir(folder.parent)) == ["clips_16k"]


def same_size(folder):
    write(folder / "1.wav", 810, seed=99)


def same_time(folder):
    stat = os.stat(folder / "2.wav")
    write(folder / "2.wav", 900)
    os.utime(folder / "2.wav", ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: write(folder / "new.wav"), "1 of its clips are new, such as new.wav"),
        (lambda folder: (folder / "3.wav").unlink(), "1 of its clips are gone, such as 3.wav"),
        (same_size, "1 of its clips are changed, such as 1.wav"),
        (same_time, "1 of its clips are changed, such as 2.wav"),
    ],
)
def test_made_anew_when_a_source_changes(folder, capsys, change, reason):
    pack(folder)
    capsys.readouterr()
    change(folder)
    check(pack(folder), folder)
    assert capsys.readouterr().err.endswith(f": {reason}\n")
    check(pack(folder), folder)
    assert capsys.readouterr().err == ""


def test_another_rate_is_asked_for(folder):
    pack(folder)
    with pytest.raises(InputError, match="sampling rate of 16000 Hz; resample it to 8000 Hz"):
        pack(folder, 8000)
    check(pack(folder), folder)


def test_every_flipped_byte_is_found(folder, capsys):
    path = pack(folder).path
    whole = path.read_bytes()
    places = {*range(0, len(whole), 97), *range(len(whole) - 40, len(whole))}
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        capsys.readouterr()
        check(pack(folder), folder)
        assert "damaged" in capsys.readouterr().err
        assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 7, 20, 5000, -1])
def test_a_store_that_is_cut_short_is_made_anew(folder, capsys, length):
    path = pack(folder).path
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    capsys.readouterr()
    check(pack(folder), folder)
    assert "it is damaged or cut short" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_a_pickled_store_maps_its_file_again(folder):
    store = pack(folder)
    pickled = pickle.dumps(store)
    assert len(pickled) < store.samples.nbytes / 2
    check(pickle.loads(pickled), folder)


def in_child(function):
    """What a function says in a process of its own: None, or its InputError."""
    ours, theirs = FORK.Pipe()

    def work():
        try:
            function()
            theirs.send(None)
        except InputError as error:
            theirs.send(str(error))

    process = FORK.Process(target=work)
    process.start()
    assert ours.poll(60)
    said = ours.recv()
    process.join(60)
    return said


@pytest.mark.slow
def test_two_processes_at_once(folder, capfd):
    for clip in range(300):
        write(folder / f"more {clip}.wav", seed=clip)
    barrier = FORK.Barrier(3)

    def work():
        barrier.wait()
        check(pack(folder), folder)

    processes = [FORK.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert capfd.readouterr().err.count("packing 305 clips") == 1


def test_a_read_only_folder_is_a_sentence_unless_the_store_is_there():
    # Outside of pytest's folders: another user must get there.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name, "audio", "clips_16k")
        folder.mkdir(parents=True)
        write(folder / "a.wav")
        os.chmod(folder.parent, 0o555)

        def work():
            if os.geteuid() == 0:
                os.setuid(65534)  # root may do everything
            pack(folder)

        said = in_child(work)
        assert said.startswith(f"{folder}.packed cannot be written (Permission denied); give ")
        assert "data.packed_folder" in said
        assert "data.packed: false" in said
        os.chmod(folder.parent, 0o755)
        pack(folder)
        os.chmod(folder.parent, 0o555)
        assert in_child(work) is None
        os.chmod(folder.parent, 0o755)


def test_a_full_disk_is_a_sentence(folder):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        pack(folder)

    said = in_child(work)
    assert said.startswith(f"{folder}.packed cannot be written (File too large); make room")
    assert not store_path(folder).exists()
    assert not list(folder.parent.glob(".*partial*"))


def die_at(number):
    """Kill this process at one of its file operations."""
    operations = iter(range(number))

    def look(event, arguments):
        known = ("open", "os.scandir", "os.mkdir", "os.rename", "os.chmod", "os.remove")
        if event in known and "clips_16k" in str(arguments[0]) and next(operations, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def assert_whole_or_absent(folder):
    if store_path(folder).exists():
        check(open_store(store_path(folder), find_sources(folder), 16000), folder)


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_killed_at_every_file_operation(folder, there):
    """With a store of before in its place, and without."""
    pack(folder)
    write(folder / "new.wav")
    before = store_path(folder).read_bytes()
    left_over = 0

    def work(number):
        die_at(number)
        pack(folder)

    for number in range(100):
        if there:
            store_path(folder).write_bytes(before)
        else:
            store_path(folder).unlink(missing_ok=True)
        process = FORK.Process(target=work, args=(number,))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        if there and store_path(folder).read_bytes() == before:
            left_over += 1
        else:
            assert_whole_or_absent(folder)
            left_over += not store_path(folder).exists()
    # Before the store is in its place there are: the lock, the temporary file and its renaming.
    assert number > left_over > 5
    check(pack(folder), folder)
    assert not list(folder.parent.glob(".*partial*"))


@pytest.mark.slow
def test_killed_at_random_times(folder):
    for clip in range(400):
        write(folder / f"more {clip}.wav", seed=clip)
    start = time.monotonic()
    whole = pack(folder).path.read_bytes()
    seconds = time.monotonic() - start
    draw = random.Random(0)
    for _ in range(6):
        store_path(folder).unlink(missing_ok=True)
        process = FORK.Process(target=functools.partial(pack, folder))
        process.start()
        time.sleep(draw.uniform(0, seconds))
        process.kill()
        process.join()
        assert_whole_or_absent(folder)
        pack(folder)
        assert store_path(folder).read_bytes() == whole
        assert not list(folder.parent.glob(".*partial*"))
