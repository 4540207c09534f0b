"""What the laws of `ndgrad.testing` are measured on and with: test functions, counted calls, means of estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ndgrad.estimator import Estimator, RowFunction, Rows, as_tuple, join_rows, split_rows

ROWS = 4000

_Z_MAX = 5.0
_MARGIN = _Z_MAX + 3.0  # a mean that happens to lie 3 standard errors on the right side is still 5 off
_MAX_EVALUATIONS = 4_000_000
_MAX_ROWS_AT_ONCE = 10 * ROWS


def estimate(estimator: Estimator, f: RowFunction, x: Tensor, v: Tensor) -> Tensor:
    """Return the estimate of ``vᵀ df/dx`` for x (B, n) and v (B, m), shape (B, n)."""
    x = x.detach().requires_grad_()
    y = estimator(f, x)
    assert isinstance(y, Tensor), "estimator(f, x) must return a tensor where f does"
    return torch.autograd.grad(y, x, v)[0]


def assert_mean(samples: Tensor, expected: Tensor | float, law: str) -> None:
    """Assert that the mean of independent samples (R, ...) is ``expected`` within five standard errors.

    Entries whose samples do not vary are compared exactly, up to rounding.
    """
    samples = samples.double()
    mean, error = samples.mean(0), samples.std(0) / len(samples) ** 0.5
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(mean)
    rounding = 2e-4 * (1 + expected.abs())
    z = (mean - expected).abs() / (error + rounding / _Z_MAX)
    assert z.max() < _Z_MAX, (
        f"{law}: the mean of {len(samples)} estimates is {mean.flatten()[:4].tolist()} with standard error "
        f"{error.flatten()[:4].tolist()}, but {expected.flatten()[:4].tolist()} is exact: "
        f"{z.max():.1f} standard errors off"
    )


@dataclass
class Counted:
    """A row function that remembers how many rows of which dtype it was called with."""

    f: RowFunction
    rows: list[int] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)

    def __call__(self, *z: Tensor) -> Tensor | Rows:
        """Count, and call."""
        self.rows.append(len(z[0]))
        self.dtypes.update(t.dtype for t in z)
        return self.f(*z)


@dataclass(frozen=True)
class Case:
    """A function, one input (1, n), one cotangent (1, m), and their exact gradient (n,)."""

    f: RowFunction
    x: Tensor
    v: Tensor
    gradient: Tensor

    def draw(self, estimator: Estimator, f: RowFunction, count: int) -> Tensor:
        """Return independent estimates of the gradient, (count, n)."""
        return estimate(estimator, f, self.x.expand(count, -1), self.v.expand(count, -1))

    def parts(self) -> list[int]:
        """Return the sizes of the inputs, whose scales are judged one by one."""
        return [self.x.shape[1]]


def smooth(estimator: Estimator, n: int) -> tuple[RowFunction, Tensor, Tensor]:
    """Return a smooth function, inputs (B, n) and cotangents (B, m), neither ones nor zeros."""
    rows, m = 3, _num_outputs(estimator, n)
    x = torch.linspace(-0.8, 1.1, rows * n, dtype=torch.float64).reshape(rows, n)
    v = torch.linspace(1.7, -0.6, rows * m, dtype=torch.float64).reshape(rows, m)
    return _smooth_pairs if estimator.paired else _smooth, x, v


def _smooth(z: Tensor) -> Tensor:
    return torch.stack([torch.sin(z).sum(-1), (z * z).mean(-1) + 2.0], dim=-1)  # (R, 2)


def _smooth_pairs(z: Tensor) -> Tensor:
    return torch.sin(z) + (z * z).mean(-1, keepdim=True)  # (R, n)


def affine(estimator: Estimator, n: int, value: float = 0.0) -> Case:
    """Return ``z -> (z - x) A + value``; with 0 there, no estimator needs a baseline to have little noise."""
    x, v, matrix = _constants(estimator, n)
    return Case(lambda z: (z - x) @ matrix + value, x, v, (v @ matrix.T)[0])


class Products(Case):
    """Products of neighbouring inputs, at x and at -x; their gradient is linear in x.

    No input is squared: the mean of such a function over centred noise is its value, whatever the noise.
    """

    def draw(self, estimator: Estimator, f: RowFunction, count: int) -> Tensor:
        """Return independent differences of the estimates at both points, (count, n)."""
        x = torch.cat([self.x, -self.x]).repeat_interleave(count, 0)
        here, there = estimate(estimator, f, x, self.v.expand(2 * count, -1)).chunk(2)
        return here - there


def products(estimator: Estimator, n: int) -> Products:
    """Return ``z -> (p(z) - p(x)) A`` with ``p_i(z) = z_i z_{i+1}``; its gradients at x and -x are of opposite sign."""
    x, v, matrix = _constants(estimator, n)
    w = v @ matrix.T  # (1, n), of the products
    gradient = w * x.roll(-1, 1) + (w * x).roll(1, 1)
    return Products(lambda z: (_neighbours(z) - _neighbours(x)) @ matrix, x, v, 2 * gradient[0])


def _neighbours(z: Tensor) -> Tensor:
    return z * z.roll(-1, 1)


class TwoInputs(Case):
    """A function of two inputs of different shapes, (R, k) and (R, 1, n - k), which f sees side by side."""

    def draw(self, estimator: Estimator, f: RowFunction, count: int) -> Tensor:
        """Return independent estimates of both gradients side by side, (count, n)."""
        like, v = self._like(), self.v.expand(count, -1)
        inputs = tuple(t.requires_grad_() for t in split_rows(self.x.expand(count, -1), like))

        def cut(*z: Tensor) -> Tensor | Rows:
            y = f(join_rows(z, z[0].dtype))
            return split_rows(y, like) if estimator.paired else y

        outputs = as_tuple(estimator(cut, *inputs))
        cotangents = split_rows(v, like) if estimator.paired else (v,)
        return join_rows(torch.autograd.grad(outputs, inputs, cotangents), torch.float64)

    def parts(self) -> list[int]:
        """Return the sizes of both inputs."""
        return [t.shape[1:].numel() for t in self._like()]

    def _like(self) -> Rows:
        n = self.x.shape[1]
        return self.x.new_empty(1, n // 2), self.x.new_empty(1, 1, n - n // 2)


def two_inputs(estimator: Estimator, n: int) -> TwoInputs:
    """Return an affine function of two inputs."""
    one = affine(estimator, n)
    return TwoInputs(one.f, one.x, one.v, one.gradient)


def _num_outputs(estimator: Estimator, n: int) -> int:
    return n if estimator.paired else 2


def _constants(estimator: Estimator, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return one input (1, n), one cotangent (1, m) and a matrix (n, m)."""
    _, x, v = smooth(estimator, n)
    m = _num_outputs(estimator, n)
    return x[:1], v[:1], torch.linspace(-1.3, 2.1, m * n, dtype=torch.float64).reshape(n, m)


