"""What a number needs beside it to be repeated, and writing that leaves no half-written file."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("ndgrad", "torch", "numpy", "networkx")


def versions() -> dict[str, str]:
    """Collect the versions of Python and of the packages that take part in a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def device() -> str:
    """Name the processor; the benchmarks run on the CPU."""
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores)"


def threads() -> int:
    """Count the threads that torch may use within one operation."""
    return torch.get_num_threads()


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
