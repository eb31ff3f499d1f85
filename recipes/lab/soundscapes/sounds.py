"""Parametric models of the ten DESED sound classes and of domestic backgrounds.

Each model is a function ``(seconds, draw) -> wave`` at 16 kHz, at any level: a sketch with the
spectro-temporal signature of its class rather than a faithful simulation, with parameters drawn
for each sound. A sound lasts ``seconds`` or somewhat less, and has no pause longer than the
150 ms under which DESED's annotations do not split an event.
"""

from __future__ import annotations

from typing import Callable

import numpy as np
import scipy.signal

from lab.soundscapes.waves import (
    RATE,
    Draw,
    damped,
    fade,
    formants,
    noise,
    periodic,
    samples,
    wander,
)

# Formants in Hz of the vowels of an average talker (Peterson & Barney, JASA 1952).
_VOWELS = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
        [640, 1190, 2390],
        [490, 1350, 1690],
    ],
    dtype=float,
)


def _repeat(seconds: float, draw: Draw, make: Callable[[], np.ndarray], gap) -> np.ndarray:
    """String sounds together, with gaps drawn from ``gap`` seconds, until ``seconds`` is full."""
    parts: list[np.ndarray] = [make()]
    left = samples(seconds) - len(parts[0])
    while left > 0:
        pause, part = samples(draw(*gap)), make()
        if pause + len(part) > left:
            break
        parts += [np.zeros(pause, dtype=np.float32), part]
        left -= pause + len(part)
    return np.concatenate(parts)


def alarm_bell_ringing(seconds: float, draw: Draw) -> np.ndarray:
    """Electronic beeps, a warbling siren or a struck bell, steady in pitch and loud."""
    n, kind = samples(seconds), draw.choice(4)
    pitch = draw.log(700, 3800)
    time = np.arange(n) / RATE
    harmonics = np.array([1, draw(0, 0.3), draw(0, 0.5), 0, draw(0, 0.2)])
    if kind == 0:  # beeps
        period, duty = draw.log(0.09, 0.3), draw(0.45, 0.7)
        gate = (time / period % 1) < duty
        smooth = np.convolve(gate, np.hanning(80) / np.hanning(80).sum(), "same")
        return fade(periodic(np.full(n, pitch), harmonics, draw.rng) * smooth, 0.003, 0.005)
    if kind == 1:  # two tones in turn
        period, step = draw.log(0.15, 0.9), draw(1.15, 1.6)
        f0 = np.where((time / period % 1) < 0.5, pitch / 1.5, pitch * step / 1.5)
        return fade(periodic(f0, harmonics, draw.rng), 0.005, 0.01)
    if kind == 2:  # siren
        rate, depth = draw.log(0.7, 8), draw(0.15, 0.45)
        f0 = pitch / 1.5 * (1 + depth * scipy.signal.sawtooth(2 * np.pi * rate * time, 0.5))
        return fade(periodic(f0, harmonics, draw.rng), 0.02, 0.03)
    # A bell: its hammer strikes again before the inharmonic partials have died away.
    strike = samples(1 / draw(9, 24))
    size = samples(min(seconds, 0.6))
    ratios = np.array([1, 1.5, 2.0, 2.74, 3.76, 5.1]) * (pitch / 2)
    ratios = ratios[ratios < 7500]
    decays = draw(0.08, 0.35) / np.sqrt(np.arange(1, len(ratios) + 1))
    stroke = damped(size, ratios, decays, draw.rng.uniform(0.3, 1, len(ratios)))
    train = np.zeros(n, dtype=np.float32)
    train[::strike] = draw.rng.uniform(0.7, 1, len(train[::strike]))
    return fade(scipy.signal.fftconvolve(train, stroke)[:n], 0.001, 0.05)


