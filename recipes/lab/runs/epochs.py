"""The table of a training's epochs: written while it trains, read when it is reported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Mapping, Sequence

import pandas as pd
import pytorch_lightning as pl

from lab.files import write_whole

#: What the monitor says of the features, as the table names it.
MONITOR = ["z_norm", "d_boundary", "d_inside", "pulse_share"]


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


def feature_table(tables: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """What the monitor says in the last epoch, a row a setting: means over its trials, as text.

    Args:
        tables: of the trials of each setting (see :func:`tables_of`); a setting whose trials all
            diverged before the first epoch was over has dashes.

    Returns:
        Columns of :data:`MONITOR`, `growth` (|z| in the last epoch over that in the first) and
        `largest |z|` (of all epochs and trials).
    """
    rows: dict[str, dict[str, str]] = {}
    for setting, several in tables.items():
        rows[setting] = dict.fromkeys([*MONITOR, "growth", "largest |z|"], "-")
        if not several:
            continue
        last = pd.concat([table.iloc[[-1]] for table in several]).reindex(columns=MONITOR)
        if "z_norm" not in last or last["z_norm"].isna().all():
            continue  # its term is not of z
        first = pd.concat([table.iloc[[0]] for table in several])["z_norm"]
        rows[setting].update({name: f"{mean:.3g}" for name, mean in last.mean().items()})
        growth = (last["z_norm"].to_numpy() / first.to_numpy()).mean()
        largest = max(table["z_norm"].max() for table in several)
        rows[setting].update({"growth": f"{growth:.3g}", "largest |z|": f"{largest:.3g}"})
    return pd.DataFrame.from_dict(rows, orient="index")
