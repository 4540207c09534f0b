"""The run folder: config.json, checkpoint.pt, metrics.csv and results.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from applications.lv_dp import checkpoint
from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import read_json
from applications.lv_dp.model import Segmenter
from applications.lv_dp.settings_check import checked_settings
from applications.lv_dp.weights import check_method, check_outcome, fitting_model


@dataclass(frozen=True)
class Row:
    """One iteration in metrics.csv.

    Attributes:
        iteration: counted from 1.
        loss: the training loss of the method; not comparable between methods.
        seconds: wall clock of the iteration.
        evaluations: rows handed to the dynamic program.
        gradient_error: of the bypass network on probes it has not been fitted to, relative; empty without one.
        held_out_dice: whole-image Dice on the held-out patients, where it was measured.
        train_dice: Dice on the first of the training crops at the same time, not augmented, stars at given centres.
    """

    iteration: int
    loss: float
    seconds: float
    evaluations: int
    gradient_error: float | None = None
    held_out_dice: float | None = None
    train_dice: float | None = None


ALWAYS: dict[str, type] = {  # what stands in every config.json
    "settings": dict,
    "method": str,
    "estimator": str,
    "data": str,
    "training_slices": list,
    "held_out_patients": list,
    "seed": int,
    "split_seed": int,
}


@dataclass(frozen=True)
class Run:
    """A trained model with what it needs for scoring; ``spacing`` of its training data in mm, None where unknown."""

    path: Path
    config: dict[str, Any]
    model: Segmenter
    iteration: int
    mean_radius: float
    held_out: list[str]
    spacing: float | None


def read_row(values: dict[str, Any], iteration: int) -> Row:
    """Return a row of a checkpoint; TypeError or ValueError if it is none."""
    row = Row(**values)
    numbers = (row.loss, row.seconds, row.gradient_error, row.held_out_dice, row.train_dice)
    if row.iteration != iteration or type(row.evaluations) is not int:
        raise ValueError("rows are counted from 1")
    if not all(isinstance(number, (float, type(None))) for number in numbers) or None in numbers[:2]:
        raise TypeError("a row holds numbers")
    return row


def checkpoint_path(run: Path) -> Path:
    """Return the file of the last checkpoint."""
    return run / "checkpoint.pt"


def open_run(path: Path) -> Run:
    """Load the last checkpoint of a run folder, in eval mode.

    Raises:
        UsageError: the folder holds no checkpoint, or its files are damaged or do not fit each other.
    """
    if not checkpoint_path(path).is_file():
        raise UsageError(
            f"{checkpoint_path(path)}: no such file; --run must be a folder that train or export wrote"
        )
    config, where, file = read_config(path), path / "config.json", checkpoint_path(path)
    settings = checked_settings(config["settings"], where)
    check_method(config, where)
    state = checkpoint.load(file)
    iteration, radius = check_outcome(state.get("iteration"), state.get("mean_radius"), file)
    model = fitting_model(settings, _network(state, file), file, where.name)
    return Run(
        path, config, model.eval(), iteration, radius, config["held_out_patients"], config.get("spacing")
    )


def _network(state: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """Return the U-Net's part of a checkpoint."""
    model, prefix = state.get("model"), "unet."
    if not isinstance(model, dict) or not all(isinstance(name, str) for name in model):
        raise UsageError(f"{file}: holds no model")
    return {name[len(prefix) :]: value for name, value in model.items() if name.startswith(prefix)}


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a run folder.

    Raises:
        UsageError: there is none, it is damaged, or it lacks what every run says.
    """
    file = path / "config.json"
    try:
        config = read_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: is not readable JSON ({type(error).__name__})") from error
    kinds = [type(config.get(name)) for name in ALWAYS] if isinstance(config, dict) else None
    if kinds != list(ALWAYS.values()):
        raise UsageError(f"{file}: is not what train writes, which holds {', '.join(ALWAYS)}")
    return dict(config)


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Refuse a folder that holds a run of another configuration; more iterations are no other.

    Raises:
        UsageError: naming what differs.
    """
    if (path / "config.json").is_file():
        old, new = _identity(read_config(path)), _identity(config)
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if changed:
            raise UsageError(
                f"{path}: holds a run with other values of {', '.join(changed)}; "
                "choose another --out, or remove the folder"
            )


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a run that `check_config` did not refuse."""
    checkpoint.write_json(path / "config.json", config)


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return what must agree for a run to go on; settings that are the same in both are spelt out flat."""
    apart = ("out", "iterations", "threads", "settings", "spacing")  # the last follows from the data
    flat = {key: value for key, value in config.items() if key not in apart}
    settings = config["settings"]
    # a falling learning rate depends on the end: such a run cannot be extended
    extendable = ("iterations",) if settings.get("schedule", "constant") == "constant" else ()
    flat |= {f"settings.{key}": value for key, value in settings.items() if key not in extendable}
    return flat


def write_metrics(path: Path, rows: Sequence[Row]) -> None:
    """Write metrics.csv as a whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    checkpoint.write_text(path / "metrics.csv", text.getvalue())
