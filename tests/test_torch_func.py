"""``torch.func``, forward mode, ``is_grads_batched``: equal to a twin that torch differentiates, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributions import Normal
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

import ndgrad
from ndgrad.errors import UnsupportedTransformError

# torch's own forward mode scripts its formulas when it is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

K, B, n, m, S = 4, 5, 3, 2, 7


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def smooth(x: Tensor) -> Tensor:
    return torch.stack([x.sin().sum(1), x.prod(1)], dim=1)  # (R, 2)


def in_numpy(x: Any) -> Any:
    return np.stack([np.sin(x).sum(1), np.prod(x, 1)], 1)


def boxed(fn: Callable[..., Any] = smooth, **options: Any) -> ndgrad.BlackBox:
    return ndgrad.wrap(fn, estimator="finite_difference", **options)


def close(found: Any, expected: Any) -> None:
    assert_close(found, expected, rtol=1e-6, atol=1e-8)


def loss(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: (f(x) ** 2).sum()


TRANSFORMS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], int]] = {
    # of a function, at an input of this shape; calls of B rows that one linearisation stands for
    "grad": (lambda f: grad(loss(f)), (B, n), 1),
    "vjp": (lambda f: lambda x: vjp(f, x)[1](draw(B, m, seed=3)), (B, n), 1),
    "jacrev": (jacrev, (B, n), 1),
    "jacrev-chunks": (lambda f: jacrev(f, chunk_size=3), (B, n), 4),
    "jvp": (lambda f: lambda x: jvp(f, (x,), (draw(B, n, seed=3),))[1], (B, n), 1),
    "jacfwd": (jacfwd, (B, n), 1),
    "vmap-grad": (lambda f: vmap(grad(loss(f))), (K, B, n), K),
    "vmap-grad-dim-1": (lambda f: vmap(grad(loss(f)), in_dims=1, out_dims=2), (B, K, n), K),
    "vmap-vmap-grad": (lambda f: vmap(vmap(grad(loss(f)))), (2, K, B, n), 2 * K),
    "vmap-jacrev": (lambda f: vmap(jacrev(f)), (K, B, n), K),
    "vmap-jacfwd": (lambda f: vmap(jacfwd(f)), (K, B, n), K),
    "grad-vmap": (lambda f: grad(loss(vmap(f))), (K, B, n), K),
    "jvp-vmap": (lambda f: lambda x: jvp(vmap(f), (x,), (draw(K, B, n, seed=3),))[1], (K, B, n), K),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("fn", [smooth, in_numpy], ids=["torch", "numpy"])
@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_transforms_equal_those_of_the_twin(name: str, fn: Callable[..., Any], evaluate_in: str) -> None:
    transform, shape, calls = TRANSFORMS[name]
    x, box = draw(*shape), boxed(fn, evaluate_in=evaluate_in)
    close(transform(box)(x), transform(smooth)(x))
    linearisations = calls if evaluate_in == "backward" or "chunks" not in name else 1
    values = x[..., 0].numel()
    assert box.num_evaluations == values + linearisations * B * 2 * n


def test_vmap_is_one_batch() -> None:
    sizes = []

    def fn(x: Tensor, target: Tensor) -> Tensor:
        sizes.append(len(x))
        return (x - target).square().sum(1)

    x, target = draw(K, B, n), draw(B, n, seed=1)
    box = ndgrad.wrap(fn, estimator="finite_difference", in_dims={1: 0})
    close(vmap(lambda x: box(x, target))(x), (x - target).square().sum(2))
    assert sizes == [K * B]
    assert box.num_evaluations == K * B


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_vmap_keeps_the_graph_of_what_it_maps(dim: int) -> None:
    x, twin = (draw(K, B, n).requires_grad_() for _ in range(2))
    y = vmap(boxed(), in_dims=dim, out_dims=1)(x.movedim(0, dim))
    assert y.requires_grad
    y.square().sum().backward()
    vmap(smooth, out_dims=1)(twin).square().sum().backward()
    close(x.grad, twin.grad)


@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_vmap_spends_nothing_on_gradients_that_nobody_needs(evaluate_in: str) -> None:
    box = boxed(evaluate_in=evaluate_in)
    vmap(box)(draw(K, B, n))
    with torch.no_grad():
        vmap(box)(draw(K, B, n).requires_grad_())
    grad(lambda x: box(x.detach()).sum() + x.sum())(draw(B, n))
    assert box.num_evaluations == 2 * K * B + B


def test_points_are_mapped_to_rows() -> None:
    def point(x: Tensor) -> Tensor:
        return smooth(x.unsqueeze(0))[0]

    box, x = boxed(point, batched=False), draw(B, n)
    close(vmap(jacrev(box))(x), vmap(jacrev(point))(x))
    assert box.num_evaluations == B * (1 + 2 * n)


def test_several_inputs_and_outputs_some_of_them_mapped() -> None:
    def pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a * b.sum(1, keepdim=True), a.sum(1) - b.prod(1)

    a, b = draw(K, B, n), draw(B, m, seed=1)
    box = boxed(pair, argnums=(0, 1))
    transform = lambda f: vmap(jacrev(f, argnums=(0, 1)), in_dims=(0, None))  # noqa: E731
    close(transform(box)(a, b), transform(pair)(a, b))
    transform = lambda f: vmap(jacfwd(f, argnums=(0, 1)), in_dims=(None, 0))  # noqa: E731
    a, b = draw(B, n), draw(K, B, m, seed=1)
    close(transform(box)(a, b), transform(pair)(a, b))


def test_a_mapped_target_is_refused_in_its_own_words() -> None:
    box = boxed(lambda x, t: x * t)
    with pytest.raises(UnsupportedTransformError, match=r"nothing else that it reads; name .*argnums="):
        vmap(grad(lambda x, t: box(x, t).sum()))(draw(K, B, n), draw(K, B, n))


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_what_is_derived_from_the_input_but_not_differentiated_is_a_constant(interface: str) -> None:
    x, box = draw(B, n), boxed(lambda x, t: x**2 * t, argnums=0, in_dims=(0, 0), interface=interface)
    close(grad(lambda x: box(x, x * 3).sum())(x), 6 * x**2)


def test_trained_parameters_of_an_ensemble() -> None:
    box = boxed(lambda x, scale: x**2 * scale[:, None], parameters={"scale": 1.5})
    x, scales = draw(B, n), draw(K)
    call = lambda scale: functional_call(box, {"scale": scale}, (x,)).sum()  # noqa: E731
    close(vmap(grad(call))(scales), (x**2).sum().expand(K))


@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_the_adjoint_of_forward_mode_is_reverse_mode(evaluate_in: str) -> None:
    """With one set of draws, <v, J t> = <vᵀJ, t> for the estimated J."""
    t, v = draw(B, n, seed=1), draw(B, m, seed=2)
    makers: list[Callable[[], ndgrad.Estimator]] = [
        lambda: ndgrad.EvolutionStrategy(S, 0.3),
        lambda: ndgrad.EvolutionStrategy(S, 0.3, antithetic=False),
        lambda: ndgrad.ScoreFunction(num_samples=S, sigma=0.3),
        lambda: ndgrad.PerturbedOptimizer(S, 0.3),
        lambda: ndgrad.LeastSquares(S, 0.3),
        lambda: ndgrad.DiffBypass(sigma=0.3, num_samples=S),
        lambda: ndgrad.ControlVariate(sigma=0.3, num_samples=S),
        lambda: ndgrad.Averaged(ndgrad.EvolutionStrategy(S, 0.3), repeats=2),
        lambda: ndgrad.ScoreFunction(lambda p: Normal(p, 0.3), num_samples=S),
    ]
    for make in makers:
        products = []
        for forward_mode in (True, False):
            torch.manual_seed(4)
            box = ndgrad.wrap(smooth, estimator=make(), evaluate_in=evaluate_in)
            x = draw(B, n)
            if forward_mode:
                with forward_ad.dual_level():
                    y = box(forward_ad.make_dual(x, t))
                    products.append((forward_ad.unpack_dual(y).tangent * v).sum(1))
            else:
                x.requires_grad_()
                products.append((torch.autograd.grad(box(x), x, v)[0] * t).sum(1))
        assert products[0].abs().min() > 1e-4
        assert_close(*products)


@pytest.mark.parametrize("mode", ["plain", "no_grad", "requires_grad"])
def test_dual_tensors(mode: str) -> None:
    x, t = draw(B, n).requires_grad_(mode == "requires_grad"), draw(B, n, seed=1)
    with forward_ad.dual_level(), torch.set_grad_enabled(mode != "no_grad"):
        primal, tangent = forward_ad.unpack_dual(boxed()(forward_ad.make_dual(x, t)))
    close(tangent, jvp(smooth, (x.detach(),), (t,))[1])
    close(primal, smooth(x))


def test_a_dual_tensor_beside_constants_of_any_dtype() -> None:
    x, t = draw(B, n), draw(B, n, seed=1)
    target = torch.arange(B * n).reshape(B, n)  # integers have no tangent
    one = ndgrad.FenchelYoungLoss(torch.tanh, "max", num_samples=400)
    torch.manual_seed(0)
    gradient = grad(lambda x: one(x, target).sum())(x)
    torch.manual_seed(0)
    tangent = jvp(lambda x: one(x, target), (x,), (t,))[1]
    assert_close(tangent, (gradient * t).sum(1))


def test_mapped_fenchel_young_losses() -> None:
    theta, target = draw(K, B, n), draw(K, B, n, seed=1)
    one = ndgrad.FenchelYoungLoss(torch.tanh, "max", num_samples=S, sigma=0.3)

    def seeded(f: Callable[[], Tensor]) -> Tensor:
        torch.manual_seed(2)
        return f()

    whole = seeded(lambda: one(theta.flatten(0, 1), target.flatten(0, 1)))
    assert_close(seeded(lambda: vmap(one)(theta, target)).flatten(), whole)
    whole = seeded(lambda: grad(lambda t: one(t, target.flatten(0, 1)).sum())(theta.flatten(0, 1)))
    mapped = seeded(lambda: vmap(grad(lambda a, b: one(a, b).sum()))(theta, target))
    assert_close(mapped.flatten(0, 1), whole)


@pytest.mark.parametrize("order", [hessian, lambda f: jacrev(jacrev(f)), lambda f: jacfwd(jacfwd(f))])
def test_second_derivatives_are_refused(order: Callable[..., Any]) -> None:
    with pytest.raises(ndgrad.SecondDerivativeError, match="second time"):
        order(loss(boxed()))(draw(B, n))


@pytest.mark.parametrize(
    "make",
    [lambda: ndgrad.BlackboxInterpolation("min", lambd=0.3), lambda: ndgrad.ImplicitMLE("min", lambd=0.3)],
)
def test_forward_mode_of_what_the_cotangent_steers_is_refused(make: Callable[[], Any]) -> None:
    box = ndgrad.wrap(torch.tanh, estimator=make())
    with pytest.raises(NotImplementedError, match=r"no forward mode; .*torch.func.jacrev"):
        jvp(box, (draw(B, n),), (draw(B, n),))


def test_a_family_under_transforms_is_refused() -> None:
    box = ndgrad.wrap(smooth, estimator=ndgrad.ScoreFunction(lambda p: Normal(p, 0.3), num_samples=S))
    with pytest.raises(NotImplementedError, match=r"ScoreFunction with a distribution.*backward"):
        grad(loss(box))(draw(B, n))


def test_every_mapped_row_has_noise_of_its_own_and_equal_noise_is_refused() -> None:
    box = ndgrad.wrap(torch.sin, estimator=ndgrad.EvolutionStrategy(1, 0.3))
    x = draw(1, B, n).expand(K, B, n)
    for randomness in ("error", "different"):
        gradients = vmap(grad(loss(box)), randomness=randomness)(x)
        assert (gradients[0] - gradients[1]).abs().max() > 1e-6
    with pytest.raises(NotImplementedError, match=r"noise of its own.*type randomness='different'"):
        vmap(box, randomness="same")(x)


def test_learning_estimators_fit_once_for_all_mapped_calls() -> None:
    x, v = draw(K, B, n), draw(K, B, m, seed=1)

    def gradients(call: Callable[[ndgrad.BlackBox], Tensor]) -> Tensor:
        torch.manual_seed(3)
        estimator = ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2)
        found = call(ndgrad.wrap(smooth, estimator=estimator))
        assert estimator.bypass.fit.steps == 2
        return found

    mapped = gradients(lambda box: vmap(grad(lambda x, v: (box(x) * v).sum()))(x, v))
    whole = gradients(lambda box: grad(lambda x: (box(x) * v.flatten(0, 1)).sum())(x.flatten(0, 1)))
    assert_close(mapped.flatten(0, 1), whole)


GRADS_BATCHED: dict[str, Callable[[], ndgrad.Estimator]] = {
    "fd": ndgrad.FiniteDifference,
    "es": lambda: ndgrad.EvolutionStrategy(S, 0.3),
    "bypass": lambda: ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2),
    "family": lambda: ndgrad.ScoreFunction(lambda p: Normal(p, 0.3), num_samples=S),
    "interpolation": lambda: ndgrad.BlackboxInterpolation("min", lambd=0.3),
}


@pytest.mark.parametrize("name", GRADS_BATCHED)
@pytest.mark.parametrize("create_graph", [False, True])
def test_many_cotangents_at_once(name: str, create_graph: bool) -> None:
    """One linearisation serves them all, as one backward pass each of a call probed in the forward pass does."""
    v = draw(K, B, n, seed=2)

    def call(evaluate_in: str) -> tuple[Tensor, Tensor, ndgrad.BlackBox]:
        torch.manual_seed(4)
        box = ndgrad.wrap(torch.tanh, estimator=GRADS_BATCHED[name](), evaluate_in=evaluate_in)
        x = draw(B, n).requires_grad_()
        return x, box(x * 1.5), box

    x, y, batched = call("backward")
    (found,) = torch.autograd.grad(y, x, v, is_grads_batched=True, create_graph=create_graph)
    x, y, one_by_one = call("forward" if one_by_one_is_linear(name) else "backward")
    expected = torch.stack([torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in v])
    assert_close(found.detach(), expected)
    assert batched.num_evaluations == one_by_one.num_evaluations
    if create_graph:
        with pytest.raises(ndgrad.SecondDerivativeError):
            found.sum().backward()


def one_by_one_is_linear(name: str) -> bool:
    return GRADS_BATCHED[name]().linear


def test_many_cotangents_of_one_of_two_outputs() -> None:
    box = boxed(lambda x: (x**2, x.sum(1)))
    x = draw(B, n).requires_grad_()
    v = draw(K, B, seed=1)
    (found,) = torch.autograd.grad(box(x)[1], x, v, is_grads_batched=True)
    close(found, v.unsqueeze(2).expand(K, B, n))
    assert torch._C._vmapmode_increment_nesting() == 1  # put back, also behind a failure
    torch._C._vmapmode_decrement_nesting()


def test_a_failure_among_many_cotangents_leaves_torch_as_it_was() -> None:
    def fails_later(x: Tensor) -> Tensor:
        if len(x) != B:
            raise ValueError("no probes, please")
        return x

    x = draw(B, n).requires_grad_()
    y = boxed(fails_later)(x)
    with pytest.raises(ndgrad.FunctionError, match="no probes, please"):
        torch.autograd.grad(y, x, draw(K, B, n), is_grads_batched=True)
    assert torch._C._vmapmode_increment_nesting() == 1
    torch._C._vmapmode_decrement_nesting()


def test_vectorised_jacobian() -> None:
    x, box = draw(B, n), boxed()
    for strategy in ("reverse-mode", "forward-mode"):
        found = torch.autograd.functional.jacobian(box, x, vectorize=True, strategy=strategy)
        close(found, torch.autograd.functional.jacobian(smooth, x))
    assert box.num_evaluations == 2 * B * (1 + 2 * n)


def test_gradcheck_where_the_estimator_is_exact() -> None:
    """Reverse, forward and batched modes of a central difference are exact for a quadratic, whatever the step."""
    matrix = draw(n, n, seed=5)
    box = ndgrad.wrap(lambda x: (x @ matrix) * x, estimator=ndgrad.FiniteDifference(eps=0.5))
    x = draw(B, n).requires_grad_()
    assert torch.autograd.gradcheck(
        box, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradcheck(box, x, fast_mode=True, check_forward_ad=True)


@pytest.mark.parametrize("size", [0, 1])
def test_empty_and_single_batches(size: int) -> None:
    x = draw(K, size, n)
    close(vmap(grad(loss(boxed())))(x), vmap(grad(loss(smooth)))(x))
    close(vmap(jacrev(boxed()))(x), vmap(jacrev(smooth))(x))
    close(jvp(boxed(), (x[0],), (x[1],))[1], jvp(smooth, (x[0],), (x[1],))[1])


@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_inputs_below_vmap_are_found_without_argnums(evaluate_in: str) -> None:
    """A mapped tensor does not say itself that a transform outside of ``vmap`` differentiates it."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a * b.sin()).sum(1)

    a, b = draw(K, B, n), draw(K, B, n, seed=1)
    box = boxed(product, evaluate_in=evaluate_in)
    gradients = lambda f: grad(lambda a, b: vmap(f)(a, b).square().sum(), argnums=(0, 1))(a, b)  # noqa: E731
    close(gradients(box), gradients(product))
    tangents = (draw(K, B, n, seed=2), draw(K, B, n, seed=3))
    close(jvp(vmap(box), (a, b), tangents)[1], jvp(vmap(product), (a, b), tangents)[1])


