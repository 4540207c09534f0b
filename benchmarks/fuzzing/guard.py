"""Watches one process: what it writes where, what it would execute, and how much memory it takes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXECUTES: tuple[str, ...] = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "subprocess.Popen",
)
EXECUTES += ("socket.connect", "socket.bind", "pickle.find_class", "ctypes.dlopen")
MARK = "executed"  # in all code that a hostile file holds; other code is compiled for type hints and literals
CHANGES: tuple[str, ...] = (
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
CHANGES += ("shutil.copyfile", "shutil.move", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Sees every audit event of the interpreter; a hook cannot be taken off again."""

    def __init__(self) -> None:
        self.allowed: Path | None = None  # None: nobody watches
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and not self._inside(path):
                self._refuse(event, path)
        elif event in CHANGES:
            if not all(
                self._inside(path) for path in arguments if isinstance(path, (str, bytes, os.PathLike))
            ):
                self._refuse(event, arguments)
        elif event == "compile":
            if MARK in str(arguments[0]):
                self._refuse(event, arguments)
        elif event in EXECUTES and not self._from_import():
            self._refuse(event, arguments)

    def _refuse(self, event: str, what: object) -> None:
        self.seen.append(f"{event} {str(what)[:200]}")
        raise PermissionError(f"refused: {event}")

    def _inside(self, path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        full = Path(os.path.abspath(os.fsdecode(path)))
        return self.allowed is not None and full.is_relative_to(self.allowed)

    @staticmethod
    def _from_import() -> bool:
        """Whether the interpreter itself is at work on a module: loading one late runs its code."""
        frame: Any = sys._getframe(2)
        while frame is not None:
            if "importlib._bootstrap" in frame.f_code.co_filename:
                return True
            frame = frame.f_back
        return False

    @contextmanager
    def watch(self, allowed: Path) -> Iterator[list[str]]:
        """Let writing happen below ``allowed`` only; yields what was refused."""
        self.seen, self.allowed = [], allowed
        try:
            yield self.seen
        finally:
            self.allowed = None


def limit_memory(more: int) -> None:
    """Let this process' address space grow by ``more`` bytes and no further."""
    limit = address_space() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def address_space() -> int:
    """Return the size of this process' address space in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def peak_memory() -> int:
    """Return the most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
