"""What a number needs beside it to be repeated, and writing that leaves no half-written file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PACKAGES = ("ndgrad", "torch", "numpy", "networkx")


def versions(*more: str) -> dict[str, str]:
    """Collect the versions of Python and of the packages that take part in a result; ``more`` names further ones."""
    names = dict.fromkeys((*_PACKAGES, *more))
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def device() -> str:
    """Name the processor; the benchmarks run on the CPU."""
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores)"


def threads() -> int:
    """Count the threads that torch may use within one operation."""
    return torch.get_num_threads()


def provenance(config: DataclassInstance) -> dict[str, Any]:
    """Collect what goes beside the numbers of a run: settings, versions, device and threads."""
    configuration = {
        key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()
    }
    return {"configuration": configuration, "versions": versions(), "device": device(), "threads": threads()}


def write_json(folder: Path | None, name: str, results: Mapping[str, Any]) -> None:
    """Write ``results`` to ``folder/name.json``; without a folder nothing is written."""
    if folder is not None:
        write_atomically(folder / f"{name}.json", json.dumps(results, indent=1) + "\n")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` in one step; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
