"""The process that loads: one line in for each input, one line of JSON out, until its input ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from applications.lv_dp.__main__ import main as command_line
from applications.lv_dp.errors import UsageError
from benchmarks.fuzzing.formats import FORMATS, Format, make_input
from benchmarks.fuzzing.guard import Guard, limit_memory, peak_memory

THROUGH_COMMAND = 20  # one input in so many goes through the command line


def main(templates: Path, seed: int, memory: int) -> None:
    """Serve."""
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    guard = Guard()
    scratch = templates / f"inputs-{os.getpid()}"
    warm_up(templates, scratch)
    limit_memory(memory)
    print(json.dumps({"ready": peak_memory()}), flush=True)
    for line in sys.stdin:
        name, number = json.loads(line)
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            outcome = run(
                guard, FORMATS[name], templates / slug(name), scratch, [seed, *name.encode(), number], number
            )
        except Exception:
            outcome = {"finding": traceback.format_exc()}
        print(json.dumps(outcome | {"peak": peak_memory()}), flush=True)
    shutil.rmtree(scratch, ignore_errors=True)


def slug(name: str) -> str:
    """Return a folder's name for a format."""
    return "".join(character if character.isalnum() else "_" for character in name)


def warm_up(templates: Path, scratch: Path) -> None:
    """Load every valid sample, so that what is imported or compiled late is there."""
    for name, kind in FORMATS.items():
        shutil.copytree(templates / slug(name), scratch)
        kind.check(scratch, kind.read(scratch))
        if kind.command:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()) as printed,
            ):
                place = _place(templates, scratch)
                assert command_line(kind.command(place)) == 0, (name, printed.getvalue())
        shutil.rmtree(scratch)


def _place(templates: Path, scratch: Path) -> Path:
    """Commands find the weights beside their folder."""
    if not (scratch.parent / "weights").exists():
        (scratch.parent / "weights").symlink_to(templates / slug("released model.json"))
    return scratch


def run(
    guard: Guard, kind: Format, template: Path, scratch: Path, seed: list[int], number: int
) -> dict[str, Any]:
    """Make one input, load it, and say what came of it."""
    done = make_input(kind, template, scratch, np.random.default_rng(seed))
    through_command = kind.command is not None and number % THROUGH_COMMAND == 0
    (scratch / "out").mkdir(exist_ok=True)
    tempfile.tempdir = str(scratch / "out")  # where torch unpacks an archive of its oldest format
    before, began = listing(scratch.parent), time.perf_counter()
    allowed = (
        scratch
        if kind.sample.__name__ in ("write_run", "write_cache", "write_evaluation", "write_evaluations")
        else scratch / "out"
    )
    with guard.watch(allowed) as refused, warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = by_command(kind, scratch) if through_command else by_loader(kind, scratch)
    outcome |= {"damage": done, "seconds": time.perf_counter() - began, "command": through_command}
    changed = listing(scratch.parent) ^ before
    if refused or changed:
        outcome["finding"] = f"wrote or executed: {refused} {sorted(changed)[:5]}"
    return outcome


def by_loader(kind: Format, folder: Path) -> dict[str, Any]:
    """Load; a result is checked."""
    try:
        result = kind.read(folder)
    except kind.errors as error:
        return {"outcome": "error", **complaint(kind, error)}
    except Exception:
        return {"finding": traceback.format_exc()}
    try:
        kind.check(folder, result)
    except (Exception, MemoryError):
        return {"finding": f"wrong result: {traceback.format_exc()}"}
    return {"outcome": "result"}


def complaint(kind: Format, error: Exception) -> dict[str, Any]:
    """Return the message, and what is wrong with it."""
    if kind.bounded and any(isinstance(cause, MemoryError) for cause in causes(error)):
        return {"finding": f"asked for more memory than it may: {error}"}
    if isinstance(error, UsageError):
        text = str(error)
        if not text.isprintable() or len(text) > 1500:
            return {"finding": f"not one readable line: {text[:300]!r}"}
    return {"message": str(error)[:200]}


def causes(error: BaseException | None) -> list[BaseException]:
    """Return an exception with all that led to it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def by_command(kind: Format, folder: Path) -> dict[str, Any]:
    """Give the folder to the command line: status 0, or 2 and one line."""
    assert kind.command is not None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            status = command_line(kind.command(folder))
        except (Exception, SystemExit):
            return {"finding": f"through the command line: {traceback.format_exc()}"}
    text = printed.getvalue()
    if status == 0 and not text:
        return {"outcome": "result"}
    if status == 2 and text.startswith("error: ") and text.endswith("\n") and text[:-1].isprintable():
        return {"outcome": "error", "message": text[7:207]}
    return {"finding": f"status {status}, on standard error {text[:500]!r}"}


def listing(folder: Path) -> set[str]:
    """Return what lies in a folder and in the one that the process works in."""
    return set(os.listdir(folder)) | {f"working/{name}" for name in os.listdir()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
