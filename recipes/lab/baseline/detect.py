"""Posteriors and events of recordings of any length, from a checkpoint of ours or the official one.

A recording is read as overlapping windows of the length of the training clips, the last one moved
back to end where it ends; their posteriors are cross-faded. So memory does not grow with the
length, but for the posteriors themselves.
"""

from __future__ import annotations

import math
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lab.baseline.checkpoints import bare_weights, classes_in, load_checkpoint
from lab.baseline.config import SCHEMA
from lab.baseline.crnn import CRNN
from lab.baseline.features import MelSpectrogram, Scaler, take_log
from lab.data.audio import open_audio, resample
from lab.data.classes import refuse_other_classes
from lab.data.desed import CLASSES
from lab.data.labels import make_encoder
from lab.errors import InputError
from lab.evaluation import decode
from lab.files import PathLike

MODELS = ("teacher", "student")
WINDOWS_AT_ONCE = 8


class Detector(nn.Module):
    """A trained network with its features, in evaluation mode.

    Args:
        config: the sections feats, net, data, scaler and training that it was trained with.
        state: state_dict of the whole module, as checkpoints hold it.
        model: "teacher" or "student".
        minmax_from: lower end of instance-wise minmax features, 0 or -1.
    """

    def __init__(
        self,
        config: Mapping[str, Mapping[str, Any]],
        state: Mapping[str, Tensor],
        model: str,
        minmax_from: int = 0,
    ) -> None:
        super().__init__()
        data, feats, scaler = config["data"], config["feats"], config["scaler"]
        self.encoder = make_encoder(config)
        self.median_window = config["training"]["median_window"]
        self.samples = round(data["audio_max_len"] * data["fs"])
        self.minmax_from = minmax_from
        self.network = CRNN(**config["net"])
        self.mel_spec = MelSpectrogram(**feats)
        self.scaler = Scaler(scaler["statistic"], scaler["normtype"], scaler["dims"])
        for part, name in (
            (self.network, f"sed_{model}"),
            (self.mel_spec, "mel_spec"),
            (self.scaler, "scaler"),
        ):
            part.load_state_dict(_under(state, name))
        self.eval().requires_grad_(False)
        if self.scaler.needs_fit:
            raise KeyError("scaler.mean")

    @torch.no_grad()
    def features(self, audio: np.ndarray) -> Tensor:
        """Normalised log-mel features `(clips, mels, frames)` of audio `(clips, samples)`."""
        batch = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        device = next(self.network.parameters()).device
        features = self.scaler(take_log(self.mel_spec(batch.to(device))))
        return 2 * features - 1 if self.minmax_from else features

    @torch.no_grad()
    def posteriors(self, audio: np.ndarray) -> np.ndarray:
        """Posteriors `(clips, frames, classes)` in [0, 1] of audio `(clips, samples)`."""
        strong, _ = self.network(self.features(audio))
        return strong.transpose(1, 2).float().cpu().numpy()


