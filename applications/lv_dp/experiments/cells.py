"""Cells, the units of work of an experiment, and the store in which each is computed once."""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from applications.lv_dp import checkpoint
from applications.lv_dp.experiments.claim import claim
from applications.lv_dp.files import read_json

Result = dict[str, Any]
Watch = Callable[[int, int], None]  # steps done, steps in all

FORMAT = 1  # raised when results of older cells no longer mean the same


def unwatched(done: int, total: int) -> None:
    """Report nothing."""


class Cell(ABC):
    """One unit of work whose result is a JSON object and depends on nothing but `identity`.

    Cells are frozen dataclasses of plain values, so that they can be sent to another process.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Readable beginning of the folder's name; need not be unique."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return everything that the result depends on, as plain JSON values."""

    @abstractmethod
    def run(self, folder: Path, store: Store, watch: Watch) -> Result:
        """Compute the result; ``folder`` is this cell's own, and keeps what an interrupted run left there.

        What it needs of other cells it takes from ``store.obtain``.
        """

    @property
    def full_identity(self) -> dict[str, Any]:
        """The identity with the kind of cell and the format of its file."""
        return {"kind": type(self).__name__, "format": FORMAT, **self.identity()}

    @property
    def key(self) -> str:
        """Name and hash of the identity: the name of the cell's folder."""
        text = json.dumps(self.full_identity, sort_keys=True, allow_nan=False)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Store:
    """Folders of cells below ``root``; several processes may use one store at a time."""

    root: Path

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.root / cell.key

    def read(self, cell: Cell) -> Result | None:
        """Return a finished cell's result; None, with a warning, for a file that is torn or not this cell's."""
        path = self.folder(cell) / "cell.json"
        if not path.is_file():
            return None
        try:
            stored = read_json(path)
            if stored["identity"] == cell.full_identity and isinstance(stored["result"], dict):
                return dict(stored["result"])
            problem = "is another cell's result"
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"cannot be read ({type(error).__name__})"
        warnings.warn(f"{path}: {problem}; it is ignored and computed again", stacklevel=2)
        return None

    def obtain(self, cell: Cell, watch: Watch = unwatched) -> Result:
        """Return a cell's result, computed now unless it is there.

        Raises:
            BusyError: another process is computing it.
        """
        with claim(self.folder(cell)):
            result = self.read(cell)
            if result is None:
                result = cell.run(self.folder(cell), self, watch)
                stored = {"identity": cell.full_identity, "result": result}
                checkpoint.write_json(self.folder(cell) / "cell.json", stored)
        return result
