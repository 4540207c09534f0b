"""Laws that every estimator obeys, to be run on one's own: ``check_estimator(MyEstimator(...))``.

Stochastic laws are z-tests over many identical rows, each of which draws its own noise: a mean must lie within five
of its standard errors of the exact value. A scale factor that is wrong by 10 % fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ndgrad.errors import SecondDerivativeError
from ndgrad.estimator import Estimator, RowFunction

Law = Callable[[Estimator, int], None]

_ROWS = 4000
_Z_MAX = 5.0


def check_estimator(estimator: Estimator, *, num_inputs: int = 5, seed: int = 0) -> None:
    """Run every law on copies of ``estimator`` and raise AssertionError at the first that fails.

    Args:
        estimator: an instance; it is not changed. Its sigma or step may be anything but should not be 1, which would
            hide a missing factor.
        num_inputs: n >= 2, the dimension of the test functions.
        seed: seed of the test; the global random state is put back afterwards.

    An estimator's class attributes say to which laws it is not held, as documented in `ndgrad.Estimator`:
    ``consistent`` False leaves the structural laws (value, cost, cotangent, reproducibility, refusal of a second
    derivative); with ``exact_value`` False the value need only be unbiased for affine functions; with ``linear``
    False a cotangent of 0 must give 0. With ``paired`` True the test functions have outputs of the input's shape.

    Example:
        >>> import ndgrad
        >>> from ndgrad.testing import check_estimator
        >>> check_estimator(ndgrad.EvolutionStrategy(num_samples=7, sigma=0.3))

    """
    for law in laws_of(estimator):
        with _seeded(seed):
            try:
                law(copy.deepcopy(estimator), num_inputs)
            except AssertionError as error:
                name = law.__name__.strip("_").replace("_", " ")
                raise AssertionError(
                    f"{type(estimator).__name__} breaks the law {name!r}: {error}"
                ) from error


def laws_of(estimator: Estimator) -> list[Law]:
    """Return the laws that ``estimator`` is held to."""
    return [
        _value_is_exact if estimator.exact_value else _affine_value_is_unbiased,
        _is_linear_in_the_cotangent if estimator.linear else _no_cotangent_no_gradient,
        *STRUCTURAL_LAWS,
        *(CONSISTENCY_LAWS if estimator.consistent else ()),
    ]


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


def _case(estimator: Estimator, n: int) -> tuple[RowFunction, Tensor, Tensor]:
    """Return a smooth function, inputs (B, n) and cotangents (B, m), neither ones nor zeros."""
    rows, m = 3, _num_outputs(estimator, n)
    x = torch.linspace(-0.8, 1.1, rows * n, dtype=torch.float64).reshape(rows, n)
    v = torch.linspace(1.7, -0.6, rows * m, dtype=torch.float64).reshape(rows, m)
    return _smooth_pairs if estimator.paired else _smooth, x, v


def _num_outputs(estimator: Estimator, n: int) -> int:
    return n if estimator.paired else 2


def _smooth(z: Tensor) -> Tensor:
    return torch.stack([torch.sin(z).sum(-1), (z * z).mean(-1) + 2.0], dim=-1)  # (R, 2)


def _smooth_pairs(z: Tensor) -> Tensor:
    return torch.sin(z) + (z * z).mean(-1, keepdim=True)  # (R, n)


def _affine(estimator: Estimator, n: int) -> tuple[RowFunction, Tensor, Tensor, Tensor]:
    """Return ``z -> z A + b``, identical rows (R, n), their cotangents (R, m), and A (n, m)."""
    _, x, v = _case(estimator, n)
    m = _num_outputs(estimator, n)
    matrix = torch.linspace(-1.3, 2.1, m * n, dtype=torch.float64).reshape(n, m)
    return lambda z: z @ matrix - 0.4, x[:1].expand(_ROWS, -1), v[:1].expand(_ROWS, -1), matrix


def _value_is_exact(estimator: Estimator, n: int) -> None:
    f, x, _ = _case(estimator, n)
    torch.testing.assert_close(estimator(f, x.requires_grad_()).detach(), f(x.detach()))


def _affine_value_is_unbiased(estimator: Estimator, n: int) -> None:
    f, x, _, _ = _affine(estimator, n)
    values = estimator(f, x)
    assert isinstance(values, Tensor), "estimator(f, x) must return a tensor where f does"
    assert_mean(values, f(x[:1])[0], "value of an affine function")


def _costs_one_call_without_gradient(estimator: Estimator, n: int) -> None:
    f, x, _ = _case(estimator, n)
    rows = []

    def counted(z: Tensor) -> Tensor:
        rows.append(len(z))
        return f(z)

    estimator(counted, x)
    with torch.no_grad():
        estimator(counted, x.requires_grad_())
    # a mean over draws may need several rows for one value, but no more calls
    expected = [len(x)] * 2 if estimator.exact_value else [rows[0] // len(x) * len(x)] * 2
    assert rows == expected, (
        f"no gradient was needed, yet f was called with {rows} rows for two values of {len(x)} rows"
    )


def _is_linear_in_the_cotangent(estimator: Estimator, n: int) -> None:
    f, x, v = _case(estimator, n)
    w = v.flip(0) * 0.3

    def one(cotangent: Tensor) -> Tensor:
        torch.manual_seed(5)
        return estimate(_fresh(estimator), f, x, cotangent)

    torch.testing.assert_close(one(2.5 * v - w), 2.5 * one(v) - one(w), rtol=1e-6, atol=1e-8)


def _no_cotangent_no_gradient(estimator: Estimator, n: int) -> None:
    f, x, v = _case(estimator, n)
    grad = estimate(estimator, f, x, torch.zeros_like(v))
    assert (grad == 0).all(), f"a cotangent of 0 has the gradient {grad[0].tolist()} in its first row"


def _is_reproducible(estimator: Estimator, n: int) -> None:
    f, x, v = _case(estimator, n)

    def one(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return estimate(_fresh(estimator), f, x, v)

    torch.testing.assert_close(one(7), one(7), rtol=0, atol=0)


def _refuses_second_derivatives(estimator: Estimator, n: int) -> None:
    f, x, v = _case(estimator, n)
    losses: list[Callable[[Tensor], Tensor]] = [lambda y: (y * v).sum(), lambda y: (y.sin() * v).sum()]
    for loss in losses:
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(_fresh(estimator)(f, x)), x, create_graph=True)
        try:
            torch.autograd.grad(grad.square().sum(), x)
        except SecondDerivativeError:
            continue
        raise AssertionError("differentiating the estimate again must raise ndgrad.SecondDerivativeError")


def _keeps_dtype_and_shape(estimator: Estimator, n: int) -> None:
    f, x, v = _case(estimator, n)
    for dtype in (torch.float32, torch.float64):
        grad = estimate(_fresh(estimator), f, x.to(dtype), v.to(dtype))
        assert grad.shape == x.shape, (
            f"the gradient of an input {tuple(x.shape)} has shape {tuple(grad.shape)}"
        )
        assert grad.dtype == dtype, f"the gradient of a {dtype} input has dtype {grad.dtype}"
        assert grad.isfinite().all(), "the gradient of a smooth function is not finite"


def _rows_are_independent(estimator: Estimator, n: int) -> None:
    f, x, v = _case(estimator, n)
    other = x.clone()
    other[1:] += 0.7

    def one(inputs: Tensor) -> Tensor:
        torch.manual_seed(5)
        return estimate(_fresh(estimator), f, inputs, v)[0]

    torch.testing.assert_close(one(other), one(x), rtol=1e-9, atol=1e-9)


def _constant_has_no_gradient(estimator: Estimator, n: int) -> None:
    _, x, v, _ = _affine(estimator, n)
    grads = estimate(estimator, lambda z: torch.full((len(z), v.shape[1]), 3.0, dtype=z.dtype), x, v)
    assert_mean(grads, 0.0, "constant function")


def _affine_is_unbiased(estimator: Estimator, n: int) -> None:
    f, x, v, matrix = _affine(estimator, n)
    grads = estimate(estimator, f, x, v)
    assert_mean(grads, v[0] @ matrix.T, "affine function")


def _fresh(estimator: Estimator) -> Estimator:
    return copy.deepcopy(estimator)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


STRUCTURAL_LAWS: tuple[Law, ...] = (
    _costs_one_call_without_gradient,
    _is_reproducible,
    _refuses_second_derivatives,
    _keeps_dtype_and_shape,
)
CONSISTENCY_LAWS: tuple[Law, ...] = (_rows_are_independent, _constant_has_no_gradient, _affine_is_unbiased)