def load_detector(
    checkpoint: PathLike,
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    model: str | None = None,
    minmax_from: int | None = None,
) -> Detector:
    """Load a network from a checkpoint, without running any code that the file may hold.

    Args:
        checkpoint: written by this project, or by the official baseline of 2021 or later.
        config: the settings of its training; by default those that the checkpoint holds.
        model: "teacher" or "student"; the teacher by default, where there is one.
        minmax_from: lower end of minmax features, which a checkpoint of an official recipe of 2023
            or later does not tell: -1 if its desed_task was of April 2024 or later, else 0.

    Raises:
        InputError: the file cannot be loaded, has no such model, or is of another network or of
            other classes than those of `config`.
    """
    content = load_checkpoint(checkpoint)
    state = bare_weights(content.get("state_dict"), checkpoint)
    held = content.get("hyper_parameters")
    settings = held if config is None else config
    if not isinstance(state, dict):
        raise InputError(f"{checkpoint} holds no state_dict; give the .ckpt file of a training")
    if not isinstance(settings, dict):
        raise InputError(f"{checkpoint} does not say how it was trained; give its --conf_file")
    there = [name for name in MODELS if _under(state, f"sed_{name}")]
    if not there or model not in (None, *there):
        held_models = " and ".join(there) or "no sed_student or sed_teacher"
        raise InputError(f"{checkpoint} holds {held_models}; give another --model or checkpoint")
    # The official configurations of later years hold keys that say nothing about the network.
    sections = {
        name: {
            key: dict(settings.get(name) or {}).get(key, default)
            for key, (_, default) in SCHEMA[name].items()
        }
        for name in ("training", "scaler", "data", "feats", "net")
    }
    held_classes = classes_in(content)
    classes = sections["data"]["classes"] or held_classes
    if classes is None:
        raise InputError(
            f"{checkpoint} does not name its {sections['net']['nclass']} classes; give a "
            "--conf_file that does, in data.classes"
        )
    refuse_other_classes(f"the checkpoint {checkpoint}", held_classes, classes)
    sections["data"]["classes"] = classes
    if sections["net"]["nclass"] == len(CLASSES):
        sections["net"]["nclass"] = len(classes)
    minmax = (sections["scaler"]["statistic"], sections["scaler"]["normtype"])
    if minmax_from is None:
        if minmax == ("instance", "minmax") and "use_embeddings" in (settings.get("net") or {}):
            raise InputError(
                f"{checkpoint} is of an official recipe of 2023 or later, whose features end in "
                "[-1, 1] where desed_task is of April 2024 or later and in [0, 1] where it is "
                "older; say which with --minmax_from -1 or 0"
            )
        minmax_from = 0
    try:
        return Detector(sections, state, model or there[0], minmax_from)
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the network in {checkpoint} is not that of its settings ({reason}); give the "
            "--conf_file that it was trained with, or a checkpoint of this baseline"
        ) from None


