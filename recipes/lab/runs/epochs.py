"""The table of a training's epochs: written while it trains, read when it is reported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Sequence

import pandas as pd
import pytorch_lightning as pl

from lab.files import write_whole


class EpochTable(pl.Callback):
    """Table of an experiment's epochs: mean losses, the coherence monitor, validation scores.

    Args:
        path: tab-separated file; a resumed run goes on in it.
        report: called with (epochs done, epochs in all, text) after each batch.
    """

    def __init__(self, path: Path, report: Any = None) -> None:
        self.path = path
        self.report = report
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, list[float]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the rows of the epochs that are over."""
        if self.path.exists() and trainer.current_epoch:
            table = pd.read_csv(self.path, sep="\t")
            self.rows = table[table["epoch"] < trainer.current_epoch].to_dict("records")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Add a batch to the epoch's means."""
        values = {"loss": float(outputs["loss"])}
        regularizer = getattr(pl_module, "coherence", None)
        values.update(regularizer.metrics if regularizer else {})
        for name, value in values.items():
            if not math.isnan(value):
                self.sums.setdefault(name, []).append(value)
        if self.report:
            done = trainer.current_epoch + len(self.sums["loss"]) / trainer.num_training_batches
            self.report(done, trainer.max_epochs, f"loss {values['loss']:.3f}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's row."""
        epoch = trainer.current_epoch
        row = {"epoch": float(epoch)}
        row.update({name: sum(values) / len(values) for name, values in self.sums.items()})
        if (epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0:
            row.update(
                {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            )
        self.sums = {}
        self.rows.append(row)
        if trainer.is_global_zero:
            table = pd.DataFrame(self.rows)
            write_whole(self.path, table.to_csv(sep="\t", index=False, float_format="%.6g"))
        if self.report:
            text = f"loss {row['loss']:.3f}"
            if "val/obj_metric" in row:
                text += f", validation {row['val/obj_metric']:.3f}"
            self.report(epoch + 1, trainer.max_epochs, text)


def read_epochs(folder: Path) -> pd.DataFrame:
    """Read the table of a trial, index the epoch from 0; empty where none was finished."""
    path = folder / "epochs.tsv"
    return pd.read_csv(path, sep="\t", index_col="epoch") if path.exists() else pd.DataFrame()


def mean_epochs(folders: Sequence[Path]) -> pd.DataFrame:
    """Means over trials, epoch by epoch; empty where none finished one."""
    tables = [table for table in map(read_epochs, folders) if len(table)]
    return pd.concat(tables).groupby(level=0).mean() if tables else pd.DataFrame()
