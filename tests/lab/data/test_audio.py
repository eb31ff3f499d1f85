"""Every kind of bad audio, and resampling."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile
from damage import damaged, fuzz, read_or_refuse
from hypothesis import given
from hypothesis import strategies as st

from lab.data.audio import convert, read_audio, read_length, resample
from lab.errors import InputError


def write(path, sound, rate=16000, **options):
    soundfile.write(path, sound, rate, **options)
    return path


def test_audio_is_read_as_written(tmp_path):
    sound = np.array([0, 16384, -32768, 32767], dtype=np.int16)
    audio = read_audio(write(tmp_path / "a.wav", sound))
    assert audio.dtype == np.float32
    assert audio.tolist() == [0.0, 0.5, -1.0, 32767 / 32768]


def test_channels_are_averaged(tmp_path):
    sound = np.stack([np.full(10, 0.5), np.full(10, -0.25)], 1)
    assert read_audio(write(tmp_path / "a.wav", sound)) == pytest.approx(np.full(10, 0.125))


def test_any_rate_is_read_when_none_is_asked_for(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(44), 44100)
    assert len(read_audio(path, None)) == len(read_audio(path, 44100)) == read_length(path, None)


def make_wav(sound, rate=16000, **options):
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="WAV", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (make_wav(np.zeros(10), 44100), "sampling rate of 44100 Hz.* 16000 Hz"),
        (make_wav(np.zeros(0)), "holds no audio"),
        (make_wav(np.zeros(1600))[:1600], "is cut short"),
        (make_wav(np.zeros(1600))[:16], "cannot be read"),
        (b"", "cannot be read"),
        (b"not a wav file at all", "cannot be read"),
        (b"RIFF\x00\x00\x00\x00WAVE", "(cannot be read|holds no audio)"),
        (make_wav(np.array([0, np.nan]), subtype="FLOAT"), "not finite"),
        (make_wav(np.array([0, np.inf]), subtype="FLOAT"), "not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # libsndfile writes the time
)
def test_what_cannot_be_used_is_named(tmp_path, content, words):
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.wav .*{words}"):
        read_audio(path)


LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"
SILENT, LOUD = np.zeros(800, "<i2"), np.random.default_rng(0).integers(-9999, 9999, 800, "<i2")


def piped(path, riff, data, samples, before=b"", after=b""):
    """A wav file with the sizes that a program wrote who could not go back to its header."""
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    header = b"RIFF" + struct.pack("<I", riff) + b"WAVE" + fmt + before
    path.write_bytes(header + b"data" + struct.pack("<I", data) + samples.tobytes() + after)
    return path


@pytest.mark.parametrize("samples", [SILENT, LOUD])
@pytest.mark.parametrize(
    ("riff", "data", "before"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF, LIST),  # ffmpeg
        (0x7FFFF024, 0x7FFFF000, b""),  # sox
        (0x80000024, 0x80000000, b""),  # arecord
        (0x7FFFFF24, 0x7FFFFF00, b""),  # arecord, later
        (0xFFFFFFFF, 0xFFFFFFFF - 36, b""),
        (0, 0, b""),
        (0, 0, LIST),
        (36, 0, b""),
        (0xFFFFFFFF, 0, b""),
    ],
)
def test_headers_that_a_pipe_leaves_are_read(tmp_path, riff, data, before, samples):
    path = piped(tmp_path / "a.wav", riff, data, samples, before)
    np.testing.assert_array_equal(read_audio(path), samples.astype(np.float32) / 32768)
    assert read_length(path) == 800


@pytest.mark.parametrize("announced", [1602, 200_000, 0x7FFFE000, 3_000_000_000])
def test_a_header_that_promises_more_is_cut_short(tmp_path, announced):
    path = piped(tmp_path / "a.wav", announced + 36, announced, LOUD)
    for read in (read_audio, read_length):
        with pytest.raises(InputError, match=f"announces {announced} bytes of audio and 1600"):
            read(path)


def test_what_stands_after_no_samples_is_not_taken_for_some(tmp_path):
    none = SILENT[:0]
    path = piped(tmp_path / "a.wav", 36 + len(LIST), 0, none, after=LIST)
    for read in (read_audio, read_length):
        with pytest.raises(InputError, match="holds no audio"):
            read(path)
        with pytest.raises(InputError, match="holds no audio"):
            read(piped(tmp_path / "b.wav", 0, 0, none))


def tone(frequency, rate, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_tone_stays_the_same_tone(rate):
    # Away from the ends, where the filter sees silence.
    inside = slice(1000, -1000)
    resampled = resample(tone(1000, rate), rate, 16000)
    assert resampled[inside] == pytest.approx(tone(1000, 16000)[inside], abs=2e-3)


def test_what_the_lower_rate_cannot_hold_is_gone():
    assert np.abs(resample(tone(12000, 44100), 44100, 16000)[500:-500]).max() < 2e-3


def test_conversion_gives_mono_16_bit(tmp_path):
    left = tone(440, 44100, 0.5)
    source = write(tmp_path / "a.flac", np.stack([left, -left / 2], 1), 44100)
    convert(source, tmp_path / "new" / "a.wav")
    info = soundfile.info(str(tmp_path / "new" / "a.wav"))
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert info.frames == 8000
    assert np.abs(read_audio(tmp_path / "new" / "a.wav")).max() == pytest.approx(0.125, abs=0.01)


def test_loud_audio_is_limited_and_does_not_wrap_around(tmp_path):
    source = write(tmp_path / "a.wav", np.full(2000, 1.5), subtype="FLOAT")
    convert(source, tmp_path / "b.wav")
    assert read_audio(tmp_path / "b.wav").min() > 0.99


def test_what_is_converted_is_kept_until_its_source_changes(tmp_path):
    source, target = write(tmp_path / "a.wav", np.zeros(800), 8000), tmp_path / "b.wav"
    convert(source, target)
    os.utime(target, (2e9, 2e9))
    convert(source, target)
    assert target.stat().st_mtime == 2e9
    os.utime(source, (3e9, 3e9))
    convert(source, target)
    assert target.stat().st_mtime != 2e9


def test_a_damaged_target_is_written_again(tmp_path):
    source, target = write(tmp_path / "a.wav", np.zeros(800), 8000), tmp_path / "b.wav"
    target.write_bytes(b"RIFF")
    os.utime(target, (2e9, 2e9))
    convert(source, target)
    assert len(read_audio(target)) == 1600


def test_a_source_or_target_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match=r"a\.wav cannot be read"):
        convert(tmp_path / "a.wav", tmp_path / "b.wav")
    assert os.listdir(tmp_path) == ["a.wav"]
    source = write(tmp_path / "c.wav", np.zeros(800))
    with pytest.raises(InputError, match=r"b\.wav cannot be written"):
        convert(source, tmp_path / "a.wav" / "b.wav")


def encoded(form, subtype, channels=1):
    file = io.BytesIO()
    sound = 0.1 * np.random.default_rng(0).standard_normal((800, channels))
    soundfile.write(file, sound, 16000, format=form, subtype=subtype)
    return file.getvalue()


FORMATS = [
    encoded("WAV", "PCM_16"),
    encoded("WAV", "FLOAT"),
    encoded("WAV", "PCM_24", 2),
    encoded("WAV", "IMA_ADPCM"),
    encoded("WAVEX", "PCM_16"),
    encoded("FLAC", "PCM_16"),
    encoded("OGG", "VORBIS"),
]


@fuzz
@given(damaged(FORMATS) | st.binary(max_size=100).map(b"RIFF\x80\0\0\0WAVEfmt ".__add__))
def test_whatever_a_file_holds_it_is_finite_audio_or_refused(tmp_path, content):
    audio = read_or_refuse(read_audio, tmp_path / "clip.wav", content)
    if audio is not None:
        assert (audio.dtype, audio.ndim) == (np.float32, 1)
        assert audio.size
        assert np.isfinite(audio).all()
