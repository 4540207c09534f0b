"""Give every loader of the left-ventricle application damaged and hostile files, and watch what it does.

    python -m benchmarks.fuzz_loaders --inputs 10000 --seed 0

Valid files are drawn, trained and saved here; then one of them at a time is damaged: bits, bytes, lines, fields of the
header under a right checksum, bombs, archives with code or with paths that lead out, other things than files. A loader
must answer with one line (``UsageError``; status 2 on the command line, which every twentieth input goes through) or
with a result that passes the checks of its format. A separate process loads: its address space is limited, every file
it opens for writing and every program it would start is seen, and it is killed when one input takes too long.
Anything else is a finding: it is printed with the words that repeat it, and the status is 1.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.fuzzing.formats import FORMATS
from benchmarks.fuzzing.worker import slug
from benchmarks.provenance import provenance, write_json

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Config:
    """How much, and within which limits."""

    inputs: int = 10_000
    """In all, the same number for each format."""
    seed: int = 0
    """Input number i of a format depends on this, the format's name and i alone."""
    formats: tuple[str, ...] = tuple(FORMATS)
    """Names of the formats."""
    number: int | None = None
    """Only the input of this number, of each format."""
    seconds: float = 60.0
    """One input may take before its process is killed."""
    memory: int = 2**30
    """Bytes by which the address space of a process may grow."""
    out: Path | None = None
    """Folder for fuzz_loaders.json; nothing is written without it."""


@dataclass
class Tally:
    """What came of the inputs of one format."""

    inputs: int = 0
    errors: int = 0
    results: int = 0
    commands: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    findings: list[dict[str, Any]] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: dict[str, Any]) -> None:
        """Count one outcome."""
        self.inputs += 1
        self.commands += outcome.get("command", False)
        self.seconds += outcome.get("seconds", 0.0)
        self.slowest = max(self.slowest, outcome.get("seconds", 0.0))
        if "finding" in outcome:
            self.findings.append(outcome)
        else:
            self.errors += outcome["outcome"] == "error"
            self.results += outcome["outcome"] == "result"


class Worker:
    """A process that loads one input after the other, and is replaced when it dies or is killed."""

    def __init__(self, templates: Path, config: Config) -> None:
        self.templates = templates
        self.config = config
        self.growth = 0  # bytes in memory above what was there before the first input
        self.start()

    def start(self) -> None:
        """Start a process, in a folder of its own where a stray file would be seen."""
        folder = self.templates / "working"
        folder.mkdir(exist_ok=True)
        (folder / "bait").touch()
        words = (str(self.templates), str(self.config.seed), str(self.config.memory))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzzing.worker", *words],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        ready = self._answer(600)
        if ready is None or "ready" not in ready:
            raise RuntimeError(f"the process that loads did not start: {self.stop()}")
        self.ready = int(ready["ready"])

    def load(self, name: str, number: int) -> dict[str, Any]:
        """Return what came of one input."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, number]).encode() + b"\n")
        outcome = self._answer(self.config.seconds)
        if outcome is None:
            ended = self.process.poll()
            what = (
                f"took longer than {self.config.seconds} s"
                if ended is None
                else f"ended the process, status {ended}"
            )
            outcome = {"finding": f"{what}: {self.stop()}"}
            self.start()
        self.growth = max(self.growth, outcome.pop("peak", 0) - self.ready)
        return outcome

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """Read one line of JSON, or nothing when the time is over or the process ended."""
        stream, end, line = self.process.stdout, time.monotonic() + seconds, b""
        assert stream is not None
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            part = stream.read(2**16) if readable else b""
            if not part:
                return None
            line += part
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> str:
        """Kill the process; return the end of what it wrote on standard error."""
        self.process.kill()
        _, said = self.process.communicate()
        return said.decode(errors="replace")[-2000:]


def main(config: Config) -> dict[str, Any]:
    """Make the inputs, print and return the counts."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        make_templates(Path(folder))
        worker = Worker(Path(folder), config)
        try:
            tallies = {name: fuzz(worker, name, config) for name in config.formats}
        finally:
            worker.stop()
    results = {
        "formats": {name: summary(tally) for name, tally in tallies.items()},
        "inputs": sum(tally.inputs for tally in tallies.values()),
        "findings": sum(len(tally.findings) for tally in tallies.values()),
        "largest_growth_bytes": worker.growth,
        "seconds": round(time.perf_counter() - began, 1),
    } | provenance(config)
    print_results(results)
    write_json(config.out, "fuzz_loaders", results)
    return results


def make_templates(folder: Path) -> None:
    """Write the valid files of every format, once for those that share them."""
    torch.set_num_threads(1)
    for name, kind in FORMATS.items():
        kind.sample(folder / slug(name))


def fuzz(worker: Worker, name: str, config: Config) -> Tally:
    """Load the inputs of one format."""
    tally = Tally()
    count = -(-config.inputs // len(config.formats))
    for number in range(count) if config.number is None else (config.number,):
        outcome = worker.load(name, number)
        tally.add(outcome)
        if "finding" in outcome:
            repeat = f"--formats {name!r} --number {number} --seed {config.seed}"
            print(f"FINDING {repeat} ({outcome.get('damage')})\n{outcome['finding']}", flush=True)
        elif config.number is not None:
            print(f"{name} {number}: {outcome}")
    print(f"{name}: {tally.inputs} inputs, {len(tally.findings)} findings", flush=True)
    return tally


def summary(tally: Tally) -> dict[str, Any]:
    """Return the counts of one format as plain values."""
    return {
        "inputs": tally.inputs,
        "errors": tally.errors,
        "results": tally.results,
        "findings": len(tally.findings),
        "through_the_command_line": tally.commands,
        "seconds": round(tally.seconds, 1),
        "slowest_seconds": round(tally.slowest, 2),
    }


def print_results(results: dict[str, Any]) -> None:
    print(
        f"{'format':26}{'inputs':>8}{'errors':>8}{'results':>9}{'findings':>10}{'seconds':>9}{'slowest':>9}"
    )
    for name, row in results["formats"].items():
        counts = f"{row['inputs']:8}{row['errors']:8}{row['results']:9}{row['findings']:10}"
        print(f"{name:26}{counts}{row['seconds']:9.1f}{row['slowest_seconds']:9.2f}")
    growth = results["largest_growth_bytes"] / 2**20
    print(
        f"{results['inputs']} inputs, {results['findings']} findings, {results['seconds']:.0f} s, +{growth:.0f} MiB"
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__))["findings"] > 0)
