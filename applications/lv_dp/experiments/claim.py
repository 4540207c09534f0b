"""A claim on a folder that ends with the process that made it, however that process ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class BusyError(Exception):
    """Somebody else is at work there."""


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold ``folder`` alone; the system lets go of it when the process dies, so that no claim grows stale.

    Raises:
        BusyError: another claim holds it, of this or another process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claim").open("ab") as file:
        try:
            _lock(file)
        except OSError as error:
            raise BusyError(f"{folder}: in use by another process") from error
        yield