def blender(seconds: float, draw: Draw) -> np.ndarray:
    """A motor that spins up, gliding under its load, with blades that chop the noise."""
    n = samples(seconds)
    time = np.arange(n) / RATE
    speed = draw.log(130, 330)
    load = 1 + draw(0.03, 0.12) * wander(n, draw.rng, draw(0.7, 3))
    f0 = speed * load * (1 - 0.5 * np.exp(-time / draw(0.05, 0.25)))
    motor = periodic(f0, np.arange(1, 40) ** -draw(0.4, 1.0), draw.rng)
    chop = 1 + draw(0.4, 0.9) * np.sin(2 * np.pi * np.cumsum(f0) / RATE / draw(9, 20))
    churn = noise(n, draw.rng, draw(300, 700), draw(3500, 6500), draw(-3, 0))
    return fade(motor + draw(0.5, 1.3) * churn * chop, 0.04, draw(0.05, 0.25))


def cat(seconds: float, draw: Draw) -> np.ndarray:
    """Meows: an arched pitch, and resonances that sweep as the mouth opens and closes."""
    voice, timbre = draw.log(380, 800), draw(0.6, 1.1)

    def meow() -> np.ndarray:
        n = samples(min(seconds, draw.log(0.35, 1.3)))
        x = np.linspace(0, 1, n)
        arch = np.sin(np.pi * x ** draw(0.6, 1.1))
        f0 = voice * (0.75 + draw(0.25, 0.6) * arch)
        f0 = f0 * (1 + 0.015 * np.sin(2 * np.pi * draw(5, 9) * n / RATE * x))
        source = periodic(f0, np.arange(1, 20) ** -timbre, draw.rng)
        source += 0.05 * noise(n, draw.rng)
        opening = np.array([[550, 2300], [900, 1900], [1300, 1700], [1000, 1300], [600, 1000]])
        wave = formants(source, opening * draw(0.85, 1.2), (180, 260), (1, 0.7))
        return fade(wave, min(0.3 * n / RATE, 0.08), 0.3 * n / RATE)

    return _repeat(seconds, draw, meow, (0.02, 0.1))


def dishes(seconds: float, draw: Draw) -> np.ndarray:
    """Clinks of crockery and cutlery: a few inharmonic, quickly damped partials, no warning."""
    n = samples(seconds + 0.2)
    wave = np.zeros(n, dtype=np.float32)
    at = 0.0
    while at <= max(seconds - 0.2, 0):
        size = min(n - samples(at), samples(0.35))
        partials = draw.rng.integers(3, 8)
        frequencies = np.sort([draw.log(900, 7200) for _ in range(partials)])
        decays = draw.log(0.012, 0.07) * (frequencies[0] / frequencies) ** 0.5
        clink = damped(size, frequencies, decays, draw.rng.uniform(0.2, 1, partials))
        clink += draw(0.3, 1) * noise(size, draw.rng, 1500) * damped(size, [20], [0.006], [1])
        start = samples(at) - 1
        wave[start : start + size] += draw.log(0.3, 1) * clink
        at += draw.log(0.03, 0.16)
    return wave


def dog(seconds: float, draw: Draw) -> np.ndarray:
    """Barks: a fast attack, a pitch that rises and falls, a rough voice."""
    voice, rough = draw.log(280, 950), draw(0.2, 0.6)
    length, resonance = draw.log(0.1, 0.24), draw.log(600, 1500)

    def bark() -> np.ndarray:
        n = samples(length * draw(0.85, 1.15))
        x = np.linspace(0, 1, n)
        f0 = voice * draw(0.9, 1.1) * (0.6 + 0.5 * np.sin(np.pi * x**0.6))
        source = periodic(f0, np.arange(1, 30) ** -0.7, draw.rng)
        source += rough * noise(n, draw.rng, 300, 5000)
        resonances = np.array([[0.7, 2.2], [1.2, 2.4], [0.8, 2.0]]) * resonance
        wave = formants(source, resonances, (350, 700), (1, 0.5))
        return fade(wave * np.exp(-1.5 * x), 0.012, 0.6 * n / RATE)

    return _repeat(seconds, draw, bark, (0.03, 0.12))


