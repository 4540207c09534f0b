"""Files that are either old or new, never half-written, and that load without running any code of theirs."""

from __future__ import annotations

import json
import os
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import read_bytes

MAX_BYTES = 2**33
MAX_VALUES = 2 * 10**6  # of a checkpoint, each tensor counting as one; an iteration leaves 15
MAX_DEPTH = 40
NAMES = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2")


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file as a whole: ``write`` fills another one of this process, which then takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(partial)
    os.replace(partial, path)


def remove_partial(path: Path) -> None:
    """Remove what runs that were killed while they wrote ``path`` have left beside it."""
    for partial in path.parent.glob(f"{path.name}.*.partial"):
        partial.unlink(missing_ok=True)


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
        data = read_bytes(path, MAX_BYTES)
        _check_archive(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that this version of torch does not write
            state = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("a checkpoint is a dict")
        count_values(state)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch's unpickler raises whatever a damaged file leads it to
        raise UsageError(f"{path}: is damaged or no checkpoint ({type(error).__name__})") from error
    return state


def _check_archive(data: bytes) -> None:
    """Refuse archives that hold more than their size, and what older versions of torch wrote, which may claim to."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("torch does not compress")
        if sum(entry.file_size for entry in entries) > len(data):
            raise ValueError("members overlap")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                _check_names(archive.read(entry))


def _check_names(pickled: bytes) -> None:
    """Refuse a pickle that names more than a tensor is rebuilt from; torch itself allows bytearray(2**40), too."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ"):
            raise ValueError(f"torch does not write {operation.name}")
        if operation.name == "GLOBAL" and argument not in NAMES and not str(argument).endswith("Storage"):
            raise ValueError(f"{argument} is not part of a tensor")


def count_values(value: Any, depth: int = MAX_DEPTH, left: int = MAX_VALUES) -> int:
    """Return how many more values there may be.

    A pickle can hold one list in many places, itself included: a few bytes become a tree without end.

    Raises:
        ValueError: for too many values, too deep ones, and tensors that show more than they hold.
        TypeError: for anything else than tensors and plain values.
    """
    left -= 1
    if left < 0 or depth == 0:
        raise ValueError("too many values")
    if isinstance(value, Tensor):
        _check_tensor(value)
    elif isinstance(value, (dict, list, tuple)):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            left = count_values(part, depth - 1, left)
    elif not isinstance(value, (str, int, float, type(None))):
        raise TypeError(f"{type(value).__name__} is not among the values of a checkpoint")
    return left


def _check_tensor(tensor: Tensor) -> None:
    if (tensor.layout, tensor.device.type) != (torch.strided, "cpu") or tensor.is_quantized:
        raise ValueError("a tensor of a checkpoint is dense")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ValueError("a tensor shows more numbers than it holds")


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole."""
    replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write plain values as readable JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
