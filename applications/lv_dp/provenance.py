"""What a result must say about where it came from."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Return the versions of the software and a description of the device.

    Example:
        >>> sorted(provenance())
        ['device', 'versions']
    """
    names = ("ndgrad", "torch", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in names},
        "device": f"cpu ({platform.machine()}), {torch.get_num_threads()} threads",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"