def _under(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part of a state_dict under a name."""
    start = f"{name}."
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}


def posteriors_of(detector: Detector, audio: PathLike) -> tuple[np.ndarray, float]:
    """Posteriors of a recording of any length and sampling rate.

    Returns:
        posteriors `(frames, classes)` and the duration in seconds.

    Raises:
        InputError: the file cannot be read, or holds no audio.
    """
    encoder = detector.encoder
    frame = encoder.frame_hop * encoder.net_pooling
    hop = max(encoder.n_frames // 2, 1) * frame
    starts: list[int] = []
    parts: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    samples = 0
    blocks = read_blocks(audio, encoder.fs)
    for start, window, real in windows(blocks, detector.samples, hop, frame):
        samples = start + real
        # The last one may be longer by part of a frame.
        if len(waiting) == WINDOWS_AT_ONCE or (waiting and len(window) != len(waiting[0])):
            parts.extend(detector.posteriors(np.stack(waiting)))
            waiting = []
        starts.append(start // frame)
        waiting.append(window)
    parts.extend(detector.posteriors(np.stack(waiting)))
    joined = cross_fade(parts, starts)
    missing = math.ceil(samples / frame) - len(joined)
    if samples > detector.samples and missing > 0:
        # Part of a frame is left, of which the network says nothing: what lasts to it lasts on.
        joined = np.pad(joined, ((0, missing), (0, 0)), mode="edge")
    return joined[: max(math.ceil(samples / frame), 1)], samples / encoder.fs


def find_events(
    detector: Detector,
    posteriors: np.ndarray,
    seconds: float,
    *,
    threshold: float = 0.5,
    median_window: int | None = None,
) -> pd.DataFrame:
    """Events of a recording: event_label, onset, offset, confidence.

    The confidence is the mean of the class's posterior over the frames of the event, after the
    median window: of what the threshold was applied to, so it is above the threshold.

    Args:
        detector: the network.
        posteriors: `(frames, classes)` and
        seconds: duration, as :func:`posteriors_of` returns them.
        threshold: of the posterior.
        median_window: in frames; by default that of the training.

    Raises:
        InputError: the threshold or the window cannot be used.
    """
    window = detector.median_window if median_window is None else median_window
    labels, frame = detector.encoder.labels, detector.encoder.frame_seconds
    times = {"frame_seconds": frame, "clip_seconds": seconds}
    (events,) = decode.decode(
        posteriors[None], [""], labels, thresholds=[threshold], median_window=window, **times
    ).values()
    smoothed = dict(zip(labels, decode.smooth(posteriors[None], window)[0]))
    confidences = []
    for label, onset, offset in zip(events["event_label"], events["onset"], events["offset"]):
        first = round(onset / frame)
        confidences.append(smoothed[label][first : max(round(offset / frame), first + 1)].mean())
    events = events.drop(columns="filename").assign(confidence=np.array(confidences, dtype=float))
    return events.sort_values(["onset", "offset"], ignore_index=True)


def read_blocks(path: PathLike, fs: int, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """Read a recording block by block, mixed down and resampled to `fs`.

    The blocks, float32 `(samples,)`, are joined what resampling the whole recording gives.

    Raises:
        InputError: the file is missing, is no audio, is empty or cut short, or holds values that
            are not finite.
    """
    with open_audio(path) as file:
        rate = file.samplerate
        # Blocks and their surroundings begin at samples that both rates have.
        down = rate // math.gcd(rate, fs)
        up = fs // math.gcd(rate, fs)
        # Half of the length of resample's filter on each side.
        around = 0 if rate == fs else math.ceil(10 * max(up, down) / up / down) * down
        size = max(max(round(seconds * rate / down), 1) * down, around)

        def read() -> np.ndarray:
            audio = file.read(size, dtype="float32", always_2d=True).mean(axis=1)
            if not np.isfinite(audio).all():
                raise InputError(
                    f"{path} holds samples that are not finite (NaN or infinity); replace it"
                )
            return audio

        before, block = np.zeros(around, dtype=np.float32), read()
        if not len(block):
            raise InputError(f"{path} holds no audio (0 samples); give another recording")
        while len(block):
            after = read()
            tail = np.pad(after[:around], (0, max(around - len(after), 0)))
            whole = resample(np.concatenate([before, block, tail]), rate, fs)
            start = around // down * up
            yield whole[start : start + math.ceil(len(block) * up / down)].astype(np.float32)
            before, block = block[len(block) - around :], after


def windows(
    blocks: Iterable[np.ndarray], samples: int, hop: int, frame: int
) -> Iterator[tuple[int, np.ndarray, int]]:
    """Cut audio into overlapping windows, of which the last one ends where the audio ends.

    It is moved back as far as that needs, by whole frames, and longer by what is left of a frame:
    a network that normalises each window by itself would hear zeros at its end as silence. Audio
    that is shorter than a window is padded with zeros, as in training.

    Args:
        blocks: parts of the audio, of any lengths.
        samples: length of a window.
        hop: from one window to the next, in samples; a multiple of `frame`.
        frame: samples of an output frame, at multiples of which windows begin.

    Yields:
        The window's first sample, the window, and how many of its samples are audio.

    Example:
        >>> [(start, window) for start, window, _ in windows([np.arange(1, 7)], 4, 3, 1)]
        [(0, array([1, 2, 3, 4])), (2, array([3, 4, 5, 6]))]
    """
    held = np.zeros(0, dtype=np.float32)
    first = start = 0  # samples where what is held and the next window begin
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        end = first + len(held)
        while end - start >= samples + frame:
            yield start, held[start - first :][:samples], samples
            start += hop
        # What the last window may reach back to is kept.
        gone = max(min(start, end - samples - frame) - first, 0)
        held, first = held[gone:], first + gone
    end = first + len(held)
    start = max((end - samples) // frame * frame, 0)
    last = held[start - first :]
    yield start, np.pad(last, (0, max(samples - len(last), 0))), len(last)


def cross_fade(parts: Sequence[np.ndarray], starts: Sequence[int]) -> np.ndarray:
    """Join posteriors of overlapping windows, each fading out where the next fades in.

    Args:
        parts: posteriors `(frames, classes)` of each window.
        starts: first frame of each window.

    Example:
        >>> cross_fade([np.zeros((4, 1)), np.ones((4, 1))], [0, 2])[:, 0]
        array([0.  , 0.  , 0.25, 0.75, 1.  , 1.  ])
    """
    total = np.zeros((starts[-1] + len(parts[-1]), parts[0].shape[1]))
    weight = np.zeros((len(total), 1))
    for start, part in zip(starts, parts):
        place = np.arange(len(part))
        fade = (np.minimum(place, len(part) - 1 - place) + 0.5)[:, None]
        here = slice(start, start + len(part))
        total[here] += fade * part
        weight[here] += fade
    return total / weight
