"""Whether another library's estimator was better than our best one, as one sentence per task and budget.

The errors are means over seeds with standard errors; two of these apart is what counts as a difference. Our best
is chosen among those that start afresh with every call, since none of the peers' learns more than a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.records import Record
from benchmarks.wording import number, tables

STANDARD_ERRORS = 2.0
_ROUNDING = 1e-5  # of a difference of two values over the step, as a share of the gradient


@dataclass(frozen=True)
class Verdict:
    """Our best estimator of one table against each peer in it."""

    ours: Record
    peer: Record  # the one with the lowest error
    sampling: Record | None  # the one among those that draw random directions
    better: list[Record]  # peers whose error is lower by more than two standard errors

    def ratio(self, peer: Record) -> float:
        """How many times higher a peer's error is than ours."""
        return peer.relative_error / max(self.ours.relative_error, 1e-300)

    def sentence(self) -> str:
        """Say it in words."""
        parts = [f"ours {self.ours.estimator} {_error(self.ours)}", f"best peer {self._distance(self.peer)}"]
        if self.sampling is not None and self.sampling is not self.peer:
            parts.append(f"best sampling peer {self._distance(self.sampling)}")
        if not self.better:
            return f"no peer is better: {'; '.join(parts)}"
        names = ", ".join(f"{peer.estimator} {_error(peer)}{_beside_zero(peer)}" for peer in self.better)
        return f"PEER IS BETTER: {names}; {'; '.join(parts)}"

    def _distance(self, peer: Record) -> str:
        times, z = number(self.ratio(peer)), z_score(self.ours, peer)
        return f"{peer.estimator} {_error(peer)}, {times} times ours, z = {z:+.1f}"


def verdict(group: Sequence[Record]) -> Verdict | None:
    """Compare within one table; None where one of the two sides is missing."""
    ours = [record for record in group if record.library == "ndgrad" and not record.learns]
    peers = [record for record in group if record.library != "ndgrad"]
    if not ours or not peers:
        return None
    best = min(ours, key=_key)
    better = [peer for peer in peers if z_score(best, peer) < -STANDARD_ERRORS]
    sampling = min((peer for peer in peers if peer.kind == "sampling"), key=_key, default=None)
    return Verdict(best, min(peers, key=_key), sampling, sorted(better, key=_key))


def verdicts(records: list[Record]) -> list[Verdict]:
    """Compare within every table."""
    return [found for group in tables(records) if (found := verdict(group)) is not None]


def z_score(ours: Record, peer: Record) -> float:
    """Difference of two errors over its standard error; rounding counts as one where neither varies."""
    difference = peer.relative_error - ours.relative_error
    spread = math.hypot(ours.relative_error_standard_error, peer.relative_error_standard_error)
    # deterministic estimators with one formula agree up to the single precision of the boxes
    rounding = max(1e-4 * ours.relative_error, _ROUNDING)
    return difference / max(spread, rounding)


def _beside_zero(record: Record) -> str:
    """Name an error that answering zero, whose error is 1, would have reached."""
    reached = record.relative_error + STANDARD_ERRORS * record.relative_error_standard_error >= 1
    return " (no better than answering zero)" if reached else ""


def _error(record: Record) -> str:
    return f"{number(record.relative_error)} ± {number(record.relative_error_standard_error)}"


def _key(record: Record) -> float:
    return record.relative_error
