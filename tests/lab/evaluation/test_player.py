"""A page of one recording: it plays, shows names as text, and needs nothing else."""

import time

import numpy as np
import pandas as pd
import pytest
import soundfile

from lab.errors import InputError
from lab.evaluation.player import player
from lab.evaluation.sound import LONGEST, RATE, read_sound, spectrogram

CLASSES = ["Dog", "</script><b>cat</b> $x_{$", "never"]
EVENTS = pd.DataFrame(
    [["Dog", 0.5, 1.0, 0.9], [CLASSES[1], 0.2, 0.8, 0.8], ["Dog", 1.5, 1.75, 0.7]],
    columns=["event_label", "onset", "offset", "confidence"],
)


def write(path, events=EVENTS, seconds=2):
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, RATE * seconds)
    posteriors = np.zeros((20 * seconds, 3))
    posteriors[10:20, 0] = 0.9
    options = {"frame_seconds": 0.05, "threshold": 0.5, "settings": {"checkpoint": "a.ckpt"}}
    path.write_text(player("<i>x</i> $a$.wav", sound, posteriors, events, CLASSES, **options))
    return path


def test_a_tone_is_where_the_spectrogram_is_loudest():
    for seconds in (0.01, 1, 90):
        time_axis = np.arange(round(seconds * RATE)) / RATE
        times, frequencies, level = spectrogram(np.sin(2 * np.pi * 3000 * time_axis))
        assert level.shape == (len(frequencies), len(times))
        assert len(times) <= 4100
        loudest = frequencies[level.max(axis=1).argmax()]
        assert loudest == pytest.approx(3000, abs=63)
        assert 0 <= times[0] <= times[-1] <= max(seconds, 1024 / RATE)


def test_silence_and_no_events_are_a_page(tmp_path):
    assert spectrogram(np.zeros(RATE))[2].max() == 255
    text = write(tmp_path / "page.html", EVENTS.iloc[:0]).read_text()
    assert "No events at threshold 0.5." in text


def test_recordings_that_are_too_long_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(int(LONGEST * 100) + 200), 100)
    with pytest.raises(InputError, match=r"a\.wav lasts 602 s, and a page takes up to 600 s"):
        read_sound(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.zeros((800, 2)), 8000)
    assert len(read_sound(tmp_path / "b.wav")) == 1600


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_events_play_when_they_are_clicked(tmp_path, browse):
    from selenium.webdriver import ActionChains

    driver = browse(write(tmp_path / "page.html", seconds=60))
    state = "const a = document.querySelector('audio'); return [a.paused, a.currentTime]"
    wait_for(lambda: driver.find_elements("css selector", ".barlayer .point path"))
    bars = driver.find_elements("css selector", ".barlayer .point path")
    assert len(bars) == 3
    ActionChains(driver).move_to_element(bars[1]).click().perform()
    wait_for(lambda: driver.execute_script(state)[1] >= 1.5)
    # It stops at the end of the event, and the cursor stays there.
    wait_for(lambda: driver.execute_script(state)[0])
    assert 1.75 <= driver.execute_script(state)[1] < 60
    place = "return document.getElementById('figure').layout.shapes[0].x0"
    assert driver.execute_script(place) == pytest.approx(driver.execute_script(state)[1], abs=0.1)


@pytest.mark.slow
def test_names_are_text(tmp_path, browse):
    driver = browse(write(tmp_path / "page.html"))
    assert driver.find_element("css selector", "h1").text == "<i>x</i> $a$.wav"
    assert driver.title == "<i>x</i> $a$.wav"
    wait_for(lambda: driver.find_elements("css selector", ".legendtext"))
    legend = [one.text for one in driver.find_elements("css selector", ".legendtext")]
    assert legend == CLASSES
    ticks = [one.text for one in driver.find_elements("css selector", ".y3tick text, .ytick text")]
    assert CLASSES[1] in ticks
