"""Numbers over seeds, and the paired comparison of two methods over held-out patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import wilcoxon

NOT_MEASURED = "not measured"
Images = Sequence[Mapping[str, Any]]  # records of `evaluate.score_images`


@dataclass(frozen=True)
class Entry:
    """One number of a table: its place, its values over the seeds, and the thesis' own.

    Attributes:
        row: for instance a method.
        column: for instance a number of training slices.
        values: one for each seed that was measured.
        planned: how many seeds were to be measured.
        published: in the thesis, at the same place of its table.
    """

    row: str
    column: int | float | str
    values: tuple[float, ...]
    planned: int = 1
    published: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None if there is none."""
        return fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (divisor n - 1); None below two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def status(self) -> str:
        """Whether all, some or none of it was measured."""
        if not self.values:
            return NOT_MEASURED
        return (
            "measured"
            if len(self.values) >= self.planned
            else f"{len(self.values)} of {self.planned} measured"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, null where nothing was measured."""
        return {
            "row": self.row,
            "column": self.column,
            "mean": self.mean,
            "deviation": self.deviation,
            "values": list(self.values),
            "status": self.status,
            "published": self.published,
        }


def patient_means(runs: Iterable[Images], prediction: str, score: str) -> dict[str, float]:
    """Return every patient's mean score over its slices and over the runs (seeds)."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for images in runs:
        for image in images:
            values[image["patient"]].append(image[prediction][score])
    return {patient: fmean(of_patient) for patient, of_patient in sorted(values.items())}


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    """Compare two methods over the patients that both scored: Wilcoxon's signed-rank test, two-sided.

    Slices of one patient are not independent, patients are; so ``a`` and ``b`` map patients to mean scores.

    Raises:
        ValueError: they share no patient.

    Example:
        >>> paired({"p": 0.5, "q": 0.75, "r": 1.0}, {"p": 0.25, "q": 0.25, "r": 0.875})
        {'patients': 3, 'mean_difference': 0.2916666666666667, 'better': 3, 'p_value': 0.25}
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("a paired comparison needs patients that both methods scored")
    differences = [a[patient] - b[patient] for patient in shared]
    equal = not any(differences)  # nothing to rank
    return {
        "patients": len(shared),
        "mean_difference": fmean(differences),
        "better": sum(difference > 0 for difference in differences),
        "p_value": 1.0 if equal else float(wilcoxon(differences).pvalue),
    }
