"""Reading files that anybody may have sent: ordinary ones, of a size that fits a machine, with plain values in them."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 2**30
MAX_TEXT = 2**22
MAX_JSON = 2**26
MAX_NUMBER = 1e30
MAX_DEPTH = 40  # of lists and objects within each other


class NoFileError(OSError):
    """A folder, a pipe or a device is in a file's place."""


class TooLargeError(OSError):
    """The file is larger than anything of its kind."""


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return what an ordinary file holds.

    Raises:
        OSError: there is none; `NoFileError` for another thing than a file, which might never end, and
            `TooLargeError` for more than ``limit`` bytes.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise NoFileError(f"{path}: is no ordinary file")
    if found.st_size > limit:
        raise TooLargeError(f"{path}: holds {found.st_size} bytes, at most {limit} are read")
    return path.read_bytes()


def read_text(path: Path, limit: int = MAX_TEXT, encoding: str = "utf-8") -> str:
    """Return the text of an ordinary file.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: it is not text.
    """
    return read_bytes(path, limit).decode(encoding)


def read_json(path: Path) -> Any:
    """Return the value that a JSON file holds, without NaN and infinity, which JSON does not know.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is not JSON, or too deeply nested.
    """
    try:
        value = json.loads(read_text(path, MAX_JSON), parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error
    check_depth(value)
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is beyond the largest number")
    return value


def check_depth(value: Any, depth: int = MAX_DEPTH) -> None:
    """Raise ValueError for lists and objects nested more deeply than ``depth``."""
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise ValueError("too deeply nested")
        for part in value.values() if isinstance(value, dict) else value:
            check_depth(part, depth - 1)


def read_number(word: str) -> float:
    """Read a number that float32 holds, as people write it; ValueError for the rest of what Python takes for one.

    Example:
        >>> read_number("-1.5e2")
        -150.0
        >>> read_number("1_000")
        Traceback (most recent call last):
        ValueError: not a finite number: '1_000'
    """
    value = float(word) if word.isascii() and "_" not in word else math.nan
    if not abs(value) <= MAX_NUMBER:  # NaN fails as well
        raise ValueError(f"not a finite number: {word[:40]!r}")
    return value
