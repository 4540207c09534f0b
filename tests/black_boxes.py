"""Functions for worker processes; this module imports no torch, so that they begin quickly."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 1.5]])


def steps(x: Any) -> Any:
    return np.round(4 * np.tanh(x @ WEIGHTS)) / 4


def for_seconds(x: Any) -> Any:
    time.sleep(float(x[0, 0]))
    return x


def point(x: Any) -> Any:
    return {"a": np.sin(x), "b": float(x.sum())}


def with_table(x: Any, table: Any, targets: Any, *, scale: float, name: str) -> Any:
    assert name == "a name"
    return (x @ table - targets) * scale


def as_python(x: list[list[float]]) -> list[list[float]]:
    return [[sum(row), max(row)] for row in x]


def in_place(x: Any) -> Any:
    x *= 2
    return x


def seeded(x: Any, *, seed: Any) -> Any:
    noise = [np.random.default_rng(int(s)).normal() for s in seed]
    return x.sum(1) + np.array(noise)


def seeded_point(x: Any, seed: int | None = None) -> float:
    assert isinstance(seed, int)
    return float(x.sum()) + float(np.random.default_rng(seed).normal())


def fixed_seed(x: Any, seed: int = 7) -> Any:
    assert seed == 7
    return x.sum(1)


def process_id(x: Any) -> Any:
    time.sleep(0.05)
    return np.full(len(x), float(os.getpid()))


def torch_loaded(x: Any) -> Any:
    import sys

    return np.full(len(x), float("torch" in sys.modules))


class OddError(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


class DomainError(Exception):
    pass


def below_two(x: Any) -> Any:
    """Raise for a first entry above 2, NaN for one below -2."""
    if (x[:, 0] > 2).any():
        raise DomainError("out of domain")
    return np.where(x[:, 0] < -2, np.nan, x.sum(1))


def odd(x: Any) -> Any:
    raise OddError(1, 2)


def leave(x: Any) -> Any:
    raise SystemExit(3)


def slow_above_two(x: Any) -> Any:
    if (x[:, 0] > 2).any():
        time.sleep(600)
    return x.sum(1)


def deadly_above_two(x: Any) -> Any:
    if (x[:, 0] > 2).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return x.sum(1)


def first_time(x: Any, folder: str) -> bool:
    """Whether these bytes are seen for the first time by any process."""
    try:
        (Path(folder) / x.tobytes().hex()).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def deadly_at_first(x: Any, folder: str) -> Any:
    if x[0, 0] > 2 and first_time(x, folder):
        os.kill(os.getpid(), signal.SIGKILL)
    return x.sum(1)


def failing_at_first(x: Any, folder: str) -> Any:
    if x[0, 0] > 2 and first_time(x, folder):
        raise DomainError("not yet")
    return x.sum(1)


def chaos(x: Any, log: str) -> Any:
    """Sum of squares, of one row, and what may happen to it: by how many evaluations any process has begun so far.

    Of 100, 5 raise, 2 return NaN and 1 hangs; every 300th kills its worker.
    """
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b".")
    count = os.lseek(file, 0, os.SEEK_CUR)  # its own place among all that were appended
    os.close(file)
    if count % 300 == 150:
        os.kill(os.getpid(), signal.SIGKILL)
    fate = count % 100
    if fate in (3, 21, 45, 68, 90):
        raise DomainError("chance")
    if fate == 77:
        time.sleep(600)
    return (x * x).sum(1) * (np.nan if fate in (33, 62) else 1.0)


def fail_plainly(x: Any, *args: Any, seeds: Any) -> Any:
    raise DomainError("no")
