"""Words and number formats that the printed table and the report share."""

from __future__ import annotations

from benchmarks.records import Record

HOW_TO_READ = (
    "How to read: relative error 0 is exact, 1 is as far off as answering zero; its mean square is "
    "squared bias + variance. "
    "Every estimator had the same evaluations per row; compare rows within one table only."
)
COLUMNS = (
    ("estimator", ""),
    ("draws", "per row"),
    ("used", "eval. per row"),
    ("relative error", "± standard error"),
    ("cosine", ""),
    ("squared bias", "/ |reference|²"),
    ("variance", "/ |reference|²"),
    ("time", "ms per call"),
    ("objective", "at the end"),
)


def cells(record: Record) -> tuple[str, ...]:
    """Format one record for ``COLUMNS``."""
    return (
        record.estimator,
        str(record.num_samples) if record.num_samples else "–",
        str(record.evaluations_used),
        f"{number(record.relative_error)} ± {number(record.relative_error_standard_error)}",
        f"{record.cosine:.3f}",
        number(record.squared_bias),
        number(record.variance),
        f"{1000 * record.seconds:.1f}",
        number(record.objective_end),
    )


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
