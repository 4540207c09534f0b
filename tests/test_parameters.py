"""Trained parameters of a wrapped function: their gradients in every estimator, how they arrive, what is refused."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from registry import SAMPLING, VARIANTS
from torch import Tensor, nn
from torch.distributions import Normal
from torch.testing import assert_close

import ndgrad
from ndgrad.binding import _check_devices
from ndgrad.parameters import parameter_arguments
from ndgrad.testing import assert_mean

B, n, S, SIGMA = 3, 4, 5, 0.3


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def exact() -> ndgrad.FiniteDifference:
    """Central differences: exact on quadratics, two probes for each number."""
    return ndgrad.FiniteDifference(eps=0.25)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaf(*shape: int) -> Tensor:
    return randn(*shape).requires_grad_()


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def scaled_square(x: Tensor, p: Tensor) -> Tensor:
    """``p x^2`` row by row, whatever the shape of the row."""
    return p.reshape(-1, *[1] * (x.ndim - 1)) * x**2


def squares(**options: Any) -> ndgrad.BlackBox:
    return ndgrad.wrap(scaled_square, **{"estimator": exact(), "parameters": {"p": double(0.7)}} | options)


@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_rows_are_summed(evaluate_in: str, chunk_size: int | None) -> None:
    """d(p x^2) = 2 p x v for each row, and for p the sum of x^2 v over them."""
    box = squares(evaluate_in=evaluate_in, chunk_size=chunk_size)
    x, v = leaf(B, n), randn(B, n, seed=1)
    y = box(x)
    assert_close(y.detach(), 0.7 * x.detach() ** 2)
    y.backward(v)
    assert_close(x.grad, 2 * 0.7 * x.detach() * v)
    assert_close(box.p.grad, (x.detach() ** 2 * v).sum())
    assert box.num_evaluations == B * (1 + 2 * (n + 1))


def test_several_parameters_with_shapes_of_their_own() -> None:
    def fn(x: Tensor, *, gain: Tensor, mix: Tensor) -> Tensor:
        assert gain.shape == (len(x),)
        assert mix.shape == (len(x), n, 2)
        return gain[:, None] * torch.einsum("rn,rnm->rm", x, mix)

    gain, mix = double(1.3), randn(n, 2, seed=3)
    box = ndgrad.wrap(fn, estimator=exact(), parameters={"gain": gain, "mix": mix})
    x, v = leaf(B, n), randn(B, 2, seed=1)
    box(x).backward(v)
    assert_close(x.grad, 1.3 * v @ mix.T)
    assert_close(box.mix.grad, 1.3 * x.detach().T @ v)
    assert_close(box.gain.grad, ((x.detach() @ mix) * v).sum())
    assert [name for name, _ in box.named_parameters()] == ["gain", "mix"]


def replicates(make: Callable[[], ndgrad.Estimator], calls: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, summed over the rows, and of p in independent calls, with x and v."""
    x, v = leaf(B, n), randn(B, n, seed=1)
    box = squares(estimator=make())
    grads = [torch.autograd.grad(box(x), (x, box.p), v) for _ in range(calls)]
    return torch.stack([g.sum(0) for g, _ in grads]), torch.stack([g for _, g in grads]), x.detach(), v


@pytest.mark.parametrize("name", [name for name in SAMPLING if "adaptive" not in name])
def test_sampling_estimators(name: str) -> None:
    """The smoothing of x and p together: E (p + s e) (x + s e')^2 has the p-derivative x^2 + s^2 E e^2 e'^2."""
    # an adaptive width, which is another in every call, has no closed form
    variant, sigma = SAMPLING[name], 0.8  # wide, so that its square is seen
    dx, dp, x, v = replicates(lambda: variant.make(num_samples=S, sigma=sigma), 400)
    mixed = 1.0 if "rademacher" in name else variant.fourth_moment(n + 1) / 3  # E e_i^2 e_j^2, both norms
    assert_mean(dx, (2 * 0.7 * x * v).sum(0), "inputs")
    assert_mean(dp[:, None], ((x**2 + sigma**2 * mixed) * v).sum(), "parameter")


