"""Released weights: ``model.safetensors`` and ``model.json``, a folder that loads without running any code of it.

Everything in a folder from elsewhere is checked before it is used: the settings' types and ranges, the names,
types and shapes of all tensors against an empty model that takes no memory, and the file against its checksum.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from applications.lv_dp import checkpoint
from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import read_bytes, read_json
from applications.lv_dp.provenance import provenance
from applications.lv_dp.runs import Run, checkpoint_path, open_run
from applications.lv_dp.settings_check import checked_settings
from applications.lv_dp.weights import check_method, check_outcome, fitting_model

FORMAT, VERSION = "ndgrad lv_dp weights", 1
LICENCE_NOTE = (
    "Weights are derived from their training data: the licence of that data governs what may be done with them. "
    "The licence of the program does not extend to them."
)


@dataclass(frozen=True)
class ExportConfig:
    """Write a run's weights as model.safetensors with model.json, to be given away.

    Attributes:
        run: run folder that train wrote.
        out: folder for the two files.
        trained_on: the training data in words, with source and citation; by default its kind and folder's name.
        licence_note: what others may do with the weights.
        name_patients: also list the held-out patients' names, so that others can evaluate --subset held_out.
        threads: of torch.
    """

    run: Path
    out: Path
    trained_on: str | None = None
    licence_note: str = LICENCE_NOTE
    name_patients: bool = False
    threads: int = 1


def export(config: ExportConfig) -> dict[str, Any]:
    """Write the two files and return what model.json holds.

    Raises:
        UsageError: the run folder holds no checkpoint, or is one of released weights.
    """
    if (config.run / "model.json").is_file() and not checkpoint_path(config.run).is_file():
        raise UsageError(
            f"{config.run}: is exported already; copy it, or type --run with a folder that train wrote"
        )
    run = open_run(config.run)
    weights = {name: value.contiguous() for name, value in run.model.unet.state_dict().items()}
    data = save_tensors(weights, metadata={"format": "pt", "written_by": FORMAT})
    description = _description(config, run) | {"sha256": hashlib.sha256(data).hexdigest()}
    checkpoint.replace(config.out / "model.safetensors", lambda partial: partial.write_bytes(data))
    checkpoint.write_json(config.out / "model.json", description)
    return description


def _description(config: ExportConfig, run: Run) -> dict[str, Any]:
    """Describe the weights; of paths, only the data folder's own name goes out."""
    kind, _, location = run.config["data"].partition(":")
    folder = f" ({Path(location).name})" if location else ""
    return {
        "format": FORMAT,
        "version": VERSION,
        "method": run.config["method"],
        "estimator": run.config["estimator"] if run.config["method"] == "edpcnn" else None,
        "settings": run.config["settings"],
        "iteration": run.iteration,
        "mean_radius": run.mean_radius,
        "spacing": run.spacing,
        "trained_on": config.trained_on or f"{kind}{folder}",
        "training": {
            "slices": len(run.config["training_slices"]),
            "held_out_patients": len(run.held_out),
            "seed": run.config["seed"],
            "split_seed": run.config["split_seed"],
        },
        "held_out_patients": run.held_out if config.name_patients else [],
        "licence_note": config.licence_note,
        "provenance": provenance(),
    }


def open_model(path: Path) -> Run:
    """Open a run folder or a folder of released weights, in eval mode.

    Raises:
        UsageError: in one line, what is missing, damaged or does not fit.
    """
    released = [(path / name).is_file() for name in ("model.json", "model.safetensors")]
    return open_release(path) if any(released) else open_run(path)


def open_release(path: Path) -> Run:
    """Open a folder that `export` wrote, in eval mode; nothing in it is executed.

    Raises:
        UsageError: a file is missing, damaged, from another version, or does not fit the settings.
    """
    where = path / "model.json"
    config = _read_description(where)
    settings = checked_settings(config.get("settings"), where)
    check_method(config, where)
    iteration, radius = check_outcome(config.get("iteration"), config.get("mean_radius"), where)
    file = path / "model.safetensors"
    weights = _read_weights(file, config.get("sha256"))
    model = fitting_model(settings, weights, file, where.name)
    infinite = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if infinite:
        raise UsageError(f"{file}: {infinite[0]} holds values that are not finite")
    return Run(
        path, config, model.eval(), iteration, radius, config["held_out_patients"], config.get("spacing")
    )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file; released weights are model.safetensors and model.json"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: is not readable JSON ({type(error).__name__})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UsageError(f"{path}: is not a description of released weights; its format must be {FORMAT!r}")
    if config.get("version") != VERSION:
        raise UsageError(f"{path}: needs version {VERSION} of the format, got {config.get('version')!r:.60}")
    return config


def _read_weights(path: Path, sha256: object) -> dict[str, Tensor]:
    try:
        data = read_bytes(path)
        weights = load_tensors(data)
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file; released weights are model.safetensors and model.json"
        ) from None
    except Exception as error:  # safetensors, and torch for a type it does not know
        raise UsageError(f"{path}: is damaged or no safetensors file ({_one_line(error)})") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UsageError(
            f"{path}: is not the file that model.json describes (sha256 differs); export both again"
        )
    return weights


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
