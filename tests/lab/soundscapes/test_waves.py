import numpy as np
import pytest

from lab.soundscapes.waves import (
    RATE,
    Draw,
    audible,
    damped,
    formants,
    noise,
    periodic,
    samples,
)


def spectrum(wave):
    return np.fft.rfftfreq(len(wave), 1 / RATE), np.abs(np.fft.rfft(wave)) ** 2


def test_training_parameters_are_a_middle_part_of_the_test_parameters():
    rng = np.random.default_rng(0)
    narrow = [Draw(rng, spread=0.7)(100, 200) for _ in range(500)]
    whole = [Draw(rng)(100, 200) for _ in range(500)]
    assert 115 <= min(narrow) < 120
    assert 180 < max(narrow) <= 185
    assert min(whole) < 105
    assert max(whole) > 195


def test_equal_parameters_make_the_same_object_with_other_waveforms():
    one, two = (Draw(np.random.default_rng(i), np.random.default_rng(7)) for i in range(2))
    assert one(1, 2) == two(1, 2)
    assert one.log(1, 100) == two.log(1, 100)
    assert one.choice(1000) == two.choice(1000)
    assert one.rng.random() != two.rng.random()


def test_noise_keeps_to_its_band():
    frequency, power = spectrum(noise(RATE, np.random.default_rng(0), 1000, 3000))
    inside = (frequency > 700) & (frequency < 4300)
    assert power[inside].sum() > 0.95 * power.sum()


def test_noise_has_unit_level_and_the_slope_asked_for():
    wave = noise(4 * RATE, np.random.default_rng(0), 20, 8000, slope=-6)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(1, rel=1e-3)
    frequency, power = spectrum(wave)
    octaves = [power[(frequency > f) & (frequency < 2 * f)].mean() for f in (500, 1000)]
    assert 10 * np.log10(octaves[1] / octaves[0]) == pytest.approx(-6, abs=0.7)


def test_periodic_sounds_at_the_multiples_of_its_fundamental_only():
    wave = periodic(np.full(RATE, 400.0), [1, 0, 1], np.random.default_rng(0))
    _, power = spectrum(wave)
    assert set(np.flatnonzero(power > 0.01 * power.max())) == {400, 1200}


def test_periodic_leaves_out_what_would_alias():
    wave = periodic(np.full(RATE, 3000.0), [1, 1, 1, 1], np.random.default_rng(0))
    _, power = spectrum(wave)
    assert set(np.flatnonzero(power > 0.01 * power.max())) == {3000, 6000}


def test_damped_dies_away_by_one_neper_in_its_decay_time():
    wave = damped(RATE, [1000], [0.1], [1])
    first, later = (np.abs(wave[at : at + 160]).max() for at in (0, 1600))
    assert later / first == pytest.approx(np.exp(-1), rel=0.02)


def test_formants_raise_their_frequency_and_move():
    white = noise(RATE, np.random.default_rng(0))
    wave = formants(white, np.array([[800.0], [3000.0]]), (100,), (1,))
    assert len(wave) == RATE
    start, end = (spectrum(part)[1] for part in (wave[:1600], wave[-1600:]))
    assert np.argmax(start) * 10 == pytest.approx(900, abs=350)
    assert np.argmax(end) * 10 == pytest.approx(2900, abs=350)


def test_audible_finds_the_first_and_last_loud_frame():
    wave = np.full(samples(1), 1e-4, dtype=np.float32)
    wave[4800:6400] = wave[8000:9600] = 0.5
    assert audible(wave) == (4800, 9600)
    assert audible(wave, 90) == (0, 16000)
    assert audible(np.ones(100, dtype=np.float32)) == (0, 100)
