"""Laws that every estimator obeys, to be run on one's own: ``check_estimator(MyEstimator(...))``.

Stochastic laws are z-tests over many identical rows, each of which draws its own noise: a mean must lie within five
of its standard errors of the exact value. Rows are drawn until a scale factor that is wrong by 10 % fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ndgrad._law_cases import (
    ROWS,
    Counted,
    affine,
    assert_gradient,
    assert_mean,
    estimate,
    products,
    smooth,
    two_inputs,
)
from ndgrad.errors import SecondDerivativeError
from ndgrad.estimator import Estimator, EvaluateIn

__all__ = ["assert_mean", "check_estimator", "estimate", "laws_of"]

Law = Callable[[Estimator, int], None]


def check_estimator(estimator: Estimator, *, num_inputs: int = 5, seed: int = 0) -> None:
    """Run every law on copies of ``estimator``; AssertionError names the first that it breaks, or that it dies in.

    Args:
        estimator: an instance; it is not changed. Its sigma or step may be anything but should not be 1, which would
            hide a missing factor.
        num_inputs: n >= 2, the dimension of the test functions.
        seed: seed of the test; the global random state is put back afterwards.

    An estimator's class attributes say to which laws it is not held, as documented in `ndgrad.Estimator`:
    ``consistent`` False leaves the structural laws (value, cost, when it probes, cotangent, reproducibility, dtypes,
    refusal of a second derivative); with ``exact_value`` False the value need only be unbiased for affine functions,
    and may cost probes; with ``linear`` False a cotangent of 0 must give 0, and ``evaluate_in="forward"`` must raise
    ValueError. With ``paired`` True the test functions have outputs of the input's shape.

    The gradient of an affine function that is 10 % too long or too short fails; 30 % in the laws of two inputs and of
    a quadratic function. An estimator that would take more than four million evaluations for that fails, too, as too
    noisy to be judged: test it with more samples or a wider sigma, which it should be right for all the same. One that
    is made for a single input may refuse a second with TypeError or ValueError.

    Example:
        >>> import ndgrad
        >>> from ndgrad.testing import check_estimator
        >>> check_estimator(ndgrad.EvolutionStrategy(num_samples=7, sigma=0.3))

    """
    _require_instance(estimator)
    for law in laws_of(estimator):
        with _seeded(seed):
            try:
                law(copy.deepcopy(estimator), num_inputs)
            except Exception as error:
                name = law.__name__.strip("_").replace("_", " ")
                what = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                raise AssertionError(
                    f"{type(estimator).__name__} breaks the law {name!r}: {what}{error}"
                ) from error


def _require_instance(estimator: object) -> None:
    if not isinstance(estimator, Estimator):
        hint = ": create it, with parentheses" if isinstance(estimator, type) else ""
        raise TypeError(f"check_estimator takes an instance of ndgrad.Estimator, got {estimator!r}{hint}")


def laws_of(estimator: Estimator) -> list[Law]:
    """Return the laws that ``estimator`` is held to."""
    return [
        _is_reproducible,  # first: noise from elsewhere breaks others, whose messages would mislead
        _value_is_exact if estimator.exact_value else _affine_value_is_unbiased,
        _is_linear_in_the_cotangent if estimator.linear else _no_cotangent_no_gradient,
        *STRUCTURAL_LAWS,
        *(CONSISTENCY_LAWS if estimator.consistent else ()),
    ]


def _value_is_exact(estimator: Estimator, n: int) -> None:
    f, x, _ = smooth(estimator, n)
    value = estimator(f, x.requires_grad_()).detach()
    torch.testing.assert_close(value, f(x.detach()), rtol=1e-12, atol=1e-12)


def _affine_value_is_unbiased(estimator: Estimator, n: int) -> None:
    case = affine(estimator, n, value=-0.4)
    values = estimator(case.f, case.x.expand(ROWS, -1))
    assert isinstance(values, Tensor), "estimator(f, x) must return a tensor where f does"
    assert_mean(values, case.f(case.x)[0], "value of an affine function")


def _costs_one_call_without_gradient(estimator: Estimator, n: int) -> None:
    f, x, _ = smooth(estimator, n)
    counted = Counted(f)
    estimator(counted, x)
    with torch.no_grad():
        estimator(counted, x.requires_grad_())
    # a mean over draws may need several rows for one value, but no more calls
    expected = [len(x)] * 2 if estimator.exact_value else [counted.rows[0] // len(x) * len(x)] * 2
    assert counted.rows == expected, (
        f"no gradient was needed, yet f was called with {counted.rows} rows for two values of {len(x)} rows"
    )


def _probes_when_told_to(estimator: Estimator, n: int) -> None:
    value, _ = _rows_of_both_passes(_fresh(estimator), n, "backward")
    _, x, _ = smooth(estimator, n)
    assert value == len(x) or not estimator.exact_value, (
        f"with evaluate_in='backward' f was called with {value} rows before the backward pass, for a value of {len(x)}"
    )
    if not estimator.linear:
        _refuses_to_probe_early(_fresh(estimator), n)
        return
    _, late = _rows_of_both_passes(_fresh(estimator), n, "forward")
    assert late == 0, f"with evaluate_in='forward' f was called with {late} rows in the backward pass"


def _rows_of_both_passes(estimator: Estimator, n: int, evaluate_in: EvaluateIn) -> tuple[int, int]:
    """Return the number of rows with which f is called in the forward pass, and in the backward pass."""
    f, x, v = smooth(estimator, n)
    counted = Counted(f)
    try:
        y = estimator(counted, x.requires_grad_(), evaluate_in=evaluate_in)
    except TypeError as error:
        raise AssertionError(
            f"estimator(f, x, evaluate_in={evaluate_in!r}) raised TypeError: {error}"
        ) from error
    value = sum(counted.rows)
    y.backward(v)
    return value, sum(counted.rows) - value


def _refuses_to_probe_early(estimator: Estimator, n: int) -> None:
    try:
        _rows_of_both_passes(estimator, n, "forward")
    except ValueError:
        return
    raise AssertionError(
        "an estimator that is not linear in the cotangent must raise ValueError for evaluate_in='forward'"
    )


def _is_linear_in_the_cotangent(estimator: Estimator, n: int) -> None:
    f, x, v = smooth(estimator, n)
    w = v.flip(0) * 0.3

    def one(cotangent: Tensor) -> Tensor:
        torch.manual_seed(5)
        return estimate(_fresh(estimator), f, x, cotangent)

    rtol = 1e-9 if estimator.consistent else 1e-6  # a heuristic may compute in float32
    torch.testing.assert_close(
        one(2.5 * v - w),
        2.5 * one(v) - one(w),
        rtol=rtol,
        atol=rtol / 10,
        msg=lambda m: (
            f"{m}\nA relative difference near 1e-7 is that of a float32 gradient for a float64 input."
        ),
    )


def _no_cotangent_no_gradient(estimator: Estimator, n: int) -> None:
    f, x, v = smooth(estimator, n)
    grad = estimate(estimator, f, x, torch.zeros_like(v))
    assert (grad == 0).all(), f"a cotangent of 0 has the gradient {grad[0].tolist()} in its first row"


def _is_reproducible(estimator: Estimator, n: int) -> None:
    f, x, v = smooth(estimator, n)

    def one(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return estimate(_fresh(estimator), f, x, v)

    torch.testing.assert_close(one(7), one(7), rtol=0, atol=0)


def _refuses_second_derivatives(estimator: Estimator, n: int) -> None:
    f, x, v = smooth(estimator, n)
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
    f, x, v = smooth(estimator, n)
    for dtype in (torch.float32, torch.float64):
        counted, z = Counted(f), x.to(dtype).requires_grad_()
        y = _fresh(estimator)(counted, z)
        assert y.dtype == dtype, f"the value of a {dtype} function has dtype {y.dtype}"
        (grad,) = torch.autograd.grad(y, z, v.to(dtype))
        assert counted.dtypes == {dtype}, f"f was called with {counted.dtypes} rows for a {dtype} input"
        assert grad.shape == x.shape, (
            f"the gradient of an input {tuple(x.shape)} has shape {tuple(grad.shape)}"
        )
        assert grad.isfinite().all(), "the gradient of a smooth function is not finite"


def _rows_are_independent(estimator: Estimator, n: int) -> None:
    f, x, v = smooth(estimator, n)

    def one(inputs: Tensor) -> Tensor:
        torch.manual_seed(5)
        return estimate(_fresh(estimator), f, inputs, v)

    grads = one(x)
    for b in range(len(x)):
        others_moved = x + 0.7
        others_moved[b] = x[b]
        torch.testing.assert_close(one(others_moved)[b], grads[b], rtol=1e-9, atol=1e-9)


def _is_accurate_in_float64(estimator: Estimator, n: int) -> None:
    case = affine(estimator, n, value=3.0)
    grads = case.draw(estimator, case.f, count=6)
    # autograd casts a gradient to the input's dtype; only wrong digits show that it was computed in another
    departure, scale = grads - case.gradient, case.gradient.abs().max()
    exact = grads.std(0).max() < 1e-5 * scale
    assert not exact or departure.abs().max() < 1e-6 * scale, (
        f"the estimate of a float64 input has no noise, but departs from the exact gradient by "
        f"{departure.abs().max():.1e}"
    )


def _constant_has_no_gradient(estimator: Estimator, n: int) -> None:
    case = affine(estimator, n)
    grads = case.draw(estimator, lambda z: torch.full((len(z), case.v.shape[1]), 3.0, dtype=z.dtype), ROWS)
    assert_mean(grads, 0.0, "constant function")


def _affine_is_unbiased(estimator: Estimator, n: int) -> None:
    assert_gradient(estimator, affine(estimator, n), "affine function", precision=0.1)


def _two_inputs_have_their_gradients(estimator: Estimator, n: int) -> None:
    try:
        assert_gradient(estimator, two_inputs(estimator, n), "affine function of two inputs", 0.3, rows=1000)
    except (TypeError, ValueError):
        return  # made for one input: refused, not silently wrong
    except RuntimeError as error:
        raise AssertionError(
            f"two inputs raise RuntimeError: {error}; an estimator of one input refuses others with ValueError"
        ) from error


def _quadratic_is_unbiased(estimator: Estimator, n: int) -> None:
    assert_gradient(estimator, products(estimator, n), "difference between two points", 0.3, rows=1000)


def _fresh(estimator: Estimator) -> Estimator:
    return copy.deepcopy(estimator)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


STRUCTURAL_LAWS: tuple[Law, ...] = (
    _costs_one_call_without_gradient,
    _probes_when_told_to,
    _refuses_second_derivatives,
    _keeps_dtype_and_shape,
)
CONSISTENCY_LAWS: tuple[Law, ...] = (
    _rows_are_independent,
    _constant_has_no_gradient,
    _affine_is_unbiased,
    _is_accurate_in_float64,
    _two_inputs_have_their_gradients,
    _quadratic_is_unbiased,
)
