"""Kill trainings at random moments, begin them again, and compare what they end with, bit for bit.

    python -m benchmarks.kill_and_resume --kills 20 --seed 0

Two trainings: the left-ventricle application (smoke profile, drawn hearts) and a toy of one file with a cache. Each is
first left alone, and says when it trains, evaluates, writes a checkpoint and ends. Then the phases take turns, start-up
included: one occurrence is drawn, and a moment within it, and the process gets SIGKILL there. The same command is given
again and runs to its end. Weights, optimiser, generators, every loss and the scores must be those of the
undisturbed run in every bit; times are left out. The status is 1 when one differs.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.provenance import provenance, write_json

ROOT = Path(__file__).parents[1]
START, END = "start-up", "end"
APART = (
    "seconds",
    "global_generator",
)  # the heart's training has a generator of its own, and only keeps torch's
PHASES = (START, "training", "evaluation", "writing a checkpoint")


@dataclass(frozen=True)
class Config:
    """What is killed, and how often."""

    kills: int = 20
    """Of each training."""
    jobs: tuple[str, ...] = ("heart", "toy")
    """Modules of benchmarks.killed."""
    seed: int = 0
    """Of the moments."""
    out: Path | None = None
    """Folder for kill_and_resume.json; nothing is written without it."""


@dataclass(frozen=True)
class Moment:
    """In the occurrence of this number of a phase, so many seconds after its beginning."""

    phase: str
    occurrence: int
    delay: float


def main(config: Config) -> dict[str, Any]:
    """Kill and resume; print and return what was found."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="killed-") as folder:
        jobs = {job: kill_all(job, Path(folder) / job, config) for job in config.jobs}
    results = {"jobs": jobs, "seconds": round(time.perf_counter() - began, 1)} | provenance(config)
    write_json(config.out, "kill_and_resume", results)
    return results


def kill_all(job: str, folder: Path, config: Config) -> dict[str, Any]:
    """Kill one training many times, a new one each time."""
    undisturbed = watch(job, folder / "undisturbed")
    expected = fingerprint(folder / "undisturbed" / "run")
    rng = np.random.default_rng(config.seed)
    kills: list[dict[str, Any]] = []
    for number in range(config.kills):
        moment = draw(PHASES[number % len(PHASES)], undisturbed, rng)
        place = folder / str(number)
        killed = len(watch(job, place, moment)) and not ended(place)
        left = sorted(path.name for path in (place / "run").glob("*")) if (place / "run").is_dir() else []
        watch(job, place)
        same = fingerprint(place / "run") == expected
        kills.append({"phase": moment.phase, "occurrence": moment.occurrence, "delay": moment.delay,
                      "killed": bool(killed), "left": left, "same": same})  # fmt: skip
        print(
            f"{job}: killed in {moment.phase} {moment.occurrence}, {moment.delay:.4f} s in: {same=}",
            flush=True,
        )
    totals = {
        "killed": sum(kill["killed"] for kill in kills),
        "same": sum(kill["same"] for kill in kills),
        "count": len(kills),
    }
    return {"kills": kills} | totals


def draw(phase: str, timeline: list[tuple[float, str]], rng: np.random.Generator) -> Moment:
    """Draw one occurrence of a phase, and a moment within it."""
    ends = [later for later, _ in timeline[1:]]
    spans = [(at, end) for (at, name), end in zip(timeline, ends, strict=False) if name == phase]
    occurrence = int(rng.integers(len(spans)))
    begin, end = spans[occurrence]
    return Moment(phase, occurrence, float(rng.uniform(0, end - begin)))


def watch(job: str, folder: Path, moment: Moment | None = None) -> list[tuple[float, str]]:
    """Run a training in a folder, and kill it at the moment given; return when which phase began.

    Raises:
        RuntimeError: it failed by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"benchmarks.killed.{job}"]
    timeline = [(time.perf_counter(), START)]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if moment is not None and moment.phase == START:
            kill(process, moment)
        for phase in _phases(process):
            timeline.append((time.perf_counter(), phase))
            if moment and phase == moment.phase and _count(timeline, phase) == moment.occurrence + 1:
                kill(process, moment)
        _, said = process.communicate()
    if process.returncode != 0 and moment is None:
        raise RuntimeError(f"{job} failed: {said[-2000:]}")
    if process.returncode == 0:
        (folder / END).touch()
    return [*timeline, (time.perf_counter(), END)]


def kill(process: subprocess.Popen[str], moment: Moment) -> None:
    """Wait, and send SIGKILL."""
    time.sleep(moment.delay)
    process.kill()


def ended(folder: Path) -> bool:
    """Whether a training came to its end before it was killed."""
    return (folder / END).exists()


def _phases(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return (line.strip() for line in process.stdout)


def _count(timeline: list[tuple[float, str]], phase: str) -> int:
    return sum(name == phase for _, name in timeline)


# --- what must be the same


def fingerprint(folder: Path) -> str:
    """Return a hash over every bit of what a training ended with, its times apart."""
    digest = hashlib.sha256()
    _update(digest, torch.load(folder / "checkpoint.pt", weights_only=True))
    if (folder / "metrics.csv").exists():
        with (folder / "metrics.csv").open(newline="") as file:
            _update(digest, list(csv.DictReader(file)))
        for name in ("config.json", "results.json"):
            _update(digest, json.loads((folder / name).read_text()))
    _update(digest, sorted(path.name for path in folder.iterdir()))
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        _update(digest, [str(value.dtype), list(value.shape)])
        digest.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        _update(digest, [part for item in value.items() if item[0] not in APART for part in item])
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            _update(digest, part)
    else:
        digest.update(repr(value).encode())


def summary(results: dict[str, Any]) -> str:
    """Return one line for each training."""
    lines = [
        f"{job}: {found['killed']} of {found['count']} killed before their end, {found['same']} end the same"
        for job, found in results["jobs"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    found = main(tyro.cli(Config, description=__doc__))
    print(summary(found))
    sys.exit(any(job["same"] != job["count"] for job in found["jobs"].values()))
