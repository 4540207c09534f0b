"""Words and number formats that the printed table and the report share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.records import Record

HOW_TO_READ = (
    "How to read: relative error 0 is exact, 1 is as far off as answering zero; its mean square is "
    "squared bias + variance. "
    "Every estimator had the same evaluations per row; compare rows within one table only."
)


@dataclass(frozen=True)
class Column:
    """Head, unit and content of one column."""

    name: str
    unit: str
    cell: Callable[[Record], str]


_RAW = Column(
    "raw error", "before conversion", lambda r: number(r.raw_relative_error) if r.conversion else "–"
)
_COLUMNS = (
    Column("estimator", "", lambda r: r.estimator),
    Column("draws", "per row", lambda r: str(r.num_samples) if r.num_samples else "–"),
    Column("used", "eval. per row", lambda r: str(r.evaluations_used)),
    Column(
        "relative error",
        "± standard error",
        lambda r: f"{number(r.relative_error)} ± {number(r.relative_error_standard_error)}",
    ),
    _RAW,
    Column("cosine", "", lambda r: f"{r.cosine:.3f}"),
    Column("squared bias", "/ |reference|²", lambda r: number(r.squared_bias)),
    Column("variance", "/ |reference|²", lambda r: number(r.variance)),
    Column("time", "ms per call", lambda r: f"{1000 * r.seconds:.1f}"),
    Column("objective", "at the end", lambda r: number(r.objective_end)),
)


def columns(group: list[Record]) -> list[Column]:
    """List the columns of one table; raw numbers only where a library's was converted."""
    converted = any(record.conversion for record in group)
    return [column for column in _COLUMNS if converted or column is not _RAW]


def conversions(records: list[Record]) -> dict[str, str]:
    """Collect the conversions by estimator."""
    return {record.estimator: record.conversion for record in records if record.conversion}


def title(records: list[Record]) -> str:
    """Head one table: the records of one task at one budget."""
    r = records[0]
    size = f"B = {r.batch}, n = {r.num_inputs}, m = {r.num_outputs}, sigma = {r.sigma:g}"
    better = (
        f"{'higher' if r.higher_is_better else 'lower'} is better, {number(r.objective_start)} at the start"
    )
    return f"{r.task}: {r.evaluations} evaluations per row ({size}); objective: {r.objective}, {better}"


def number(x: float) -> str:
    """Three significant digits, never in more than eight characters."""
    return f"{x:.3g}" if x == 0 or 1e-4 <= abs(x) < 1e4 else f"{x:.1e}"


def tables(records: list[Record]) -> list[list[Record]]:
    """Group records by task and budget, in their order."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.task, record.evaluations), []).append(record)
    return list(groups.values())