class ValueOnly(ndgrad.Estimator):
    """Calls the function where transforms see it, not through `attach`."""

    def forward(self, f: Any, *inputs: Tensor, evaluate_in: str = "backward") -> Any:
        return f(*inputs)


@pytest.mark.parametrize("transform", [grad, lambda f: vmap(f, out_dims=0)])
def test_an_estimator_that_torch_func_cannot_follow_is_refused(transform: Callable[..., Any]) -> None:
    box = ndgrad.wrap(in_numpy, estimator=ValueOnly())
    with pytest.raises(
        UnsupportedTransformError, match=r"take the gradient with backward.*box\(x.flatten\(0, 1\)\)"
    ):
        transform(lambda x: box(x).sum())(draw(K, B, n)[0] if transform is grad else draw(K, B, n))


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_integers_are_constants_of_a_transform(interface: str) -> None:
    box = boxed(lambda i: i * 2, interface=interface)
    i, w = torch.arange(B * n).reshape(B, n), draw(B, n).float()
    close(grad(lambda w: (w * box(i)).sum())(w), 2 * i.float())
    close(vmap(lambda w: (w * box(i)).sum())(w.expand(K, B, n)), (w * 2 * i).sum().expand(K))
    assert box.num_evaluations == 2 * B
    with pytest.raises(UnsupportedTransformError, match="nothing else that it reads"):
        vmap(box)(i.expand(K, B, n))


