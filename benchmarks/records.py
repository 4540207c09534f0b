"""The result of one estimator on one task at one budget, and the files that hold such results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.provenance import write_atomically


@dataclass(frozen=True)
class Record:
    """One row of the results; errors are relative to the reference gradient's norm over the whole batch."""

    task: str
    estimator: str
    library: str  # that it comes from
    budget: str  # as asked for: a number, or a multiple of n
    evaluations: (
        int  # the budget: rows handed to the black box per row of the batch and backward, value included
    )
    evaluations_used: int  # of them, counted by the black box
    num_samples: int  # noise draws; 0 for finite differences
    relative_error: float  # mean over the seeds of |g - reference| / |reference|
    relative_error_standard_error: float  # of that mean
    raw_relative_error: float  # the same before ``conversion``
    conversion: str  # of the library's number into the gradient asked for; empty where none is needed
    learns: bool  # carries something from call to call, and was measured after some calls nearby
    kind: str  # of a peer: sampling, differences, solver; empty for ours
    note: str  # of a peer: its setting
    cosine: float  # mean over the seeds of the cosine between g and the reference
    squared_bias: (
        float  # |mean g - reference|^2 / |reference|^2, less its sampling noise: can come out negative
    )
    variance: float  # E |g - mean g|^2 / |reference|^2
    reference_relative_error: float  # standard error of the reference itself; 0 for a closed form
    seconds: float  # median of one forward and backward of the whole batch
    objective: str  # what the two scores below are
    higher_is_better: bool
    objective_start: float
    objective_end: float  # after the optimisation, mean over its seeds
    optimisation_steps: int
    batch: int
    num_inputs: int
    num_outputs: int
    sigma: float
    seeds: list[int]
    configuration: dict[str, Any]
    versions: dict[str, str]
    device: str
    threads: int


@dataclass(frozen=True)
class Skipped:
    """A combination that was not run, and why."""

    task: str
    estimator: str
    evaluations: int
    reason: str


@dataclass(frozen=True)
class EndToEnd:
    """An optimiser without gradients on the same objective, after as many evaluations as the descents had."""

    task: str
    optimiser: str
    evaluations: int  # per row, in all
    objective_start: float
    objective_end: float  # mean over the seeds
    seeds: list[int]


def write_results(
    out: Path, records: Sequence[Record], skipped: Sequence[Skipped], end_to_end: Sequence[EndToEnd] = ()
) -> None:
    """``results.json``, ``results.csv`` (the same rows) and ``skipped.json`` in ``out``.

    ``end_to_end.json`` where there is something to write.
    """
    rows = [asdict(record) for record in records]
    write_atomically(out / "results.json", json.dumps(rows, indent=1) + "\n")
    write_atomically(out / "results.csv", _csv(rows))
    write_atomically(out / "skipped.json", json.dumps([asdict(entry) for entry in skipped], indent=1) + "\n")
    if end_to_end:
        content = json.dumps([asdict(entry) for entry in end_to_end], indent=1)
        write_atomically(out / "end_to_end.json", content + "\n")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """Numbers as in the JSON; lists and tables as JSON text in their cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Record)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | dict | bool) else value
