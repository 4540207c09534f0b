"""A training as a cell: the run folder, and every held-out slice scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from applications.lv_dp import checkpoint, train
from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data.preprocess import prepare
from applications.lv_dp.evaluate import mean_scores, predictions, score_images
from applications.lv_dp.experiments.cells import Cell, Result, Store, Watch
from applications.lv_dp.experiments.data import shared_data
from applications.lv_dp.model import ceiling_masks
from applications.lv_dp.provenance import usable_device
from applications.lv_dp.runs import checkpoint_path, open_run
from applications.lv_dp.settings import Settings, read_change

NOT_IDENTITY = ("out", "threads", "change", "iterations")  # change and iterations are part of the settings
CURVE = ("iteration", "train_dice", "held_out_dice")


@dataclass(frozen=True)
class TrainCell(Cell):
    """One training, scored on the held-out patients; the run folder is the cell's folder.

    Attributes:
        config: as `train.main` takes it, but for ``out``.
        data: fingerprint of the data.
    """

    config: TrainConfig
    data: str

    @classmethod
    def of(cls, config: TrainConfig, data: str) -> TrainCell:
        """Return the cell of a configuration; those that train the same model in the same way give one cell."""
        if config.method != "edpcnn":
            config = replace(config, estimator="diff_bypass", gradient_form="vjp")
        return cls(replace(config, out=Path(), change=real_changes(config)), data)

    @property
    def name(self) -> str:
        """Method, size, seed and changes."""
        changes = (c.replace("=", "") for c in self.config.change if not c.startswith("evaluate_every"))
        return "-".join(
            [self.config.trained_as, f"n{self.config.num_train}", f"seed{self.config.seed}", *changes]
        )

    def identity(self) -> dict[str, Any]:
        """Return the configuration with every setting, and the data's fingerprint."""
        config = {key: value for key, value in self.config.to_json().items() if key not in NOT_IDENTITY}
        if self.config.device == "cpu":
            del config["device"]  # the reference: results of another device are other cells
        return {"config": config, "data": self.data}

    def run(self, folder: Path, store: Store, watch: Watch) -> Result:
        """Train, or go on with an interrupted training, and score it."""
        config = replace(self.config, out=folder)
        trained = train.main(config, lambda row, iterations: watch(row.iteration, iterations))
        _, held_out = train.split(shared_data(config.data), config)
        run, settings, device = open_run(folder), config.settings, usable_device(config.device)
        batch = prepare(held_out.slices, settings.crop, at=settings.crop_at).to(device)
        predict = predictions(run) | {"ceiling": ceiling_masks}
        images = score_images(run.model.to(device), held_out, batch, predict)
        rows = checkpoint.load(checkpoint_path(folder))["rows"]
        curve = [{key: row[key] for key in CURVE} for row in rows if row["held_out_dice"] is not None]
        return {
            **{key: trained[key] for key in ("versions", "device", "seconds", "evaluations")},
            "held_out": mean_scores(images),
            "best_of_curve": max(point["held_out_dice"] for point in curve),
            "curve": curve,
            "images": images,
        }


def real_changes(config: TrainConfig) -> tuple[str, ...]:
    """Return the changes that differ from the profile's own settings, sorted by name."""
    plain = replace(config, change=()).settings
    changes = dict(map(read_change, config.change))
    return tuple(
        f"{name}={_text(changes[name])}" for name in sorted(changes) if _differs(plain, name, changes)
    )


def _differs(plain: Settings, name: str, changes: dict[str, Any]) -> bool:
    return bool(getattr(plain, name) != changes[name])


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