# -- failures below vmap, where K B inputs are evaluated together


def failing(x: Tensor) -> Tensor:
    """Linear; fails in a tenth of its domain, in stripes too narrow to lean to one side of an input."""
    y = x @ torch.tensor([[2.0, 0.3], [-1.0, 0.7], [0.5, -1.1]], dtype=x.dtype)
    return torch.where((1000 * x[:, :1] % 1 - 0.5).abs() < 0.05, torch.nan, y)


def safe_inputs() -> Tensor:
    return (10 * draw(K, B, n)).round()  # which lie far apart, and where nothing fails


SKIPPING = {
    "draws around the value": lambda: ndgrad.EvolutionStrategy(40, 0.3, directions="gaussian"),
    "value of draws": lambda: ndgrad.PerturbedOptimizer(40, 0.3),
}


@pytest.mark.filterwarnings("error::ndgrad.DependentFailureWarning")
@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("transform", ["vmap", "vmap-grad", "vmap-vmap"])
def test_failures_below_vmap_are_skipped_as_in_one_batch(name: str, transform: str) -> None:
    def gradient(x: Tensor, apply: Callable[[Any, Tensor], Tensor]) -> tuple[Tensor, int]:
        torch.manual_seed(2)
        box = ndgrad.wrap(failing, estimator=SKIPPING[name](), on_error="skip")
        return apply(box, x), box.num_failures

    def backward(f: Callable[..., Any]) -> Callable[[Any, Tensor], Tensor]:
        def apply(box: Any, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            return torch.autograd.grad((f(box, x) ** 2).sum(), x)[0]

        return apply

    different = {"randomness": "different"}
    mapped = {
        "vmap": backward(lambda box, x: vmap(box, **different)(x)),
        "vmap-grad": lambda box, x: vmap(grad(loss(box)), **different)(x),
        "vmap-vmap": backward(
            lambda box, x: vmap(vmap(box, **different), **different)(x.unflatten(0, (2, K // 2)))
        ),
    }
    found, failures = gradient(safe_inputs(), mapped[transform])
    expected, in_one = gradient(safe_inputs().flatten(0, 1), backward(lambda box, x: box(x)))
    close(found.flatten(0, 1), expected)
    assert failures == in_one > 20


def test_each_mapped_input_needs_its_share_of_successes() -> None:
    x = safe_inputs()
    x[2, 1, 0] = 1e4

    def fn(x: Tensor) -> Tensor:  # all probes around one of the K B inputs fail
        return torch.where((x[:, :1] > 9e3) & (x[:, :1] != 1e4), torch.nan, x)

    box = ndgrad.wrap(fn, estimator=ndgrad.EvolutionStrategy(8, 0.3), on_error="skip")
    with pytest.raises(ndgrad.TooManyFailuresError, match="around row 1 of mapped call 2, 0 succeeded"):
        vmap(grad(loss(box)), randomness="different")(x)


@pytest.mark.parametrize("options", [{}, {"on_error": "retry"}])
def test_an_error_below_vmap_names_the_mapped_call(options: Any) -> None:
    x = safe_inputs()
    x[3, 2, 0] = 1e4

    def fn(x: Tensor) -> Tensor:
        if (x > 9e3).any():
            raise RuntimeError("too far")
        return x

    with pytest.raises(ndgrad.FunctionError, match="on row 2 of mapped call 3 as fn"):
        vmap(boxed(fn, chunk_size=1, **options))(x)
    with pytest.raises(ndgrad.FunctionError, match=r"on row 3 as fn"):
        boxed(fn, chunk_size=1, **options)(x[:, 2])