def electric_shaver_toothbrush(seconds: float, draw: Draw) -> np.ndarray:
    """A buzz: all harmonics of a steady low fundamental, shaded as the device moves."""
    n = samples(seconds)
    f0 = draw.log(85, 260) * (1 + 0.01 * wander(n, draw.rng, 1.5))
    harmonics = np.arange(1, 80)
    tilt = harmonics ** -draw(0.0, 0.5) * draw.rng.uniform(0.3, 1, len(harmonics))
    buzz = periodic(f0, tilt, draw.rng) + draw(0.05, 0.25) * noise(n, draw.rng, 1500, 7500)
    stroke = 1 + draw(0.1, 0.45) * np.sin(
        2 * np.pi * draw(0.6, 2.5) * np.arange(n) / RATE + wander(n, draw.rng, 1)
    )
    return fade(buzz * stroke, 0.02, 0.04)


def frying(seconds: float, draw: Draw) -> np.ndarray:
    """A high hiss with crackle: short bursts at random times, a few of them loud."""
    n = samples(seconds)
    crackle = np.zeros(n, dtype=np.float32)
    pops = draw.rng.poisson(draw.log(25, 140) * seconds)
    crackle[draw.rng.integers(n, size=pops)] = draw.rng.lognormal(0, 0.9, pops)
    size = samples(0.012)
    pop = noise(size, draw.rng, draw(1800, 3500), draw(5500, 7800))
    pop = pop * np.exp(-np.arange(size) / RATE / draw.log(0.0008, 0.003))
    crackle = scipy.signal.fftconvolve(crackle, pop)[:n]
    crackle /= crackle.std() + 1e-9
    hiss = noise(n, draw.rng, draw(2200, 3800), 7800, draw(-2, 3))
    hiss *= 1 + 0.2 * wander(n, draw.rng, 2)
    return fade(hiss + draw(0.6, 1.6) * crackle, 0.05, 0.1)


def running_water(seconds: float, draw: Draw) -> np.ndarray:
    """A jet of broadband noise that flutters, over bubbles that ring low."""
    n = samples(seconds)
    jet = noise(n, draw.rng, draw(250, 900), draw(4500, 7500), draw(-3.5, -0.5))
    jet *= 1 + draw(0.15, 0.4) * wander(n, draw.rng, draw(10, 25))
    bubbles = np.zeros(n, dtype=np.float32)
    rate = draw.log(4, 20)
    for frequency in draw.log(300, 600) * np.array([1, 1.5, 2.2, 3.1, 4.2]):
        pulses = np.zeros(n, dtype=np.float32)
        count = draw.rng.poisson(rate * seconds)
        pulses[draw.rng.integers(n, size=count)] = draw.rng.lognormal(0, 0.5, count)
        radius, angle = np.exp(-1 / (0.012 * RATE)), 2 * np.pi * frequency / RATE
        ring = [1, -2 * radius * np.cos(angle), radius**2]
        bubbles += scipy.signal.lfilter([np.sin(angle)], np.array(ring), pulses)
    bubbles /= bubbles.std() + 1e-9
    return fade(jet + draw(0.3, 1.1) * bubbles, draw(0.03, 0.15), draw(0.05, 0.3))


def speech(seconds: float, draw: Draw) -> np.ndarray:
    """Syllables of a voice: vowels as formants over a gliding pitch, and hissed consonants."""
    n, rng = samples(seconds), draw.rng
    syllables = max(1, round(seconds * draw(3.3, 6)))
    pitch, tract = draw.log(85, 280), draw(0.9, 1.25)
    f0 = pitch * (1 + 0.18 * wander(n, rng, 2.5)) * np.linspace(1.12, 0.9, n)
    edges = np.linspace(0, n, syllables + 1)
    edges[1:-1] += rng.uniform(-0.2, 0.2, syllables - 1) * n / syllables
    syllable = np.interp(np.arange(n), edges, np.arange(syllables + 1))
    index = np.minimum(syllable.astype(int), syllables - 1)
    position = syllable - index
    opening = (0.08 + 0.92 * np.sin(np.pi * position) ** 0.7) * rng.uniform(0.5, 1, syllables)[
        index
    ]
    voiced = periodic(f0, np.arange(1, 60) ** -draw(0.8, 1.2), rng) * opening
    targets = _VOWELS[rng.integers(len(_VOWELS), size=syllables)] * tract
    voice = formants(voiced, targets, (90, 130, 200), (1, draw(0.4, 0.7), draw(0.15, 0.35)))
    hissed = (rng.random(syllables) < 0.55)[index] & (position < draw(0.2, 0.35))
    hiss = noise(n, rng, draw(2000, 3500), 7500) * np.sin(np.pi * position / 0.35) ** 2 * hissed
    return fade(voice / (voice.std() + 1e-9) + draw(0.15, 0.5) * hiss, 0.015, 0.03)


