"""Pages, also in a real browser: tables that sort, values under the pointer, the player."""

import io
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
import soundfile

from lab.errors import InputError
from lab.evaluation import page, plots
from lab.evaluation.page import Clip
from lab.evaluation.report import Report

SECONDS = 1.5
ROWS = pd.DataFrame(
    {
        "F1": ["9.50 ± 0.10", "51.00 ± 1.00", "-", "100.00"],
        "p": ["0.040", "< 0.001", "-", "0.300"],
        "loss": [2e-5, np.nan, -1.0, 1500.0],
        "words": ["b", "c", "a", "9 d"],
    },
    index=pd.Index(["nine", "fifty-one", "none", "hundred"], name="setting"),
)


def write_recording(folder):
    """A recording in stereo, at a rate of its own."""
    time = np.arange(round(44100 * SECONDS)) / 44100
    sound = 0.3 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(folder / "a & b.wav", np.stack([sound, 0 * sound], axis=1), 44100)
    return folder / "a & b.wav"


@pytest.fixture
def recording(tmp_path):
    return write_recording(tmp_path)


def test_the_audio_is_a_flac_file_in_mono_and_in_time(recording):
    clip = Clip(recording)
    assert (clip.name, clip.seconds) == ("a & b.wav", SECONDS)
    found, rate = soundfile.read(io.BytesIO(clip.flac))
    assert rate == 16000
    assert soundfile.info(io.BytesIO(clip.flac)).format == "FLAC"
    time = np.arange(round(16000 * SECONDS)) / 16000
    inner = slice(100, -100)
    expected = 0.15 * np.sin(2 * np.pi * 440 * time)
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-3)


def test_audio_that_is_away_or_too_long_or_none(recording, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"away.wav does not exist$"):
        Clip(tmp_path / "away.wav")
    (tmp_path / "words.wav").write_text("no audio")
    with pytest.raises(InputError, match="cannot be read as audio"):
        Clip(tmp_path / "words.wav")
    monkeypatch.setattr(page, "LONGEST", 1.0)
    with pytest.raises(InputError, match="lasts 2 s; a page takes up to 1 s"):
        Clip(recording)


def curves(name="loss"):
    table = pd.DataFrame({"loss": [2.0, 1.0, 0.5], "|z|": [1.0, 2.0, 3.0]})
    return plots.curves({name: table, "coherence": table / 2}, panels=["loss", "|z|"])


def test_figures_of_a_page_do_not_share_names():
    text = page.figure("one", "One", curves()) + page.figure("two", "Two", curves())
    names = re.findall(r'\sid="([^"]+)"', text)
    assert len(names) == len(set(names))
    used = re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert used
    assert {one or other for one, other in used} <= set(names)


def test_figures_take_the_colours_of_the_page_and_maps_keep_theirs():
    text = page.figure("one", "One", curves("baseline"))
    for colour in ("#000000", plots.STYLES["baseline"]["color"].lower()):
        assert colour not in text.lower()
    assert "stroke: var(--baseline)" in text
    assert "stroke: currentColor" in text


