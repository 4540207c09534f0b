from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint

import ndgrad
from ndgrad import ImplicitMLE
from ndgrad.testing import assert_mean, estimate

ROWS = 20_000
SIGMA, LAMBDA = 0.6, 0.7
SENSES = ["min", "max"]


def choose(sense: str) -> Any:
    pick = torch.argmin if sense == "min" else torch.argmax
    return lambda theta: one_hot(pick(theta, 1), theta.shape[1]).to(theta.dtype)


def repeat(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).expand(ROWS, -1)


def marginal(theta: Tensor, sense: str) -> Tensor:
    """The exact mean of a categorical choice under Gumbel noise."""
    return ((theta if sense == "max" else -theta) / SIGMA).softmax(-1)


def exact(theta: Tensor, v: Tensor, lambd: float, sense: str) -> Tensor:
    if sense == "max":
        return (marginal(theta, sense) - marginal(theta - lambd * v, sense)) / lambd
    return (marginal(theta + lambd * v, sense) - marginal(theta, sense)) / lambd


@pytest.mark.parametrize("S", [1, 4])
@pytest.mark.parametrize("sense", SENSES)
def test_difference_of_categorical_marginals(sense: str, S: int) -> None:
    torch.manual_seed(0)
    theta, v = repeat(0.5, 0.1, -0.7, 0.3).clone().requires_grad_(), repeat(1.3, -0.4, 0.2, 0.9)
    y = ImplicitMLE(sense, LAMBDA, S, SIGMA)(choose(sense), theta)
    torch.testing.assert_close(y * S, (y * S).round(), msg="the value is a mean of S solutions")
    (grad,) = torch.autograd.grad(y, theta, v)
    p = marginal(theta[0].detach(), sense)
    assert_mean(y.detach(), p, "value")
    assert_mean((y.detach() - p) ** 2, p * (1 - p) / S, "variance of the value")
    assert_mean(grad, exact(theta[0].detach(), v[0], LAMBDA, sense), "gradient")


@pytest.mark.parametrize("S", [1, 4])
def test_variance_of_shared_noise(S: int) -> None:
    """With one noise for both terms a choice of two changes in one direction only, with probability |p - p'|."""
    torch.manual_seed(1)
    theta, v = repeat(0.5, 0.1), repeat(1.3, -0.4)
    grad = estimate(ImplicitMLE("max", LAMBDA, S, SIGMA), choose("max"), theta, v)
    mean = exact(theta[0], v[0], LAMBDA, "max")
    p = mean.abs() * LAMBDA
    assert_mean(grad, mean, "gradient")
    assert_mean((grad - mean) ** 2, p * (1 - p) / (LAMBDA**2 * S), "variance")


def test_a_tiny_step_changes_nothing() -> None:
    torch.manual_seed(2)
    grad = estimate(ImplicitMLE("max", 1e-12, 3), choose("max"), repeat(0.5, 0.1), repeat(1.3, -0.4))
    assert (grad == 0).all()


def test_the_wrong_sense_is_another_gradient() -> None:
    """A wrong sense moves to higher losses: equal only where the marginal is linear."""
    torch.manual_seed(3)
    theta, v = repeat(1.5, 0.1, -0.4), repeat(2.3, -0.4, 0.6)
    grad = estimate(ImplicitMLE("min", 2.0, 4, SIGMA), choose("max"), theta, v)
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_mean(grad, exact(theta[0], v[0], 2.0, "max"), "gradient")


