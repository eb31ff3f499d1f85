"""Many-hot labels: from events in seconds to frames."""

from __future__ import annotations

from typing import Any, Mapping, Sequence, Union

import numpy as np
import pandas as pd

from lab.data.classes import check_number, classes_of
from lab.data.desed import CLASSES
from lab.errors import InputError


class ManyHotEncoder:
    """Encode labels of a clip as 0/1 arrays, on the network's output frames.

    Frame for frame the encoder of the DCASE 2021 Task 4 baseline.

    Args:
        labels: the class names, in the order of the columns.
        audio_len: length of a clip in seconds.
        frame_len: analysis window in samples (kept in the state, not used).
        frame_hop: hop of the spectrogram in samples.
        net_pooling: spectrogram frames for each output frame.
        fs: sampling rate in Hz.

    Attributes:
        n_frames: output frames of a clip.
        frame_seconds: time from one output frame to the next.

    Example:
        >>> encoder = ManyHotEncoder(["Cat", "Dog"], 10, 2048, 256, net_pooling=4)
        >>> encoder.n_frames, encoder.frame_seconds
        (156, 0.064)
        >>> np.flatnonzero(encoder.encode_strong([("Dog", 1.0, 1.2)])[:, 1])
        array([15, 16, 17, 18])
    """

    def __init__(
        self,
        labels: Sequence[str],
        audio_len: float,
        frame_len: int,
        frame_hop: int,
        net_pooling: int = 1,
        fs: int = 16000,
    ) -> None:
        self.labels = list(labels)
        self.audio_len = audio_len
        self.frame_len = frame_len
        self.frame_hop = frame_hop
        self.net_pooling = net_pooling
        self.fs = fs
        self.n_frames = int(int(audio_len * fs / frame_hop) / net_pooling)
        self.frame_seconds = net_pooling / (fs / frame_hop)
        self._column = {label: column for column, label in enumerate(self.labels)}

    def encode_weak(self, labels: Union[str, Sequence[str]]) -> np.ndarray:
        """Encode tags of a clip.

        Args:
            labels: class names, as a sequence or separated by commas; "" for none.

        Returns:
            0/1 array `(classes,)`.

        Raises:
            InputError: a label is not among the classes.
        """
        if isinstance(labels, str):
            labels = labels.split(",") if labels else []
        encoded = np.zeros(len(self.labels))
        for label in labels:
            encoded[self._find(label)] = 1
        return encoded

    def encode_strong(
        self,
        events: Union[pd.DataFrame, Sequence[tuple[Any, ...]]],
        frames: int | None = None,
    ) -> np.ndarray:
        """Encode events; a frame that an event touches is active.

        Args:
            events: (label, onset, offset) triples, in seconds, of soft labels with the confidence
                as a fourth; or a DataFrame with the columns event_label, onset, offset and, of
                soft labels, confidence (rows without label are clips without events).
            frames: of the clip; None for `n_frames`.

        Returns:
            0/1 array `(frames, classes)`; of soft labels the confidence, the largest one where
            events of a class share a frame.

        Raises:
            InputError: a label is not among the classes.
        """
        if isinstance(events, pd.DataFrame):
            rows = events[events["event_label"].notna()]
            columns = ["event_label", "onset", "offset"] + ["confidence"] * ("confidence" in rows)
            events = list(zip(*(rows[column] for column in columns)))
        frames = self.n_frames if frames is None else frames
        encoded = np.zeros((frames, len(self.labels)))
        for label, onset, offset, *confidence in events:
            onset, offset = (
                min(max(time * self.fs / self.frame_hop / self.net_pooling, 0), frames)
                for time in (onset, offset)
            )
            active = encoded[int(onset) : int(np.ceil(offset)), self._find(label)]
            np.maximum(active, confidence[0] if confidence else 1, out=active)
        return encoded

    def state_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments, as plain data."""
        names = ("labels", "audio_len", "frame_len", "frame_hop", "net_pooling", "fs")
        return {name: getattr(self, name) for name in names}

    def _find(self, label: str) -> int:
        if label not in self._column:
            raise InputError(
                f"the class {label!r} is unknown; the classes are {', '.join(self.labels)}"
            )
        return self._column[label]


def make_encoder(config: Mapping[str, Any]) -> ManyHotEncoder:
    """Make the label encoder of the configuration; DESED's ten classes where nothing says any.

    Raises:
        InputError: the network has another number of outputs than there are classes, or the table
            cannot be used.
    """
    classes = classes_of(config) or list(CLASSES)
    check_number(config["net"]["nclass"], classes)
    data, feats = config["data"], config["feats"]
    return ManyHotEncoder(
        classes,
        audio_len=data["audio_max_len"],
        frame_len=feats["n_filters"],
        frame_hop=feats["hop_length"],
        net_pooling=data["net_subsample"],
        fs=data["fs"],
    )
