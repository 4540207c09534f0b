"""Gather comparisons with other libraries into one small file, and print what they say about peers and ours.

    python -m benchmarks.peers_summary --runs results/small results/large --out benchmarks/results

Each run is a folder written by ``python -m benchmarks.compare_estimators --peers --out FOLDER``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.provenance import write_atomically
from benchmarks.records import Record
from benchmarks.verdict import Verdict, verdicts
from benchmarks.wording import conversions

_NUMBERS = (
    "relative_error", "relative_error_standard_error", "raw_relative_error", "cosine", "squared_bias", "variance",
    "seconds", "objective_start", "objective_end",
)  # fmt: skip
_DIGITS = 4  # significant, in the file
_WANTED = {("quadratic_sine", 41): 20.0, ("quadratic_sine_100", 40): 1.25}  # times the best sampling peer


@dataclass(frozen=True)
class Config:
    """Which runs, and where to."""

    runs: tuple[Path, ...]
    """Folders of comparisons, each with its results.json."""
    out: Path | None = None
    """Folder for the file; nothing is written without it."""
    name: str = "peers"
    """Of the file, without its ending."""


def main(config: Config) -> dict[str, Any]:
    """Read the runs, print a line per task and budget, return and write the summary."""
    configurations = [_first(run)["configuration"] for run in config.runs]
    records = _records(config.runs)
    found = verdicts(records)
    results = {
        "configurations": configurations,
        "verdicts": [_verdict(each) for each in found],
        "peers_better": sum(bool(each.better) for each in found),
        "tables": len(found),
        "conversions": conversions(records),
        "notes": {record.estimator: record.note for record in records if record.note},
        "columns": list(_row(records[0])),
        "rows": [list(_row(record).values()) for record in records],
        "end_to_end": [entry for run in config.runs for entry in _read(run / "end_to_end.json")],
        "versions": {name: version for record in records for name, version in record.versions.items()},
        "device": records[0].device,
        "threads": records[0].threads,
    }
    _print(found)
    if config.out is not None:
        write_atomically(config.out / f"{config.name}.json", _text(results))
    return results


def _text(results: dict[str, Any]) -> str:
    """Write JSON with one line for every row, so that a thousand of them stay readable and small."""
    parts = [f"{json.dumps(key)}: {_lines(value)}" for key, value in results.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]"


def _records(runs: tuple[Path, ...]) -> list[Record]:
    """Read the runs; of an estimator that was run twice on one task and budget, the later result counts."""
    latest: dict[tuple[str, int, str], Record] = {}
    for record in (Record(**row) for run in runs for row in _read(run / "results.json")):
        latest[record.task, record.evaluations, record.estimator] = record
    return list(latest.values())


def _read(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return content


def _first(run: Path) -> dict[str, Any]:
    rows = _read(run / "results.json")
    if not rows:
        raise FileNotFoundError(
            f"{run}: no results.json with results; write it with compare_estimators --peers"
        )
    return rows[0]


def _row(record: Record) -> dict[str, Any]:
    """Keep what the comparison is about, in four digits."""
    numbers = {name: float(f"{getattr(record, name):.{_DIGITS}g}") for name in _NUMBERS}
    counts = {"evaluations": record.evaluations, "used": record.evaluations_used, "seeds": len(record.seeds)}
    return {"task": record.task, "budget": record.budget, "estimator": record.estimator} | counts | numbers


def _verdict(found: Verdict) -> dict[str, Any]:
    ours = found.ours
    return {
        "task": ours.task,
        "budget": ours.budget,
        "evaluations": ours.evaluations,
        "peer_better": [peer.estimator for peer in found.better],
        "sentence": found.sentence(),
    }


def _print(found: list[Verdict]) -> None:
    for each in found:
        print(
            f"{each.ours.task}, {each.ours.evaluations} evaluations ({each.ours.budget}): {each.sentence()}"
        )
        wanted = _WANTED.get((each.ours.task, each.ours.evaluations))
        if wanted is not None and each.sampling is not None:
            print(
                f"  best sampling peer {each.ratio(each.sampling):.3g} times ours; at least {wanted:g} wanted"
            )
    worse = sum(bool(each.better) for each in found)
    print(f"a peer is better by more than two standard errors in {worse} of {len(found)} tables")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
