"""The splits of a data set: training, validation and test sets, from a configuration."""

from __future__ import annotations

from typing import Any, Mapping

import pandas as pd

from lab.data.annotations import read_durations, read_strong_tsv, read_weak_tsv
from lab.data.datasets import Clips, StronglyAnnotatedSet, UnlabeledSet, WeakSet
from lab.data.labels import ManyHotEncoder
from lab.errors import InputError


def training_sets(
    config: Mapping[str, Any], encoder: ManyHotEncoder
) -> tuple[list[Clips | None], list[Clips]]:
    """Strong, weak and unlabelled sets (None where the share of the batch is 0), validation sets.

    Raises:
        InputError: a table, folder or file is missing or wrong.
    """
    data, training = config["data"], config["training"]
    common: dict[str, Any] = {"pad_to": data["audio_max_len"], "fs": data["fs"]}
    scored = {**common, "return_filename": True, "whole": True}
    _, weak_size, unlabelled_size = training["batch_size"]
    strong_table = read_strong_tsv(data["synth_tsv"], encoder.labels)
    strong = StronglyAnnotatedSet(data["synth_folder"], strong_table, encoder, **common)
    read_durations(data["synth_val_dur"])
    valid_table = _with_clips("synth_val_tsv", data, encoder)
    valid: list[Clips] = [
        StronglyAnnotatedSet(data["synth_val_folder"], valid_table, encoder, **scored)
    ]
    weak, unlabelled = None, None
    if weak_size:
        table = read_weak_tsv(data["weak_tsv"], encoder.labels)
        chosen = table.sample(frac=training["weak_split"], random_state=training["seed"])
        rest = table.drop(chosen.index)
        weak = WeakSet(data["weak_folder"], chosen, encoder, **common)
        if len(rest):
            valid.append(WeakSet(data["weak_folder"], rest, encoder, **scored))
    if unlabelled_size:
        unlabelled = UnlabeledSet(data["unlabeled_folder"], encoder, **common)
    return [strong, weak, unlabelled], valid


def make_test_set(config: Mapping[str, Any], encoder: ManyHotEncoder, evaluation: bool) -> Any:
    """Test clips with file names, whole: labelled ones, or those of the evaluation.

    Raises:
        InputError: a table, folder or file is missing or wrong.
    """
    data = config["data"]
    scored: dict[str, Any] = {"fs": data["fs"], "return_filename": True, "whole": True}
    if evaluation:
        # As in the official evaluation clips keep their length; the features need a window.
        window = config["feats"]["n_window"] / data["fs"]
        return UnlabeledSet(data["eval_folder"], encoder, window, **scored)
    read_durations(data["test_dur"])
    table = _with_clips("test_tsv", data, encoder)
    return StronglyAnnotatedSet(
        data["test_folder"], table, encoder, data["audio_max_len"], **scored
    )


def _with_clips(key: str, data: Mapping[str, Any], encoder: ManyHotEncoder) -> pd.DataFrame:
    """The table of clips to score: none at all would end a training when it is over."""
    table = read_strong_tsv(data[key], encoder.labels)
    if table.empty:
        raise InputError(f"data.{key}: {data[key]} names no clip; give a table with clips to score")
    return table
