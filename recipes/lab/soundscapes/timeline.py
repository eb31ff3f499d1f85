"""When things happen in a clip: which classes, how often, for how long, with what pauses.

The constants follow the annotations of the DESED validation set (4,225 events in 1,153 clips:
3.7 events a clip, 1 to 3 classes): events a clip, median duration and its spread, share of
events that fill the clip and median pause, class by class (the repeats somewhat higher, as not all
that are drawn fit into a clip). Classes are drawn by the square root of the number of clips that
have them, which keeps the rare ones learnable, and joined by those that share a home with them.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from lab.data.desed import CLASSES

CLIP_SECONDS = 10.0
MOST_REPEATS = 8  # the 98th percentile of the events of one class in a clip
SHORTEST_EVENT = 0.25  # seconds; DESED's annotators give no event less
SHORTEST_PAUSE = 0.15  # seconds; DESED's annotators join events that are closer


class Profile(NamedTuple):
    """How a class behaves in time."""

    weight: float  # how often it is the first class drawn for a clip, relative to the others
    repeats: float  # mean number of events in a clip that has the class
    seconds: float  # median duration of an event that does not fill the clip
    spread: float  # standard deviation of the logarithm of that duration
    filling: float  # share of events that fill the clip
    pause: float  # median pause between two events, in seconds
    texture: bool  # a steady sound of which any excerpt sounds right


PROFILES: dict[str, Profile] = {
    "Alarm_bell_ringing": Profile(13.7, 2.4, 1.0, 1.0, 0.03, 0.4, False),
    "Blender": Profile(8.9, 1.2, 3.8, 0.7, 0.24, 0.6, True),
    "Cat": Profile(11.0, 3.3, 0.95, 0.6, 0.0, 1.0, False),
    "Dishes": Profile(13.1, 3.6, 0.45, 0.7, 0.0, 0.6, False),
    "Dog": Profile(12.6, 4.0, 0.75, 0.9, 0.0, 0.55, False),
    "Electric_shaver_toothbrush": Profile(7.9, 1.05, 5.0, 0.5, 0.5, 0.5, True),
    "Frying": Profile(9.4, 1.05, 5.5, 0.5, 0.6, 1.5, True),
    "Running_water": Profile(14.0, 1.2, 4.0, 0.8, 0.2, 1.2, True),
    "Speech": Profile(13.0, 3.4, 1.15, 0.75, 0.0, 0.7, False),
    "Vacuum_cleaner": Profile(9.5, 1.0, 5.5, 0.5, 0.6, 1.0, True),
}

#: How a class behaves that is none of DESED's: the mean of those that are no textures.
OTHER = Profile(12.7, 3.3, 0.9, 0.8, 0.0, 0.65, False)
#: How an excerpt of a long sound of such a class behaves: as DESED's textures that begin and end.
EXCERPT = PROFILES["Running_water"]

# How many classes share a clip, and how often a class joins another one. Two textures never meet.
_CLASSES_IN_CLIP = {1: 0.5, 2: 0.42, 3: 0.08}
_MOST_CLASSES = 5  # as many as there are that are no textures
_PARTNERS = {"Speech": 6.0, "Dishes": 2.0, "Running_water": 1.5}
_FRYING_PARTNERS = {"Speech": 4.0, "Dishes": 4.0}


def profile_of(label: str) -> Profile:
    """How a class behaves, one of DESED's or any other."""
    return PROFILES.get(label, OTHER)


def draw_classes(
    rng: np.random.Generator, density: float = 1.0, classes: Sequence[str] = CLASSES
) -> list[str]:
    """Draw the classes of a clip, each once and at most one texture.

    There are one to three of them, ``density`` times as many where it is above 1 (at most five);
    fewer where there are not so many that may meet.
    """
    weights = np.array([profile_of(label).weight for label in classes])
    chosen = [str(rng.choice(classes, p=weights / weights.sum()))]
    count = rng.choice(list(_CLASSES_IN_CLIP), p=list(_CLASSES_IN_CLIP.values()))
    if density > 1:
        count = min(int(count * density + rng.random()), _MOST_CLASSES)
    while len(chosen) < count:
        partners = _FRYING_PARTNERS if "Frying" in chosen else _PARTNERS
        texture = any(profile_of(label).texture for label in chosen)
        excluded = [c in chosen or (texture and profile_of(c).texture) for c in classes]
        if all(excluded):
            break
        weights = np.where(excluded, 0, [partners.get(c, 0.4) for c in classes])
        chosen.append(str(rng.choice(classes, p=weights / weights.sum())))
    return chosen


def draw_durations(label: str, rng: np.random.Generator) -> list[float]:
    """Draw the wanted durations in seconds of the events of one class in one clip.

    An infinite duration means an event that fills the clip.
    """
    profile = profile_of(label)
    if rng.random() < profile.filling:
        return [float("inf")]
    count = min(int(rng.geometric(1 / profile.repeats)), MOST_REPEATS)
    return draw_lengths(profile, rng, count)


def draw_lengths(profile: Profile, rng: np.random.Generator, count: int) -> list[float]:
    """Draw durations in seconds of events that do not fill the clip."""
    durations = profile.seconds * np.exp(profile.spread * rng.standard_normal(count))
    return [float(seconds) for seconds in np.clip(durations, SHORTEST_EVENT, 0.95 * CLIP_SECONDS)]


def lay_out(label: str, lengths: list[float], rng: np.random.Generator) -> list[float]:
    """Give the events of one class their onsets, in order and apart from each other.

    Returns:
        Onsets in seconds; fewer than ``lengths`` when not all fit into the clip. A steady sound
        may begin before the clip or end after it.
    """
    pauses = profile_of(label).pause * np.exp(0.9 * rng.standard_normal(len(lengths)))
    starts = np.cumsum([0.0, *(np.array(lengths) + np.maximum(pauses, SHORTEST_PAUSE))])[:-1]
    ends = starts + lengths
    fitting = max(1, int(np.sum(ends <= CLIP_SECONDS)))
    total = float(ends[fitting - 1])
    if total >= CLIP_SECONDS:
        first = rng.uniform(CLIP_SECONDS - total, 0)
    elif profile_of(label).texture:
        first = rng.uniform(-0.3 * lengths[0], CLIP_SECONDS - total + 0.3 * lengths[fitting - 1])
    else:
        first = rng.uniform(0, CLIP_SECONDS - total)
    return [float(first + start) for start in starts[:fitting]]
