"""The file of one cached evaluation: in the safetensors format, so that reading it runs no code.

It is an 8-byte length, so many bytes of JSON that name dtypes, shapes and places, and the numbers themselves. It is
written here rather than by the package of that name, because every byte is checked: a file is believed only if it names
the key that it was looked up by, and has the checksum that it holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_FORMAT = "ndgrad evaluation 1"
_LARGEST = 2**30  # bytes of one evaluation


class NotOurs(Exception):  # noqa: N818 - says what the file is
    """The file is torn, foreign, or of another key."""


def write(path: Path, key: str, structure: str, leaves: tuple[Tensor, ...]) -> None:
    """Put a file in its place in one step: a reader sees all of it or none, whoever else writes it, too."""
    content = _encode(key, structure, leaves)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path, key: str) -> tuple[str, tuple[Tensor, ...]] | None:
    """Return structure and leaves; None where there is no file.

    Raises:
        NotOurs: for a file that is not what `write` wrote for this key.

    """
    try:
        found = path.stat()
        _require(stat.S_ISREG(found.st_mode), "it is no ordinary file")  # a pipe or a device might never end
        _require(found.st_size <= _LARGEST, f"it holds more than {_LARGEST} bytes")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotOurs(str(error)) from error
    try:
        return _decode(content, key)
    except NotOurs:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise NotOurs(f"{type(error).__name__}: {error}") from error


def _encode(key: str, structure: str, leaves: tuple[Tensor, ...]) -> bytes:
    header: dict[str, Any] = {}
    data = b""
    for i, leaf in enumerate(leaves):
        part = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        places = [len(data), len(data) + len(part)]
        header[str(i)] = {"dtype": _NAMES[leaf.dtype], "shape": list(leaf.shape), "data_offsets": places}
        data += part
    metadata = {"format": _FORMAT, "key": key, "structure": structure}
    header["__metadata__"] = metadata | {"sha256": _checksum(key, structure, data)}
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data


def _decode(content: bytes, key: str) -> tuple[str, tuple[Tensor, ...]]:
    size = int.from_bytes(content[:8], "little")
    _require(len(content) >= 8 and size <= len(content) - 8, "it is cut short")
    header = json.loads(content[8 : 8 + size])
    data = content[8 + size :]
    metadata = header.pop("__metadata__")
    _require(metadata["format"] == _FORMAT, "it is of another format")
    _require(metadata["key"] == key, "it belongs to another evaluation")
    structure = str(metadata["structure"])
    _require(metadata["sha256"] == _checksum(key, structure, data), "its content is not what was written")
    return structure, tuple(_leaf(header[str(i)], data) for i in range(len(header)))


def _checksum(key: str, structure: str, data: bytes) -> str:
    return hashlib.sha256(b"\0".join((key.encode(), structure.encode(), data))).hexdigest()


def _leaf(entry: dict[str, Any], data: bytes) -> Tensor:
    dtype, shape, (start, stop) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    _require(all(type(size) is int and size >= 0 for size in (*shape, start, stop)), "its sizes are none")
    _require(stop <= len(data) and math.prod(shape) * dtype.itemsize == stop - start, "its sizes do not fit")
    part = bytearray(data[start:stop])
    return torch.frombuffer(part, dtype=dtype).reshape(shape) if part else torch.empty(shape, dtype=dtype)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NotOurs(otherwise)