def assert_gradient(estimator: Estimator, case: Case, law: str, precision: float, rows: int = ROWS) -> None:
    """Assert that the mean estimate is the gradient, with enough draws to see that it is longer by ``precision``.

    Beside its entries, the mean is compared along the gradient, which is where a wrong factor shows most.
    """
    f, samples = Counted(case.f), case.gradient.new_empty(0, len(case.gradient))
    along, missing = _along(case), rows
    while missing > 0:
        more = case.draw(estimator, f, min(missing, _MAX_ROWS_AT_ONCE))
        samples = torch.cat([samples, more.double()])
        scales = samples @ along  # (R, parts)
        assert_mean(scales, 1.0, f"{law}, in lengths of the gradient")
        assert_mean(samples, case.gradient, law)
        missing = _missing(scales, sum(f.rows), law, precision)


def _along(case: Case) -> Tensor:
    """Return the matrix (n, parts) that measures an estimate in lengths of the gradient, for each input."""
    return torch.block_diag(*(g.unsqueeze(1) / g.square().sum() for g in case.gradient.split(case.parts())))


def _missing(scales: Tensor, evaluations: int, law: str, precision: float) -> int:
    """Return how many estimates the wanted precision takes beside those that there are."""
    error = scales.std(0).max().item() / len(scales) ** 0.5
    needed = len(scales) * (_MARGIN * error / precision) ** 2
    cost = evaluations / len(scales) * needed
    assert needed <= len(scales) or cost <= _MAX_EVALUATIONS, (
        f"{law}: too noisy to be judged. Five standard errors of the mean of {len(scales)} estimates are "
        f"{_Z_MAX * error:.0%} of the gradient; to see an error of {precision:.0%} takes {cost:.1e} evaluations, more "
        f"than the {_MAX_EVALUATIONS:.0e} of this test. Check it with more samples, a wider sigma or fewer inputs"
    )
    return math.ceil(needed) - len(scales)