@pytest.mark.parametrize("sense", SENSES)
@pytest.mark.parametrize("kappa", [None, 3])
def test_the_noise_that_the_function_sees(sense: str, kappa: int | None) -> None:
    """Centred, of the right width, on the sense's side, and the same in both terms."""
    torch.manual_seed(4)
    seen: list[Tensor] = []

    def f(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return z

    B, S = 3, 20_000
    theta = torch.randn(B, 2, dtype=torch.float64, requires_grad=True)
    v = torch.randn(B, 2, dtype=torch.float64)
    y = ImplicitMLE(sense, LAMBDA, S, SIGMA, kappa)(f, theta)
    torch.autograd.grad(y, theta, v)
    noise, shifted = (z.reshape(S, B, 2) - theta.detach() for z in seen)
    sign = 1 if sense == "max" else -1
    torch.testing.assert_close(shifted - noise, (-sign * LAMBDA * v).expand(S, B, 2))
    variance = math.pi**2 / 6 if kappa is None else sum(1 / i**2 for i in range(1, 11)) / kappa
    assert_mean(noise, 0.0, "mean")
    assert_mean(noise**2, SIGMA**2 * variance, "variance")
    assert (sign * noise**3).mean() > 0.5 * SIGMA**3, "the long tail is upwards for a score"


@pytest.mark.parametrize("kappa", [None, 3])
def test_a_generator_isolates_the_noise(kappa: int | None) -> None:
    def one() -> Tensor:
        generator = torch.Generator().manual_seed(17)
        return ImplicitMLE("max", LAMBDA, 3, SIGMA, kappa, generator)(lambda z: z, torch.zeros(2, 4))

    state = torch.get_rng_state()
    first = one()
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.manual_seed(123)
    torch.testing.assert_close(one(), first, rtol=0, atol=0)


def test_cost_and_evaluations_in_eval_mode() -> None:
    box = ndgrad.wrap(choose("max"), estimator=ImplicitMLE("max", num_samples=4)).eval()
    theta = torch.zeros(3, 5, requires_grad=True)
    with torch.no_grad():
        box(theta)
    assert box.num_evaluations == 12
    y = box(theta)
    for passes in (1, 2):
        torch.autograd.grad(y[:, 0].sum(), theta, retain_graph=True)
        assert box.num_evaluations == 12 * (2 + passes)


def test_several_inputs_of_any_shape() -> None:
    torch.manual_seed(5)
    a = torch.full((ROWS,), 0.5, dtype=torch.float64, requires_grad=True)
    b = torch.full((ROWS, 1, 2), -0.3, dtype=torch.float64, requires_grad=True)
    box = ndgrad.wrap(
        lambda a, b: {"a": 3 * a, "b": one_hot(b.argmax(-1), 2)},
        estimator=ImplicitMLE("max", LAMBDA, 2, SIGMA),
    )
    y = box(a, b)
    (y["a"] * 0.8 + y["b"][:, 0, 0] * 1.1).sum().backward()
    torch.testing.assert_close(a.grad, torch.full_like(a, 2.4))
    theta, v = torch.tensor([-0.3, -0.3]), torch.tensor([1.1, 0.0])
    assert_mean(b.grad[:, 0], exact(theta, v, LAMBDA, "max"), "gradient")


def test_rows_are_independent() -> None:
    def one(theta: Tensor) -> Tensor:
        torch.manual_seed(6)
        return estimate(ImplicitMLE("max", "adaptive", 3, SIGMA), choose("max"), theta, repeat(1.3, -0.4)[:3])

    theta = repeat(0.2, 0.1)[:3].clone()
    first = one(theta)[0]
    theta[1:] += 0.7 * torch.tensor([1.0, -2.0])
    torch.testing.assert_close(one(theta)[0], first)


def test_adaptive_step_is_relative_to_the_row() -> None:
    torch.manual_seed(7)
    theta, v = repeat(0.5, 0.1, -0.7), repeat(0.013, -0.004, 0.002)
    grad = estimate(ImplicitMLE("max", "adaptive", 4, SIGMA), choose("max"), theta, v)
    lambd = (theta[0].norm() / v[0].norm()).item()
    assert_mean(grad / 0.01, exact(theta[0], v[0], lambd, "max") / 0.01, "gradient")


def test_adaptive_step_follows_all_inputs_together() -> None:
    seen: list[Tensor] = []

    def f(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(b.clone())
        return a, b

    a, b = torch.tensor([0.3]).requires_grad_(), torch.tensor([[0.0, 0.4]]).requires_grad_()
    y = ImplicitMLE("max", "adaptive")(f, a, b)
    torch.autograd.grad(y, (a, b), (torch.tensor([1.2]), torch.tensor([[0.0, -0.5]])))
    torch.testing.assert_close(seen[1] - seen[0], torch.tensor([[0.0, 0.5 * 0.5 / 1.3]]))


def test_adaptive_gradient_scales_with_the_cotangent() -> None:
    def one(scale: float) -> Tensor:
        torch.manual_seed(8)
        v = scale * repeat(1.3, -0.4)[:50]
        return estimate(ImplicitMLE("max", "adaptive", 3, SIGMA), choose("max"), repeat(0.5, 0.1)[:50], v)

    assert (one(1.0) != 0).any()
    torch.testing.assert_close(one(1024.0), 1024 * one(1.0))


def test_rows_without_cotangent_have_no_gradient() -> None:
    torch.manual_seed(9)
    v = torch.tensor([[1.3, -0.4], [0.0, 0.0]], dtype=torch.float64).repeat(50, 1)
    grad = estimate(ImplicitMLE("max", "adaptive", 3, SIGMA), choose("max"), repeat(0.5, 0.1)[:100], v)
    assert grad.isfinite().all()
    assert (grad[1::2] == 0).all()
    assert (grad[::2] != 0).any()


def step(estimator: ImplicitMLE, rows: int = 200) -> None:
    estimate(estimator, choose("max"), repeat(0.5, 0.1)[:rows], repeat(1.3, -0.4)[:rows])


def test_alpha_adapts_to_one_change_per_draw() -> None:
    torch.manual_seed(10)
    estimator = ImplicitMLE("max", "adaptive", 3, SIGMA)
    estimator.alpha = 0.0  # nothing changes
    step(estimator)
    assert estimator.alpha == pytest.approx(0.001)
    assert estimator.changes == pytest.approx(0.9)
    estimate(estimator, lambda z: z.sin(), repeat(0.5, 0.1)[:9], repeat(1.3, -0.4)[:9])  # both entries change
    assert estimator.changes == pytest.approx(0.9 * 0.9 + 0.1 * 2)
    assert estimator.alpha == pytest.approx(0.0)
    estimate(estimator, lambda z: z.sin(), repeat(0.5, 0.1)[:9], repeat(1.3, -0.4)[:9])  # a step of 0
    assert estimator.changes == pytest.approx(0.9 * 1.01)
    assert estimator.alpha == pytest.approx(0.001)


def test_alpha_never_falls_below_zero() -> None:
    estimator = ImplicitMLE("max", "adaptive", 3, SIGMA)
    estimator.alpha, estimator.changes = 0.0004, 2.0
    step(estimator)
    assert estimator.alpha == 0.0
    estimator.changes = 2.0
    grad = estimate(estimator, choose("max"), repeat(0.5, 0.1)[:9], repeat(1.3, -0.4)[:9])
    assert (grad == 0).all()


def test_alpha_rests_in_eval_mode_and_for_a_given_step() -> None:
    adaptive, given = ImplicitMLE("max", "adaptive").eval(), ImplicitMLE("max", 2.0)
    for estimator in (adaptive, given):
        step(estimator)
        assert (estimator.alpha, estimator.changes) == (1.0, 1.0)


def test_what_was_learned_is_saved() -> None:
    torch.manual_seed(11)
    first = ImplicitMLE("max", "adaptive")
    for _ in range(3):
        step(first)
    assert first.alpha != 1.0
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = ImplicitMLE("max", "adaptive")
    second.load_state_dict(torch.load(buffer, weights_only=True))
    copied = copy.deepcopy(first)
    for other in (second, copied):
        assert (other.alpha, other.changes) == (first.alpha, first.changes)
    step(copied)
    assert copied.changes != first.changes


def test_activation_checkpointing_pairs_both_terms() -> None:
    """A generator is not rewound by the second forward pass; both terms must share their noise all the same."""
    estimator = ImplicitMLE("max", 1e-12, 3, generator=torch.Generator().manual_seed(0))
    box = ndgrad.wrap(choose("max"), estimator=estimator)
    theta = repeat(0.5, 0.1)[:50].clone().requires_grad_()
    y = checkpoint(lambda z: box(z * 1.0), theta, use_reentrant=False)
    (y * repeat(1.3, -0.4)[:50]).sum().backward()
    assert (theta.grad == 0).all()


def test_empty_batch() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    for lambd in (2.0, "adaptive"):
        y = ImplicitMLE("max", lambd)(choose("max"), x)
        torch.autograd.grad(y.sum(), x)


def test_an_empty_batch_teaches_nothing() -> None:
    estimator, x = ImplicitMLE("max", "adaptive"), torch.zeros(0, 3, requires_grad=True)
    estimator(choose("max"), x).sum().backward()
    assert estimator.get_extra_state() == {"alpha": 1.0, "changes": 1.0}


@pytest.mark.parametrize("kappa", [None, 3])
def test_half_precision_is_lifted(kappa: int | None) -> None:
    """Noise is float32, f sees rows in the dtype of its input, and the gradient has that dtype too."""
    estimator = ImplicitMLE("max", 0.2, 2, kappa=kappa)
    theta, v = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16), torch.full((1, 2), 0.5)
    assert estimator._noise(theta).dtype == torch.float32
    grad = estimate(estimator, lambda t: t.argsort(1), theta, v)
    assert grad.dtype == torch.bfloat16


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[\(2,\)\].*shapes \[\(\)\].*indicator"):
        ImplicitMLE("max")(lambda z: z.argmax(1), torch.zeros(3, 2))


def test_forward_probes_are_refused() -> None:
    box = ndgrad.wrap(choose("max"), estimator=ImplicitMLE("max"), evaluate_in="forward")
    with pytest.raises(ValueError, match="type evaluate_in='backward'"):
        box(torch.zeros(3, 2, requires_grad=True))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"sense": "maximum"}, "sense must be one of"),
        ({"sense": "max", "lambd": -1.0}, "lambd must be"),
        ({"sense": "max", "lambd": "auto"}, "lambd must be"),
        ({"sense": "max", "num_samples": 0}, "num_samples must be"),
        ({"sense": "max", "sigma": 0.0}, "sigma must be"),
        ({"sense": "max", "kappa": 0}, "kappa must be"),
    ],
)
def test_bad_arguments(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImplicitMLE(**bad)


def test_repr() -> None:
    assert "sense='min', lambd='adaptive', num_samples=1, sigma=1.0, kappa=3" in repr(
        ImplicitMLE("min", "adaptive", kappa=3)
    )