def vacuum_cleaner(seconds: float, draw: Draw) -> np.ndarray:
    """Broad airflow noise with the hum and the whine of the motor, slow to start and to stop."""
    n = samples(seconds)
    time = np.arange(n) / RATE
    steady = (1 - 0.6 * np.exp(-time / 0.25)) * (1 + 0.01 * wander(n, draw.rng, 0.7))
    air = noise(n, draw.rng, draw(80, 250), draw(1500, 4500), draw(-5, -2))
    hum = periodic(100 * draw(0.95, 1.25) * steady, np.arange(1, 12) ** -1.0, draw.rng)
    whine = periodic(draw.log(450, 1100) * steady, [1, draw(0.2, 0.8), draw(0.1, 0.5)], draw.rng)
    sweep = 1 + draw(0.05, 0.25) * wander(n, draw.rng, 1)
    wave = (air + draw(0.15, 0.6) * hum) * sweep + draw(0.25, 0.7) * whine
    return fade(wave, draw(0.1, 0.3), draw(0.15, 0.4))


def background(seconds: float, draw: Draw) -> np.ndarray:
    """A room: coloured noise, and at times mains hum, passing traffic, knocks or birds."""
    n, rng = samples(seconds), draw.rng
    wave = noise(n, rng, draw.log(20, 120), draw(3000, 8000), draw(-7.5, -2))
    wave *= 1 + draw(0, 0.3) * wander(n, rng, 0.5)
    if rng.random() < 0.5:
        mains = np.full(n, float(rng.choice([50, 60])))
        wave += draw.log(0.05, 0.5) * periodic(mains, np.arange(1, 14) ** -1.0, rng)
    if rng.random() < 0.4:
        passing = np.maximum(wander(n, rng, 0.35), 0) ** 2
        wave += draw(0.5, 2.5) * passing * noise(n, rng, 100, draw(700, 2500), -3)
    if rng.random() < 0.35:
        for at in rng.integers(n, size=rng.integers(1, 7)):
            size = min(n - at, 1600)
            knock = damped(size, [draw.log(90, 400), draw.log(300, 900)], [0.03, 0.015], [1, 0.5])
            wave[at : at + size] += draw.log(0.6, 3) * knock
    if rng.random() < 0.15:
        for at in rng.integers(n, size=rng.integers(2, 12)):
            size = min(n - at, samples(draw(0.04, 0.15)))
            f0 = draw(3500, 6500) * (1 + draw(-0.3, 0.3) * np.linspace(-1, 1, size))
            wave[at : at + size] += draw.log(0.1, 0.6) * fade(periodic(f0, [1], rng), 0.02, 0.02)
    return wave.astype(np.float32)


EVENTS: dict[str, Callable[[float, Draw], np.ndarray]] = {
    "Alarm_bell_ringing": alarm_bell_ringing,
    "Blender": blender,
    "Cat": cat,
    "Dishes": dishes,
    "Dog": dog,
    "Electric_shaver_toothbrush": electric_shaver_toothbrush,
    "Frying": frying,
    "Running_water": running_water,
    "Speech": speech,
    "Vacuum_cleaner": vacuum_cleaner,
}
