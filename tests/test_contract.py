"""The laws of `ndgrad.testing` and closed forms at sigma != 1, over every estimator of the registry."""

from __future__ import annotations

import math

import pytest
import torch
from registry import SAMPLING, VARIANTS, unregistered
from torch import Tensor

import ndgrad
from ndgrad.testing import assert_mean, check_estimator, estimate

SIGMA = 0.3
ROWS = 20_000  # identical rows, each with noise of its own


@pytest.fixture(params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SAMPLING)
def sampling(request: pytest.FixtureRequest) -> str:
    return request.param


def repeat(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).expand(ROWS, -1)


def test_every_public_estimator_is_registered() -> None:
    assert unregistered() == set()


def test_laws(name: str) -> None:
    check_estimator(VARIANTS[name].make(num_samples=3, sigma=SIGMA))


@pytest.mark.parametrize("S", [2, 7])
def test_documented_number_of_evaluations(name: str, S: int) -> None:
    n, B = 5, 3
    box = ndgrad.wrap(lambda x: torch.sin(x), estimator=VARIANTS[name].make(num_samples=S, sigma=SIGMA))
    x = torch.randn(B, n, requires_grad=True)
    y = box(x)
    value = VARIANTS[name].per_value(S)
    assert box.num_evaluations == B * value
    y.sum().backward()
    assert box.num_evaluations == B * (value + VARIANTS[name].probes(n, S))


@pytest.mark.parametrize("S", [3, 7])
def test_affine_mean_and_variance(name: str, S: int) -> None:
    """The mean is the exact gradient and the variance the closed form: neither more nor less."""
    variant, n = VARIANTS[name], 5
    if variant.variance is None:
        pytest.skip("no closed form for all gradients")
    if name.startswith("es-orthogonal-loo") and n < S:
        pytest.skip("closed form known within one block of directions")
    torch.manual_seed(11)
    matrix = torch.randn(n, 2, dtype=torch.float64)
    x, v = repeat([0.2, -0.4, 0.9, 0.1, -1.2]), repeat([0.7, -1.6])
    gradient = v[0] @ matrix.T  # (n,)
    value = 2.5  # of <v, f(x)>, relative to sigma |gradient|
    offset = value * SIGMA * gradient.norm() * v[0] / v[0].square().sum() - x[0] @ matrix
    grads = estimate(variant.make(num_samples=S, sigma=SIGMA), lambda z: z @ matrix + offset, x, v)
    assert_mean(grads, gradient, "affine mean")
    spread = (grads - gradient).square().sum(1) / gradient.square().sum()  # (rows,)
    assert_mean(spread.unsqueeze(1), variant.variance(n, S, value), "affine variance")


@pytest.mark.parametrize("n", [2, 6])
def test_cubic_closed_form(sampling: str, n: int) -> None:
    """d E (x + sigma e)^3 / dx = 3 x^2 + sigma^2 E e^4; the last term tells the laws of directions apart."""
    variant = SAMPLING[sampling]
    torch.manual_seed(3)
    x = repeat(torch.linspace(-0.5, 0.6, n).tolist())
    v = repeat(torch.linspace(1.4, -0.8, n).tolist())
    grads = estimate(variant.make(num_samples=4, sigma=SIGMA), lambda z: z**3, x, v)
    assert_mean(grads, v[0] * (3 * x[0] ** 2 + SIGMA**2 * variant.fourth_moment(n)), "cubic")


def test_quadratic_closed_form(sampling: str) -> None:
    """A quadratic keeps its gradient under any symmetric smoothing."""
    torch.manual_seed(4)
    half = torch.randn(4, 4, dtype=torch.float64)
    q = half + half.T
    x, v = repeat([0.3, -0.7, 0.5, 1.1]), repeat([-1.3])
    estimator = SAMPLING[sampling].make(num_samples=3, sigma=SIGMA)
    grads = estimate(estimator, lambda z: ((z @ q) * z).sum(1, keepdim=True), x, v)
    assert_mean(grads, 2 * v[0] * (q @ x[0]), "quadratic")


def smoothed_sign(sampling: str, t: Tensor) -> Tensor:
    """E[sign(x + sigma e) e] / sigma for n = 4, at t = |x| / sigma."""
    if "rademacher" in sampling:
        return (t < 1).double() / SIGMA
    if any(law in sampling for law in ("gaussian", "score", "sobol")):
        return 2 * torch.exp(-(t**2) / 2) / math.sqrt(2 * math.pi) / SIGMA
    return 8 / (3 * math.pi) * (1 - t**2 / 4).clamp(min=0) ** 1.5 / SIGMA


def test_step_function_closed_form(sampling: str) -> None:
    torch.manual_seed(5)
    x, v = repeat([0.05, -0.2, 0.4, 0.75]), repeat([1.9, -0.4, 0.8, 1.2])
    grads = estimate(SAMPLING[sampling].make(num_samples=3, sigma=SIGMA), torch.sign, x, v)
    assert_mean(grads, v[0] * smoothed_sign(sampling, x[0].abs() / SIGMA), "sign")


@pytest.mark.parametrize("sigma", [0.02, 0.4, 3.0])
def test_no_slope_in_sigma_or_samples(sampling: str, sigma: float) -> None:
    """A linear function has the same mean gradient for any sigma and S: a wrong power of either would show."""
    torch.manual_seed(6)
    x, v = repeat([0.2, 0.5, -0.3]), repeat([0.6])
    slope = torch.tensor([[1.5], [-0.4], [0.9]], dtype=torch.float64)
    for S in (2, 9):
        grads = estimate(SAMPLING[sampling].make(num_samples=S, sigma=sigma), lambda z: z @ slope, x, v)
        assert_mean(grads, 0.6 * slope[:, 0], f"slope at sigma={sigma}, S={S}")


def test_noise_differs_between_instances_and_calls(sampling: str) -> None:
    torch.manual_seed(1)
    x, v = torch.randn(2, 5), torch.randn(2, 5)
    first, second = (SAMPLING[sampling].make(num_samples=3, sigma=SIGMA) for _ in range(2))
    grads = [estimate(e, torch.sin, x, v) for e in (first, second, first)]
    assert all((a - b).abs().max() > 1e-6 for a, b in [(grads[0], grads[1]), (grads[0], grads[2])])


def test_generator_isolates_the_noise(sampling: str) -> None:
    x, v = torch.randn(2, 5), torch.randn(2, 5)

    def one() -> Tensor:
        generator = torch.Generator().manual_seed(17)
        return estimate(
            SAMPLING[sampling].make(num_samples=3, sigma=SIGMA, generator=generator), torch.sin, x, v
        )

    state = torch.get_rng_state()
    first = one()
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.manual_seed(123)
    torch.testing.assert_close(one(), first, rtol=0, atol=0)
