"""Files that are either old or new, never half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from applications.lv_dp.errors import UsageError


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file as a whole: ``write`` fills another one of this process, which then takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(partial)
    os.replace(partial, path)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; whoever is interrupted keeps the previous file."""
    replace(path, lambda partial: torch.save(state, partial))


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, on whatever device, to the CPU; only tensors and plain values are accepted.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: the file is damaged, or holds something else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch's unpickler raises whatever a damaged file leads it to
        raise UsageError(f"{path}: is damaged or no checkpoint ({type(error).__name__})") from error
    return state


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole."""
    replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write plain values as readable JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
