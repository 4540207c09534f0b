"""The noise of perturbed solvers against closed forms of its law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ndgrad.perturbations import (
    EULER_GAMMA,
    Perturbation,
    add_gaussian,
    add_gumbel,
    gumbel,
    multiply_lognormal,
    subtract_gumbel,
    sum_of_gamma,
)
from ndgrad.testing import assert_mean

S, SIGMA = 40_000, 0.4


def point() -> Tensor:
    return torch.tensor([[0.7, -1.3, 2.1], [0.4, 0.9, -0.2]], dtype=torch.float64)


def test_gumbel_distribution() -> None:
    torch.manual_seed(0)
    Z = gumbel(S, point(), None)
    assert Z.shape == (S, 2, 3)
    assert_mean(Z, 0.0, "mean")
    assert_mean(Z**2, math.pi**2 / 6, "variance")
    for q in (-1.0, 0.2, 1.5):
        assert_mean(Z.le(q).double(), math.exp(-math.exp(-q - EULER_GAMMA)), f"distribution function at {q}")


def test_gumbel_is_finite_where_the_uniform_number_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, generator=None, **options: torch.zeros(shape, **options))
    for dtype in (torch.float32, torch.float64):
        assert gumbel(2, point().to(dtype), None).isfinite().all()


@pytest.mark.parametrize("kappa", [1, 2, 3])
def test_kappa_sum_of_gamma_draws_add_up_to_the_maximum_of_ten_exponentials(kappa: int) -> None:
    """Sum_i E_i / i over i = 1..10 is the maximum of ten exponential variables, which is nearly Gumbel + log 10."""
    torch.manual_seed(1)
    noise = sum_of_gamma(S, torch.zeros(1, kappa, 2, dtype=torch.float64), kappa, None)
    harmonic = sum(1 / i for i in range(1, 11))
    assert_mean(noise, 0.0, "mean")
    assert_mean(noise**2, sum(1 / i**2 for i in range(1, 11)) / kappa, "variance")
    total = noise.sum(2) + harmonic  # (S, 1, 2)
    for q in (1.5, 2.6, 4.0):
        assert_mean((total <= q).double(), (1 - math.exp(-q)) ** 10, f"distribution function at {q}")


def test_sum_of_gamma_has_ten_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tenth is 1 % of the variance, too little for a test of moments: every draw of 2.5, summed by hand."""
    monkeypatch.setattr(torch, "_standard_gamma", lambda shape, generator=None: torch.full_like(shape, 2.5))
    noise = sum_of_gamma(2, point(), 3, None)
    expected = torch.full_like(noise, sum((2.5 - 1 / 3) / i for i in range(1, 11)))
    torch.testing.assert_close(noise, expected)


def log_density(perturb: Perturbation, samples: Tensor, theta: Tensor) -> Tensor:
    """Return the log density of samples, written down once more with torch.distributions."""
    D = torch.distributions
    if perturb is add_gaussian:
        return D.Normal(theta, SIGMA).log_prob(samples)
    if perturb is multiply_lognormal:
        return D.LogNormal(theta.abs().log() - SIGMA**2 / 2, SIGMA).log_prob(samples.abs())
    sign = 1 if perturb is add_gumbel else -1
    return D.Gumbel(sign * theta - SIGMA * EULER_GAMMA, SIGMA).log_prob(sign * samples)


LAWS = [add_gaussian, add_gumbel, subtract_gumbel, multiply_lognormal]


@pytest.mark.parametrize("perturb", LAWS)
def test_the_score_is_the_gradient_of_the_log_density(perturb: Perturbation) -> None:
    torch.manual_seed(2)
    theta = point().requires_grad_()
    samples, score = perturb(7, theta.detach(), SIGMA, None)
    for z, g in zip(samples, score, strict=True):
        (expected,) = torch.autograd.grad(log_density(perturb, z, theta).sum(), theta)
        torch.testing.assert_close(g, expected)


@pytest.mark.parametrize("perturb", LAWS)
def test_samples_are_centred_and_have_the_width_of_their_law(perturb: Perturbation) -> None:
    torch.manual_seed(3)
    theta = point()
    samples, score = perturb(S, theta, SIGMA, None)
    variance = torch.full_like(theta, SIGMA**2)
    if perturb is multiply_lognormal:
        variance = theta**2 * math.expm1(SIGMA**2)
    elif perturb is not add_gaussian:
        variance = variance * math.pi**2 / 6
    assert_mean(samples, theta, "mean")
    assert_mean((samples - theta) ** 2, variance, "variance")
    assert_mean(score, 0.0, "mean of the score")


def test_the_sides_of_the_gumbel_laws() -> None:
    """A score has the long tail upwards, a cost downwards: third moments of 2 zeta(3) sigma^3 = 2.404 sigma^3."""
    torch.manual_seed(4)
    for perturb, sign in ((add_gumbel, 1.0), (subtract_gumbel, -1.0)):
        samples, _ = perturb(S, point(), SIGMA, None)
        assert_mean((samples - point()) ** 3, sign * 2.4041138 * SIGMA**3, "third moment")


def test_lognormal_noise_keeps_signs() -> None:
    samples, _ = multiply_lognormal(50, point(), 3.0, None)
    assert (samples.sign() == point().sign()).all()


def test_lognormal_noise_refuses_zero() -> None:
    with pytest.raises(ValueError, match=r"never moves an input of 0.*noise='gaussian'"):
        multiply_lognormal(5, torch.tensor([[0.0, 1.0]]), SIGMA, None)


def test_generators_isolate_every_noise() -> None:
    for draw in (
        lambda g: gumbel(3, point(), g),
        lambda g: sum_of_gamma(3, point(), 2, g),
        *(lambda g, p=p: p(3, point(), SIGMA, g)[0] for p in LAWS),
    ):
        state = torch.get_rng_state()
        first = draw(torch.Generator().manual_seed(17))
        torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
        torch.manual_seed(123)
        torch.testing.assert_close(draw(torch.Generator().manual_seed(17)), first, rtol=0, atol=0)