def test_names_of_models_end_no_element():
    text = page.figure("one", 'A "title"', curves("</script><b>"))
    assert text.count("</script>") == 1
    values = re.search(r'<script type="application/json" id="one-values">(.*?)</script>', text)[1]
    assert json.loads(values)["panels"][0]["lines"][0]["name"] == "</script><b>"
    assert 'aria-label="A &quot;title&quot;. Panels: loss, |z|. Shown: &lt;/script' in text


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with a table, curves and a clip."""
    folder = tmp_path_factory.mktemp("report")
    report = Report("A run", command="python x.py")
    report.table("Scores", ROWS)
    report.figure("Training", curves("baseline"), "A caption.")
    frames = np.linspace(0, 1, 30)[:, None] * [1, 0.5]
    figure = plots.posteriors(
        {"baseline": frames, "coherence": frames**2},
        pd.DataFrame({"onset": [0.2], "offset": [0.9], "event_label": ["Dog"]}),
        ["Dog", "Cat"],
        frame_seconds=0.05,
    )
    report.clip("A clip", figure, write_recording(folder))
    (folder / "page.html").write_text(report.page(), "utf-8")
    return folder / "page.html"


@pytest.fixture
def open_report(report, browse):
    return browse(report)


def find(driver, selector):
    return driver.find_element("css selector", selector)


def order(driver):
    cells = driver.find_elements("css selector", "table.sortable tbody th")
    return [cell.text for cell in cells]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_click_sorts_and_those_without_a_value_come_last(open_report):
    driver = open_report
    written = list(ROWS.index)
    assert order(driver) == written
    head, *others = driver.find_elements("css selector", "table.sortable thead th")[1:]
    for state, expected in (
        ("ascending", ["nine", "fifty-one", "hundred", "none"]),
        ("descending", ["hundred", "fifty-one", "nine", "none"]),
        ("none", written),
    ):
        find(head, "button").click()
        assert head.get_attribute("aria-sort") == state
        assert order(driver) == expected
    for other, expected in zip(
        others,
        (
            ["fifty-one", "nine", "hundred", "none"],
            ["none", "nine", "hundred", "fifty-one"],
            ["hundred", "none", "nine", "fifty-one"],
        ),
    ):
        find(other, "button").click()
        assert order(driver) == expected
        assert [one.get_attribute("aria-sort") for one in (head, other)] == ["none", "ascending"]
    assert not driver.find_elements("css selector", "table.settings button")


@pytest.mark.slow
def test_the_keyboard_reaches_the_headers_and_sorts(open_report):
    from selenium.webdriver.common.keys import Keys

    driver = open_report
    for _ in range(20):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        if driver.switch_to.active_element.text == "F1":
            break
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert order(driver)[0] == "nine"
    driver.switch_to.active_element.send_keys(Keys.SPACE)
    assert order(driver)[0] == "hundred"


def point_at(driver, figure, panel, x, y, devices=()):
    """Move the pointer to a place of a panel, each side of which is from 0 to 1."""
    from selenium.webdriver import ActionChains

    svg = find(driver, f"{figure} svg")
    values = find(driver, f"{figure} script").get_attribute("textContent")
    left, top, right, bottom = json.loads(values)["panels"][panel]["box"]
    _, _, width, height = map(float, svg.get_dom_attribute("viewBox").split())
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    across = (left + x * (right - left)) / width - 0.5
    down = (top + y * (bottom - top)) / height - 0.5
    size = svg.size
    actions = ActionChains(driver, duration=0, devices=[*devices])
    actions.move_to_element_with_offset(
        svg, round(across * size["width"]), round(down * size["height"])
    ).perform()
    return actions


@pytest.mark.slow
def test_the_pointer_shows_values(open_report):
    driver = open_report
    curves, clip = "figure:not(.player)", "figure.player"
    tip = find(driver, "#tip")
    assert not tip.is_displayed()
    point_at(driver, curves, 0, 0.5, 0.3)
    assert tip.text.split("\n") == ["epoch 1", "baseline 1", "coherence 0.5"]
    point_at(driver, curves, 1, 0.97, 0.3)
    assert tip.text.split("\n") == ["epoch 2", "baseline 3", "coherence 1.5"]
    dots = driver.find_elements("css selector", f"{curves} .dot")
    # The one above the other, as their values.
    assert float(dots[0].get_dom_attribute("cy")) < float(dots[1].get_dom_attribute("cy"))
    point_at(driver, clip, 0, 0.5, 0.3)
    assert tip.text.split("\n")[-1] == "reference event: 0.20 to 0.90 s"
    point_at(driver, clip, 0, 0.9, 0.3)
    assert "reference event" not in tip.text
    point_at(driver, clip, 0, 0.5, -0.08)
    assert not tip.is_displayed()


@pytest.mark.slow
def test_what_a_finger_touches_stays(open_report):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    driver = open_report
    finger = [PointerInput("touch", "finger")]
    tip = find(driver, "#tip")
    point_at(driver, "figure:not(.player)", 0, 0.5, 0.3, finger).click().perform()
    assert tip.text.split("\n") == ["epoch 1", "baseline 1", "coherence 0.5"]
    caption = find(driver, "figcaption")
    ActionChains(driver, duration=0, devices=finger).move_to_element(caption).click().perform()
    assert not tip.is_displayed()


@pytest.mark.slow
def test_the_clip_plays_and_the_cursor_runs(open_report):
    driver = open_report
    button, audio = find(driver, ".controls button"), find(driver, "audio")
    assert audio.get_attribute("controls") is None
    assert button.get_attribute("aria-label") == "Play a & b.wav"

    def places():
        lines = driver.find_elements("css selector", "figure.player .cursor")
        return [float(line.get_dom_attribute("x1")) for line in lines]

    def playing_time():
        return driver.execute_script("return arguments[0].currentTime", audio)

    start = places()
    assert len(start) == 2
    # Slowly: it shall not end before it is stopped, however busy the machine is.
    driver.execute_script("arguments[0].playbackRate = 0.0625", audio)
    button.click()
    wait_for(lambda: playing_time() > 0.05)
    assert button.get_attribute("aria-label") == "Pause a & b.wav"
    button.click()
    wait_for(lambda: button.text == "Play")
    values = find(driver, "figure.player script").get_attribute("textContent")
    left, _, right, _ = json.loads(values)["panels"][0]["box"]
    place = left + playing_time() / SECONDS * (right - left)
    assert 0.05 < playing_time() < SECONDS
    assert places() == pytest.approx([place, place], abs=0.5)
    assert places()[0] > start[0]
    # To the end, where it can be started again.
    driver.execute_script("arguments[0].playbackRate = 1", audio)
    point_at(driver, "figure.player", 1, 0.9, 0.5).click().perform()
    wait_for(lambda: abs(playing_time() - 0.9 * SECONDS) < 0.02)
    button.click()
    wait_for(lambda: driver.execute_script("return arguments[0].ended", audio))
    wait_for(lambda: button.text == "Play")
    assert places()[0] == pytest.approx(right, abs=1)


@pytest.mark.slow
def test_dark_light_narrow_and_in_print(open_report):
    driver = open_report

    def look(scheme, width, media="screen"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        settings = {"media": media, "features": features}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", settings)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return driver.execute_script(
            "const style = getComputedStyle(document.body), page = document.documentElement;"
            "return [style.backgroundColor, style.color, page.scrollWidth <= page.clientWidth]"
        )

    try:
        light, dark, narrow = look("light", 1000), look("dark", 1000), look("light", 360)
        printed = look("dark", 1000, "print")
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    assert printed[:2] == light[:2]
    # Tables and figures that are wider are scrolled, not the page.
    assert all(found[2] for found in (light, dark, narrow))
