"""The result of ``ndgrad.diagnose``: numbers, a table, a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ndgrad.diagnostics.estimates import Difference, Estimates
from ndgrad.diagnostics.landscape import Landscape
from ndgrad.diagnostics.reference import Reference
from ndgrad.diagnostics.wording import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Advice:
    """What is wrong, with the number that says so and what to type."""

    topic: str
    text: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.text}"


@dataclass(frozen=True)
class Comparison:
    """Another estimator at the same evaluations and sigma.

    Attributes:
        name: of the estimator in ``ndgrad.diagnostics.CANDIDATES``, or "yours".
        evaluations: per row and gradient, the value's own included.
        relative_error: of one estimate against the reference, root mean square.
        cosine: of one estimate with the reference, mean.
        agreement: cosine of its mean estimate with yours.

    """

    name: str
    evaluations: int
    relative_error: float
    cosine: float
    agreement: float


@dataclass(frozen=True)
class Profile:
    """The objective of one row along its mean gradient, (K,) each: distance from x, value less that at x."""

    row: int
    distance: Tensor
    value: Tensor
    slope: float
    reference_slope: float


@dataclass(frozen=True)
class Diagnosis:
    """How good a gradient is; ``print`` shows it as a table, `plot` as a figure.

    Attributes:
        estimator: the estimator, as it prints itself.
        estimates: the repeated estimates (T, B, n), with ``mean``, ``snr``, ``variance_per_row``.
        evaluations: of one gradient, per row, the value's own included.
        spent: evaluations of the whole diagnosis, per row.
        num_samples: draws per row; None for an estimator that does not draw.
        sigma: width of the draws; None for an estimator that has none.
        consistent: whether the estimator tends to the derivative with more draws.
        reference: what the mean is compared with; None where the value is not that of the function.
        bias: mean estimate against the reference.
        smoothing: the smoothed gradient at sigma against that at sigma / 2; None without sigma.
        landscape: what the function looks like around the input; None where the value is not that of the function.
        comparisons: other estimators at equal evaluations.
        value_error: of the fitted network before each fit, None for an estimator without one (see `FitQuality`).
        gradient_error: the same for its differences, which are what the gradient sees.
        profile: the function along the mean gradient, for the figure.
        advice: what to change.

    """

    estimator: str
    estimates: Estimates
    evaluations: int
    spent: int
    num_samples: int | None
    sigma: float | None
    consistent: bool
    reference: Reference | None = None
    bias: Difference | None = None
    smoothing: Difference | None = None
    landscape: Landscape | None = None
    comparisons: tuple[Comparison, ...] = ()
    value_error: float | None = None
    gradient_error: float | None = None
    profile: Profile | None = None
    advice: tuple[Advice, ...] = ()

    @property
    def repeats(self) -> int:
        """T, the number of independent estimates."""
        return len(self.estimates.samples)

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio of one estimate, ``|E g| / sqrt(E |g - E g|^2)`` over the whole batch."""
        return self.estimates.snr

    @property
    def gradient(self) -> Tensor:
        """Mean of the estimates, (B, n)."""
        return self.estimates.mean

    @property
    def standard_error(self) -> float:
        """Standard error of `gradient` relative to its norm."""
        norm, error = float(self.gradient.norm()), math.sqrt(self.estimates.squared_error_of_mean)
        return error / norm if norm else (math.inf if error else 0.0)

    def plot(self) -> Figure:
        """Draw the function along its gradient, the mean against the reference, the errors, the comparison."""
        from ndgrad.diagnostics.diagnosis_figure import draw_diagnosis

        return draw_diagnosis(self)

    def __str__(self) -> str:
        parts = [self._head(), _table(self._measured()), self._compared(), self._advised()]
        return "\n\n".join(part for part in parts if part)

    def _head(self) -> str:
        B, n = self.gradient.shape
        rows = "1 row" if B == 1 else f"{B} rows"
        return (
            f"{self.estimator}\n  {rows} of {n} inputs; {self.repeats} independent estimates, each of "
            f"{self.evaluations} evaluations per row"
        )

    def _measured(self) -> list[tuple[str, str, str]]:
        rows = [
            ("signal to noise", f"{self.snr:.3g}", "|mean| / standard deviation of one estimate"),
            (
                "standard error",
                percent(self.standard_error),
                f"of the mean of {self.repeats}, relative to it",
            ),
        ]
        if self.bias is not None and self.reference is not None:
            shown = percent(self.bias.relative) if self.bias.significant else "none seen"
            noise = f"noise alone would show {percent(self.bias.relative_error)}"
            rows.append(("bias", shown, f"against {self.reference.name}; {noise}"))
        if self.smoothing is not None:
            noise = f"noise alone would show {percent(self.smoothing.relative_error)}"
            shown = percent(self.smoothing.relative) if self.smoothing.significant else "none seen"
            rows.append(("change at sigma / 2", shown, f"of the smoothed gradient; {noise}"))
        if self.landscape is not None:
            where = f"deviation of <v, f> over draws of sigma = {self.landscape.sigma:.3g}"
            rows.append(("spread", f"{self.landscape.spread:.3g}", where))
            rows.append(
                ("noise", f"{self.landscape.noise:.3g}", "deviation of <v, f> at one and the same input")
            )
        if self.value_error is not None:
            rows.append(("surrogate's values", percent(self.value_error), "error before each fit"))
        if self.gradient_error is not None:
            rows.append(("surrogate's gradient", percent(self.gradient_error), "error of its differences"))
        return [*rows, ("evaluations spent", str(self.spent), "per row, on all of this")]

    def _compared(self) -> str:
        if not self.comparisons or self.reference is None:
            return ""
        head = ("at equal evaluations", "error", "cosine", "with yours", "evaluations")
        rows = [
            (c.name, percent(c.relative_error), f"{c.cosine:.3f}", f"{c.agreement:.3f}", str(c.evaluations))
            for c in self.comparisons
        ]
        note = f"  error and cosine of one estimate against {self.reference.name}; with yours: cosine of the means"
        return f"{_table([head, *rows], right=True)}\n{note}"

    def _advised(self) -> str:
        if not self.advice:
            return "nothing to advise"
        return "\n".join(["advice", *(f"- {advice}" for advice in self.advice)])


def _table(rows: Sequence[tuple[str, ...]], right: bool = False) -> str:
    """Align columns: the first to the left, the second to the right, further ones as ``right`` says."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = [
            cell.rjust(width) if i > 0 and (right or i == 1) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"  {'  '.join(cells)}".rstrip()

    return "\n".join(map(line, rows))