def test_each_row_draws_its_own_noise_for_the_parameter() -> None:
    """B independent estimates add variances (|g|^2 + g_p^2) / S each; common noise would add deviations."""
    slope = randn(n, seed=2)

    def affine(x: Tensor, p: Tensor) -> Tensor:
        return x @ slope + 1.7 * p

    estimator = ndgrad.EvolutionStrategy(S, SIGMA, directions="gaussian")
    box = ndgrad.wrap(affine, estimator=estimator, parameters={"p": double(0.2)})
    x, v = leaf(B, n), torch.tensor([0.5, -1.2, 2.0], dtype=torch.float64)
    grads = torch.stack([torch.autograd.grad(box(x), box.p, v)[0] for _ in range(1000)])
    assert_mean(grads[:, None], 1.7 * v.sum(), "mean")
    squared = (grads - 1.7 * v.sum()) ** 2
    variance = (v**2).sum() * (slope.square().sum() + 2 * 1.7**2) / S
    assert_mean(squared[:, None], variance, "variance")


class Exact(nn.Module):
    """The function itself as surrogate, with a weight for the fit to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        return self.one * scaled_square(x, p)


@pytest.mark.parametrize("forward", ["straight_through", "bypass"])
def test_diff_bypass_hands_both_to_its_network(forward: str) -> None:
    estimator = ndgrad.DiffBypass(Exact(), num_samples=S, sigma=(SIGMA, 0.1), forward=forward)
    box = squares(estimator=estimator)
    x, v = leaf(B, n), randn(B, n, seed=1)
    box(x).backward(v)
    assert_close(x.grad, 2 * 0.7 * x.detach() * v)
    assert_close(box.p.grad, (x.detach() ** 2 * v).sum())
    assert [name for name, _ in box.named_parameters()] == ["p"]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_frozen_parameter_is_not_probed(name: str) -> None:
    seen = []

    def fn(x: Tensor, p: Tensor) -> Tensor:
        seen.append(p)
        return scaled_square(x, p)

    variant = VARIANTS[name]
    box = ndgrad.wrap(
        fn, estimator=variant.make(num_samples=S, sigma=SIGMA), parameters={"p": double(0.7)}
    ).requires_grad_(False)
    x = leaf(B, n)
    box(x).sum().backward()
    assert x.grad.abs().max() > 0
    assert box.p.grad is None
    assert all((p == 0.7).all() for p in seen)
    assert box.num_evaluations == sum(map(len, seen)) == B * (variant.per_value(S) + variant.probes(n, S))


def takes_a_parameter_alone(name: str) -> bool:
    """Not where a network takes all inputs in every call, nor where each input needs an output of its shape."""
    estimator = VARIANTS[name].make(num_samples=S, sigma=SIGMA)
    return not estimator.wants_constant_inputs and not estimator.paired


@pytest.mark.parametrize("name", [name for name in VARIANTS if takes_a_parameter_alone(name)])
def test_only_the_parameter_is_probed_where_the_input_needs_no_gradient(name: str) -> None:
    seen = []

    def fn(x: Tensor, p: Tensor) -> Tensor:
        seen.append(x)
        return scaled_square(x, p)

    variant = VARIANTS[name]
    box = ndgrad.wrap(fn, estimator=variant.make(num_samples=S, sigma=SIGMA), parameters={"p": double(0.7)})
    x = randn(B, n)
    box(x).square().sum().backward()
    assert box.p.grad.abs() > 0
    assert all(torch.equal(rows, x.repeat(len(rows) // B, 1)) for rows in seen)
    assert box.num_evaluations == B * (variant.per_value(S) + variant.probes(1, S))


def test_nothing_is_probed_without_a_gradient() -> None:
    box = squares()
    with torch.no_grad():
        assert_close(box(leaf(B, n)), 0.7 * randn(B, n) ** 2)
    box.requires_grad_(False)
    assert not box(randn(B, n)).requires_grad
    assert box.num_evaluations == 2 * B


def test_a_network_of_the_same_inputs_in_every_call() -> None:
    """Also where x needs no gradient, DiffBypass explores it: its network takes both."""
    box = squares(estimator=ndgrad.DiffBypass(Exact(), num_samples=S, sigma=SIGMA))
    x = randn(B, n)
    box(x).sum().backward()
    assert_close(box.p.grad, (x**2).sum())
    box(x.requires_grad_()).sum().backward()
    assert_close(x.grad, 1.4 * x.detach())


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("interface", ["torch", "numpy", "python"])
def test_functions_of_one_point(vectorize: bool, frozen: bool, interface: str) -> None:
    def fn(x: Any, *, p: Any, offset: Any) -> Any:
        if interface == "python":
            assert isinstance(p, float)
            return [p * value**2 + b for value, b in zip(x, offset, strict=True)]
        assert p.shape == ()
        assert offset.shape == (n,)
        return p * x**2 + offset

    offset = randn(n, seed=4)
    box = ndgrad.wrap(
        fn, batched=False, vectorize=vectorize, interface=interface, estimator=exact(),
        parameters={"p": double(0.7), "offset": offset},
    )  # fmt: skip
    box.offset.requires_grad_(not frozen)
    shape = (B, n) if vectorize else (n,)
    x, v = leaf(*shape), randn(*shape, seed=1)
    y = box(x)
    assert_close(y.detach(), 0.7 * x.detach() ** 2 + offset)
    y.backward(v)
    assert_close(x.grad, 1.4 * x.detach() * v)
    assert_close(box.p.grad, (x.detach() ** 2 * v).sum())
    if not frozen:
        assert_close(box.offset.grad, v.reshape(-1, n).sum(0))
    assert box.num_evaluations == (B if vectorize else 1) * (1 + 2 * (n + 1 + (0 if frozen else n)))


def test_a_frozen_parameter_keeps_its_rows() -> None:
    shapes = []

    def fn(x: Tensor, p: Tensor) -> Tensor:
        shapes.append((len(x), p.shape))
        return p[:, 0, None] * x

    box = ndgrad.wrap(fn, estimator=exact(), parameters={"p": torch.ones(2)})
    box.p.requires_grad_(False)
    box(leaf(B, n)).sum().backward()
    assert all(shape == (rows, 2) for rows, shape in shapes)


def test_rows_of_companions_stay_with_their_row() -> None:
    def fn(x: Tensor, target: Tensor, table: Tensor, p: Tensor) -> Tensor:
        assert table.shape == (7,)
        return (x - target).square().sum(1) * p + table.sum()

    box = ndgrad.wrap(
        fn, estimator=exact(), in_dims={"target": 0}, argnums="x", parameters={"p": double(0.7)}
    )
    x, target, v = leaf(B, n), randn(B, n, seed=1), randn(B, seed=2)
    box(x, target, table=randn(7)).backward(v)
    distance = x.detach() - target
    assert_close(x.grad, 1.4 * distance * v[:, None])
    assert_close(box.p.grad, (distance.square().sum(1) * v).sum())


def test_argnums_rules_the_arguments_alone() -> None:
    def fn(x: Tensor, z: Tensor, p: Tensor) -> Tensor:
        return scaled_square(x, p) + z

    box = ndgrad.wrap(fn, estimator=exact(), argnums="z", parameters={"p": double(0.7)}, in_dims={"x": 0})
    x, z = leaf(B, n), leaf(B, n)
    box(x, z).sum().backward()
    assert x.grad is None
    assert_close(z.grad, torch.ones(B, n).double())
    assert_close(box.p.grad, x.detach().square().sum())


def test_a_function_of_its_parameters_alone() -> None:
    box = ndgrad.wrap(lambda p: p**2, estimator=exact(), parameters={"p": randn(n)})
    y = box()
    assert y.shape == (1, n)
    y.backward(v := randn(1, n, seed=1))
    assert_close(box.p.grad, 2 * randn(n) * v[0])


def test_integer_inputs_have_rows_and_leave_the_dtype_to_the_parameter() -> None:
    x = torch.tensor([[1, 2], [3, 4], [5, 6]])
    box = squares()
    y = box(x)
    assert y.dtype == torch.float64
    y.sum().backward()
    assert_close(box.p.grad, (x**2).sum().double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_of_numpy_beside_integers_take_the_dtype_of_the_parameter(dtype: torch.dtype) -> None:
    def fn(x: Any, p: Any) -> Any:
        return np.square(x).sum(1) * p

    box = ndgrad.wrap(fn, estimator=exact(), parameters={"p": torch.tensor(0.5, dtype=dtype)})
    assert box(torch.tensor([[1, 2], [3, 4]])).dtype == dtype


def test_an_empty_batch() -> None:
    box = squares()
    x = torch.zeros(0, n, dtype=torch.float64, requires_grad=True)
    box(x).sum().backward()
    assert box.p.grad == 0


@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize(
    ("of_input", "of_parameter"),
    [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.float32, torch.float16)],
)
def test_parameters_take_the_dtype_of_the_input(
    of_input: torch.dtype, of_parameter: torch.dtype, needs_grad: bool
) -> None:
    """A float64 step in a float32 parameter, or the reverse, would be lost to rounding."""

    def fn(x: Tensor, p: Tensor) -> Tensor:
        assert p.dtype == x.dtype == of_input
        return scaled_square(x, p)

    box = ndgrad.wrap(
        fn, estimator=ndgrad.FiniteDifference(), parameters={"p": torch.tensor(0.75, dtype=of_parameter)}
    )
    x = randn(B, n).to(of_input).requires_grad_(needs_grad)
    y = box(x)
    assert y.dtype == of_input
    y.sum().backward()
    assert box.p.grad.dtype == of_parameter
    expected = x.detach().square().sum().to(of_parameter)
    assert_close(box.p.grad, expected, rtol=1e-3 if of_parameter == torch.float16 else 2e-5, atol=0)


def test_half_precision_reaches_the_function_as_float32() -> None:
    def fn(x: Tensor, p: Tensor) -> Tensor:
        assert p.dtype == x.dtype == torch.float32
        return scaled_square(x, p)

    box = ndgrad.wrap(fn, estimator=exact(), parameters={"p": 0.7}).bfloat16()
    x = randn(B, n).bfloat16().requires_grad_()
    box(x).sum().backward()
    assert x.grad.dtype == box.p.grad.dtype == torch.bfloat16
    assert_close(box.p.grad, x.detach().square().sum(), rtol=0.02, atol=0)


def test_a_half_precision_parameter_beside_integers_is_float32() -> None:
    def fn(x: Tensor, p: Tensor) -> Tensor:
        assert p.dtype == torch.float32
        return scaled_square(x, p)

    box = ndgrad.wrap(fn, estimator=exact(), parameters={"p": torch.tensor(0.75, dtype=torch.float16)})
    box(torch.tensor([[1, 2], [3, 4]])).sum().backward()
    assert box.p.grad == 30
    assert box.p.grad.dtype == torch.float16


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_the_function_may_change_its_copies(batched: bool, frozen: bool) -> None:
    def fn(x: Tensor, p: Tensor) -> Tensor:
        return x * p.mul_(2).sum()

    box = ndgrad.wrap(fn, batched=batched, estimator=exact(), parameters={"p": randn(2)})
    box.p.requires_grad_(not frozen)
    box(leaf(1, n)).sum().backward()
    assert_close(box.p.detach(), randn(2))


def test_results_of_numpy_take_the_dtype_of_an_input_without_gradient() -> None:
    def fn(x: Any, p: Any) -> Any:
        return np.square(x) * p[:, None]

    box = ndgrad.wrap(fn, estimator=exact(), parameters={"p": 0.5})
    assert box(randn(B, n)).dtype == torch.float64
    assert box(randn(B, n).float()).dtype == torch.float32


def test_an_optimiser_trains_parameter_and_network_together() -> None:
    truth = nn.Linear(3, n).double()
    network = copy.deepcopy(truth)
    nn.init.zeros_(network.bias)
    box = squares(parameters={"p": double(0.2)})
    optimiser = torch.optim.Adam([*network.parameters(), *box.parameters()], lr=0.02)
    generator = torch.Generator().manual_seed(3)
    for _ in range(600):
        x = torch.randn(16, 3, dtype=torch.float64, generator=generator)
        error = (network(x) - truth(x)).square().mean() + (
            box(network(x)) - 0.9 * truth(x) ** 2
        ).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert_close(box.p.detach(), double(0.9), rtol=0, atol=1e-3)
    assert_close(network.bias, truth.bias, rtol=0, atol=1e-3)


def test_values_become_parameters() -> None:
    tensor, shared = torch.tensor([0.1, 0.2]), nn.Parameter(torch.tensor(3.0), requires_grad=False)
    values = {"a": 0.3, "b": tensor, "c": shared, "d": np.array([1.5]), "e": np.float32(2.5), "f": [0.5, 1.0]}
    box = ndgrad.wrap(lambda x, **named: x, parameters=values)
    assert all(isinstance(p, nn.Parameter) for p in box.parameters())
    assert [p.dtype for p in box.parameters()] == [torch.float32] * 3 + [torch.float64] + [torch.float32] * 2
    assert_close(box.a.detach(), torch.tensor(0.3))
    assert box.c is shared
    assert [p.requires_grad for p in box.parameters()] == [True, True, False, True, True, True]
    with torch.no_grad():
        box.b.zero_()
    assert_close(tensor, torch.tensor([0.1, 0.2]))


def test_without_parameters_there_are_none() -> None:
    for parameters in (None, {}):
        box = ndgrad.wrap(torch.square, parameters=parameters)
        assert list(box.parameters()) == []
        assert "parameters" not in repr(box)


def test_the_repr_names_them() -> None:
    assert "batched=True, parameters=('p',)\n" in repr(squares())


def test_a_decorator_makes_parameters_for_each_function() -> None:
    decorate = ndgrad.wrap(estimator="finite_difference", parameters={"p": 0.7})
    first, second = decorate(scaled_square), decorate(scaled_square)
    assert first.p is not second.p


def test_state_dict_and_conversion() -> None:
    box, other = squares(), squares(parameters={"p": double(-2.0)})
    assert "p" in box.state_dict()
    other.load_state_dict(box.state_dict())
    assert_close(other.p, box.p)
    assert box.float().p.dtype == torch.float32


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda box: pickle.loads(pickle.dumps(box))])
def test_copies_have_parameters_of_their_own(clone: Callable[[Any], Any]) -> None:
    box = squares()
    other = clone(box)
    with torch.no_grad():
        other.p.fill_(2.0)
    x = randn(B, n)
    assert_close(box(x).detach(), 0.7 * x**2)
    assert_close(other(x).detach(), 2.0 * x**2)


def test_constrained_parameters() -> None:
    """`torch.nn.utils.parametrize` keeps a width positive; the gradient goes through it."""
    box = squares(parameters={"p": double(0.7)})
    nn.utils.parametrize.register_parametrization(box, "p", nn.Softplus(), unsafe=True)
    with torch.no_grad():
        box.parametrizations.p.original.fill_(0.4)
    x = randn(B, n)
    box(x).sum().backward()
    expected = x.square().sum() * torch.sigmoid(double(0.4))
    assert_close(box.parametrizations.p.original.grad, expected)


def test_functional_call() -> None:
    x, p = randn(B, n), double(1.9).requires_grad_()
    y = torch.func.functional_call(squares(), {"p": p}, (x,))
    assert_close(y.detach(), 1.9 * x**2)
    y.sum().backward()
    assert_close(p.grad, x.square().sum())


def test_second_derivatives_are_refused() -> None:
    box = squares()
    (grad,) = torch.autograd.grad(box(leaf(B, n)).sin().sum(), box.p, create_graph=True)
    with pytest.raises(ndgrad.SecondDerivativeError):
        grad.backward()


def family(theta: Tensor) -> Normal:
    return Normal(theta, 0.3)


def test_a_family_takes_frozen_parameters() -> None:
    """E p z^2 = p (theta^2 + 0.09) has the derivative 2 p theta."""
    box = squares(estimator=ndgrad.ScoreFunction(family, num_samples=40)).requires_grad_(False)
    theta = torch.full((5000, 2), 0.4, dtype=torch.float64, requires_grad=True)
    box(theta).sum().backward()
    assert_mean(theta.grad, 2 * 0.7 * 0.4, "theta")


@pytest.mark.parametrize(
    ("law", "error", "message"),
    [
        (
            lambda *theta: family(theta[0]),
            ValueError,
            r"parameter 'p' is trained, but.*requires_grad_\(False\)",
        ),
        (family, TypeError, r"freeze those of ndgrad.wrap\(fn, parameters=...\)"),
    ],
)
def test_a_family_refuses_trained_parameters(law: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        squares(estimator=ndgrad.ScoreFunction(law))(leaf(B, n))


def positional_only(x: Tensor, p: Tensor, /) -> Tensor:
    return x * p


@pytest.mark.parametrize(
    ("fn", "parameters", "error", "message"),
    [
        (scaled_square, [("p", 0.7)], TypeError, r"dict of names and initial values.*got list"),
        (
            scaled_square,
            {"q": 0.7},
            ValueError,
            r"holds 'q', but the function takes no such keyword; .* x, p$",
        ),
        (positional_only, {"p": 0.7}, ValueError, r"takes no such keyword; it takes none"),
        (scaled_square, {"a.b": 0.7}, ValueError, r"named as keyword arguments .*'a.b'"),
        (scaled_square, {"class": 0.7}, ValueError, r"named as keyword arguments .*'class'"),
        (scaled_square, {3: 0.7}, ValueError, r"named as keyword arguments .*got 3"),
        (
            lambda x, type: x,
            {"type": 0.7},
            ValueError,
            r"'type', which the module has .*\*, my_type: fn\(x, type=my",
        ),
        (lambda x, estimator: x, {"estimator": 0.7}, ValueError, r"may not hold 'estimator'"),
        (lambda x, training: x, {"training": 0.7}, ValueError, r"may not hold 'training'"),
        (lambda x, fn: x, {"fn": 0.7}, ValueError, r"may not hold 'fn'"),
        (lambda x, _rules: x, {"_rules": 0.7}, ValueError, r"may not hold '_rules'"),
        (
            lambda x, num_evaluations: x,
            {"num_evaluations": 0.7},
            ValueError,
            r"may not hold 'num_evaluations'",
        ),
        (
            scaled_square,
            {"p": 3},
            TypeError,
            r"parameters\['p'\].*must be floating, got torch.int64; type 3.0 for 3",
        ),
        (scaled_square, {"p": True}, TypeError, r"must be floating, got torch.bool"),
        (scaled_square, {"p": 1j}, TypeError, r"must be floating, got torch.complex64$"),
        (scaled_square, {"p": "0.7"}, TypeError, r"must be a number, array or tensor, got str"),
        (scaled_square, {"p": None}, TypeError, r"must be a number, array or tensor, got NoneType"),
        (
            scaled_square,
            {"p": torch.ones(2, requires_grad=True)},
            ValueError,
            r"nn.Parameter\(value\) to share",
        ),
    ],
)
def test_what_is_refused(fn: Any, parameters: Any, error: type[Exception], message: str) -> None:
    estimator = exact()
    with pytest.raises(error, match=message):
        ndgrad.wrap(fn, parameters=parameters, estimator=estimator)
    assert ndgrad.wrap(fn, estimator=estimator).estimator is estimator, "a refused wrap takes no estimator"


@pytest.mark.parametrize("options", [{"argnums": "p"}, {"argnums": ("x", "p")}, {"in_dims": {"p": 0}}])
def test_a_parameter_is_in_no_other_option(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options))} names 'p', which parameters has already"):
        squares(**options)


def test_a_name_within_a_name_is_another() -> None:
    box = ndgrad.wrap(
        lambda xp, p: scaled_square(xp, p), argnums="xp", parameters={"p": 0.5}, estimator=exact()
    )
    assert box(leaf(B, n).float()).shape == (B, n)


@pytest.mark.parametrize("call", [lambda box, x: box(x, 0.7), lambda box, x: box(x, p=torch.tensor(0.7))])
def test_a_call_may_not_pass_a_parameter(call: Callable[[Any, Tensor], Any]) -> None:
    with pytest.raises(ValueError, match=r"'p' is a parameter of this module.*module.p.copy_\(value\)"):
        call(squares(), leaf(B, n))


@pytest.mark.parametrize("fn", [math.hypot, nn.Identity()])
def test_functions_whose_keywords_are_not_known_take_any(fn: Any) -> None:
    assert ndgrad.wrap(fn, parameters={"p": 0.7}).p is not None


def test_keywords_of_a_partial() -> None:
    box = ndgrad.wrap(
        functools.partial(scaled_square, p=1.0), parameters={"p": double(0.7)}, estimator=exact()
    )
    assert_close(box(randn(B, n)).detach(), 0.7 * randn(B, n) ** 2)


def test_a_parameter_on_another_device_is_named() -> None:
    (argument,) = parameter_arguments({"p": nn.Parameter(torch.ones(2))}, B, None, "row")
    with pytest.raises(
        ValueError, match=r"parameter 'p' is on cpu, the first input on meta: move it with .to"
    ):
        _check_devices([argument], torch.device("meta"))
