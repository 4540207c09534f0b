"""Where a result is computed, and what it must say about where it came from."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from applications.lv_dp.errors import UsageError


def usable_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        UsageError: torch knows no such device, or it is not there.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"--device must be one that torch can use here, such as cpu; {name!r}: {reason}"
        ) from error
    return device


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Return the versions of the software and a description of the device.

    Example:
        >>> sorted(provenance())
        ['device', 'versions']
    """
    names = ("ndgrad", "torch", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in names},
        "device": _describe(torch.device(device)),
    }


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}), {torch.get_num_threads()} threads"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"
