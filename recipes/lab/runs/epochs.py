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
        self.rows: dict[int, dict[str, float]] = {}
        self.sums: dict[str, list[float]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the rows of the epochs that are over."""
        if self.path.exists() and trainer.current_epoch:
            header, *lines = self.path.read_text().splitlines()
            for line in lines:
                values = {k: float(v) for k, v in zip(header.split("\t"), line.split("\t")) if v}
                if values["epoch"] < trainer.current_epoch:
                    self.rows[int(values["epoch"])] = values

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
        self.rows[epoch] = row
        if trainer.is_global_zero:
            self._write()
        if self.report:
            text = f"loss {self.rows[epoch]['loss']:.3f}"
            if "val/obj_metric" in self.rows[epoch]:
                text += f", validation {self.rows[epoch]['val/obj_metric']:.3f}"
            self.report(epoch + 1, trainer.max_epochs, text)

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        lines = ["\t".join(columns)]
        for row in self.rows.values():
            lines.append("\t".join(f"{row[c]:.6g}" if c in row else "" for c in columns))
        write_whole(self.path, "\n".join(lines) + "\n")


def read_epochs(folder: Path) -> pd.DataFrame:
    """Read the table of a trial, index the epoch from 0; empty where none was finished."""
    path = folder / "epochs.tsv"
    return pd.read_csv(path, sep="\t", index_col="epoch") if path.exists() else pd.DataFrame()


def tables_of(folders: Sequence[Path]) -> list[pd.DataFrame]:
    """Read the tables of trials, of those that finished an epoch."""
    return [table for table in map(read_epochs, folders) if len(table)]


def mean_epochs(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Means over trials, epoch by epoch."""
    return pd.concat(tables).groupby(level=0).mean()
