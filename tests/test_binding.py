"""Which arguments are differentiated, which go with the rows, which are shared by all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import ndgrad
from ndgrad.binding import Argument, Leaf, _check_devices

B, n = 3, 4
STEP = 0.25


def exact() -> ndgrad.FiniteDifference:
    """Central differences: exact on quadratics; 2 n probes per row."""
    return ndgrad.FiniteDifference(eps=STEP)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed).requires_grad_()


def distance(x: Tensor, target: Tensor) -> Tensor:
    return ((x - target) ** 2).sum(1)


@pytest.mark.parametrize("in_dims", [(0, 0), 0, {"target": 0}, {1: 0}, {0: 0, "target": 0}])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_declared_target_follows_its_row_through_the_probes(in_dims: Any, chunk_size: int | None) -> None:
    x, target, v = leaf(B, n), randn(B, n, seed=1), randn(B, seed=2)
    box = ndgrad.wrap(distance, estimator=exact(), in_dims=in_dims, chunk_size=chunk_size)
    box(x, target).backward(v)
    assert_close(x.grad, 2 * (x.detach() - target) * v[:, None])


@pytest.mark.parametrize("in_dims", [{"target": 0}, 0])
def test_a_keyword_target_can_be_declared(in_dims: Any) -> None:
    x, target = leaf(B, n), randn(B, n, seed=1)
    box = ndgrad.wrap(distance, estimator=exact(), in_dims=in_dims)
    box(x, target=target).sum().backward()
    assert_close(x.grad, 2 * (x.detach() - target))


def test_a_numpy_companion_follows_its_row() -> None:
    def fn(x: Any, target: Any) -> Any:
        assert isinstance(target, np.ndarray)
        return ((x - target) ** 2).sum(1)

    x, target = leaf(B, n), randn(B, n, seed=1)
    box = ndgrad.wrap(fn, interface="numpy", estimator=exact(), in_dims=(0, 0))
    box(x, target.numpy()).sum().backward()
    assert_close(x.grad, 2 * (x.detach() - target))


def test_an_undeclared_target_is_shared_and_the_error_says_how_to_declare_it() -> None:
    x, target = leaf(B, n), randn(B, n, seed=1)
    y = ndgrad.wrap(distance, estimator=exact())(x, target)
    with pytest.raises(
        ndgrad.FunctionError, match=r"'target' has 3 rows as the batch has.*in_dims=\{'target': 0\}"
    ):
        y.sum().backward()


@pytest.mark.parametrize("rows", [n, B])  # a table as long as the batch must not be cut either
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_lookup_table_is_shared(rows: int, chunk_size: int | None) -> None:
    table = randn(rows, 2, seed=5)
    shapes = set()

    def lookup(x: Tensor, table: Tensor) -> Tensor:
        shapes.add(tuple(table.shape))
        index = (x > 0).sum(1).clamp(max=len(table) - 1)
        return table[index] * x.sum(1, keepdim=True)

    x, v = randn(B, n).sign().mul(2).requires_grad_(), randn(B, 2, seed=3)  # no sign changes within a step
    ndgrad.wrap(lookup, estimator=exact(), chunk_size=chunk_size)(x, table).backward(v)
    index = (x.detach() > 0).sum(1).clamp(max=rows - 1)
    assert_close(x.grad, (table[index] * v).sum(1, keepdim=True).expand(B, n))
    assert shapes == {(rows, 2)}


def test_rows_are_copied_and_what_is_shared_is_not() -> None:
    seen = []

    def fn(x: Tensor, table: Tensor) -> Tensor:
        seen.append((x.data_ptr(), table.data_ptr()))
        return x * table

    x, table = leaf(2, 3), torch.ones(3, dtype=torch.float64)
    ndgrad.wrap(fn, estimator=exact())(x, table).sum().backward()
    assert x.data_ptr() not in [rows for rows, _ in seen]
    assert {shared for _, shared in seen} == {table.data_ptr()}


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_evaluation_takes_the_rows_of_what_was_trained(chunk_size: int | None) -> None:
    def centred(table: Tensor, x: Tensor) -> Tensor:
        return x * (table - table.mean()).square().sum()

    box = ndgrad.wrap(centred, chunk_size=chunk_size, estimator=exact())
    for length in (B, 10):
        table, x = randn(length, seed=5), leaf(B, n)
        trained = box(table, x)
        assert_close(box(table, x.detach()), trained.detach())


def test_an_output_without_the_rows_names_whose_rows_they_are() -> None:
    box = ndgrad.wrap(lambda table, x: (x * table.sum()).sum(1), estimator=exact())
    with pytest.raises(ndgrad.OutputError, match=r"first floating argument: .* name it in argnums="):
        box(randn(10), randn(B, n))


def test_the_order_of_keywords_does_not_decide_which_input_is_which() -> None:
    def fn(*, a: Tensor, b: Tensor) -> Tensor:
        return (3 * a - 2 * b).sum(1)

    seen = []
    for names in ("ab", "ba"):
        torch.manual_seed(0)
        values = {"a": leaf(B, n), "b": leaf(B, n, seed=1)}
        box = ndgrad.wrap(fn, estimator=ndgrad.EvolutionStrategy(4, sigma=(0.01, 1.0)))
        box(**{name: values[name] for name in names}).sum().backward()
        seen.append([values[name].grad for name in "ab"])
    assert_close(seen[0], seen[1], rtol=0, atol=0)


@pytest.mark.parametrize("in_dims", [(0, 0), {"words": 0}])
def test_rows_of_what_holds_no_array_are_refused(in_dims: Any) -> None:
    box = ndgrad.wrap(lambda x, words: x, in_dims=in_dims, interface="python", batched=False, vectorize=True)
    with pytest.raises(
        ValueError, match=r"rows of 'words', which holds no tensor or array .* torch.arange\(B\)"
    ):
        box(leaf(2, n), ["a", "b"])


@pytest.mark.parametrize("grad", [True, False])
def test_a_table_declared_shared_may_come_first(grad: bool) -> None:
    table, x = randn(5, n, seed=5), randn(B, n).requires_grad_(grad)
    box = ndgrad.wrap(lambda t, z: z @ t.T, estimator=exact(), in_dims=(None, 0))
    assert_close(box(table, x).detach(), x.detach() @ table.T)
    assert box.num_evaluations == B


@pytest.mark.parametrize("grad", [True, False])
def test_statics_may_come_first(grad: bool) -> None:
    def fn(kind: str, x: Tensor, scale: float = 1.0) -> Tensor:
        return {"square": x**2, "cube": x**3}[kind] * scale

    box = ndgrad.wrap(fn, estimator=exact(), chunk_size=2)
    x = randn(B, n).requires_grad_(grad)
    assert_close(box("square", x, scale=0.5).detach(), 0.5 * x.detach() ** 2)
    assert box.num_evaluations == B


def test_by_default_every_tensor_that_requires_a_gradient_is_differentiated() -> None:
    x, w, c, v = leaf(B, n), leaf(B, n, seed=1), randn(n, seed=2), randn(B, seed=3)
    box = ndgrad.wrap(lambda x, c, *, w: (x * w * c).sum(1), estimator=exact())
    box(x, c, w=w).backward(v)
    assert_close(x.grad, w.detach() * c * v[:, None])
    assert_close(w.grad, x.detach() * c * v[:, None])
    assert box.num_evaluations == B + B * 2 * (n + n)


@pytest.mark.parametrize("argnums", [1, "w", (1,), ["w"], (-1 + 2,)])
def test_argnums_restrict_the_gradient(argnums: Any) -> None:
    x, w = leaf(B, n), leaf(B, 2, seed=1)
    box = ndgrad.wrap(lambda x, w: x.sum(1) * w.prod(1), estimator=exact(), argnums=argnums, in_dims=(0, 0))
    box(x, w).sum().backward()
    assert x.grad is None
    assert_close(w.grad, x.detach().sum(1, keepdim=True) * w.detach().flip(1))
    assert box.num_evaluations == B + B * 2 * 2


def test_argnums_without_gradient_become_companions_of_their_row() -> None:
    x, w = leaf(B, n), randn(B, n, seed=1)
    box = ndgrad.wrap(lambda x, w: (x * w).sum(1), estimator=exact(), argnums=(0, 1))
    box(x, w).sum().backward()
    assert_close(x.grad, w)
    assert box.num_evaluations == B + B * 2 * n  # nothing is spent on w


def test_argnums_of_a_single_point() -> None:
    x, w = leaf(n), randn(n, seed=1)
    box = ndgrad.wrap(lambda x, w: (x * w).sum(), estimator=exact(), argnums=(0, "w"), batched=False)
    box(x, w).backward()
    assert_close(x.grad, w)


@pytest.mark.parametrize("argnums", [2, -1, "z"])
def test_argnums_that_name_nothing(argnums: Any) -> None:
    box = ndgrad.wrap(distance, argnums=argnums)
    with pytest.raises(ValueError, match=rf"argnums names {argnums!r}, but the call has 0: x, target="):
        box(leaf(B, n), target=randn(B, n))


def test_in_dims_that_name_nothing() -> None:
    with pytest.raises(ValueError, match="in_dims names 'goal', but the call has 0: x, 1: target"):
        ndgrad.wrap(distance, in_dims={"goal": 0})(leaf(B, n), randn(B, n))
    with pytest.raises(ValueError, match="in_dims names 'goal', but the call has no arguments"):
        ndgrad.wrap(distance, in_dims={"goal": 0})()


def test_in_dims_of_another_length() -> None:
    with pytest.raises(
        ValueError, match=r"in_dims declares 1 positional arguments, but the call has 2: 0: x, 1: target"
    ):
        ndgrad.wrap(distance, in_dims=(0,))(leaf(B, n), randn(B, n))


@pytest.mark.parametrize("argnums", [None, (0, 1)])
def test_a_shared_argument_cannot_be_differentiated(argnums: Any) -> None:
    box = ndgrad.wrap(distance, in_dims=(0, None), argnums=argnums)
    with pytest.raises(ValueError, match=r"'target' is to be differentiated, but in_dims declares it shared"):
        box(leaf(B, n), leaf(n, seed=1))


def test_a_shared_argument_that_argnums_leave_out_may_require_a_gradient() -> None:
    x, target = leaf(B, n), leaf(n, seed=1)
    ndgrad.wrap(distance, in_dims=(0, None), argnums=0, estimator=exact())(x, target).sum().backward()
    assert target.grad is None
    assert_close(x.grad, 2 * (x - target).detach())


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="same number of them, but 'x' has 3, 'target' has 5"):
        ndgrad.wrap(distance)(leaf(B, n), leaf(5, n))


def test_rows_must_agree_within_one_argument_too() -> None:
    with pytest.raises(ValueError, match="same number of them, but 'x' has 3, 'x' has 5"):
        ndgrad.wrap(lambda x: x["a"])({"a": leaf(B, n), "b": leaf(5, n)})


@pytest.mark.parametrize("in_dims", [None, 0])
def test_a_single_number_has_no_rows(in_dims: Any) -> None:
    with pytest.raises(ValueError, match=r"'x' must have rows.*x.unsqueeze\(0\), or type batched=False"):
        ndgrad.wrap(lambda x: x, in_dims=in_dims)(leaf())


def test_meta_and_complex_inputs_are_refused() -> None:
    box = ndgrad.wrap(lambda x: x)
    with pytest.raises(ValueError, match="cannot run on meta tensors"):
        box(torch.zeros(B, n, device="meta"))
    with pytest.raises(TypeError, match=r"real inputs; got a complex tensor: pass torch.view_as_real"):
        box(torch.zeros(B, n, dtype=torch.complex64, requires_grad=True))


def test_a_constant_complex_companion_is_handed_through() -> None:
    x, phase = leaf(B, n), torch.tensor(1j, dtype=torch.complex128)
    y = ndgrad.wrap(lambda x, p: (x * p).imag, estimator=exact())(x, phase)
    assert_close(y.detach(), x.detach())


def test_integer_inputs_have_rows_but_no_gradient() -> None:
    calls = []
    box = ndgrad.wrap(lambda k: calls.append(len(k)) or k * 3, chunk_size=2)
    y = box(torch.tensor([[1], [5], [7]]))
    assert_close(y, torch.tensor([[3.0], [15.0], [21.0]]))
    assert not y.requires_grad
    assert calls == [2, 1]


def test_numpy_inputs_have_rows_too() -> None:
    box = ndgrad.wrap(lambda k: k * 3, chunk_size=2)
    assert_close(box(np.array([1.0, 5.0, 7.0])), torch.tensor([3.0, 15.0, 21.0]))
    assert box.num_evaluations == 3


def test_no_arguments_at_all() -> None:
    box = ndgrad.wrap(lambda: [2.5])
    assert_close(box(), torch.tensor([2.5]))
    assert box.num_evaluations == 1


def test_builtins_without_signature_and_variadic_functions() -> None:
    x, w = leaf(B, n), leaf(B, n, seed=1)
    ndgrad.wrap(torch.maximum, estimator=exact())(x, w).sum().backward()
    assert (x.grad + w.grad).shape == (B, n)
    box = ndgrad.wrap(lambda *xs: xs[0] * xs[1], estimator=exact(), argnums=1, in_dims={0: 0})
    w.grad = None
    box(x, w).sum().backward()
    assert_close(w.grad, x.detach())
    with pytest.raises(ValueError, match="argument 0 has 3, argument 1 has 5"):
        box(x, leaf(5, n))


def test_vectorize_takes_rows_apart_and_asks_when_it_cannot_know_which() -> None:
    def point(x: Tensor, target: Tensor) -> Tensor:
        assert x.shape == (n,)
        return ((x - target) ** 2).sum()

    x, target = leaf(B, n), randn(B, n, seed=1)
    with pytest.raises(ValueError, match=r"2 arguments hold tensors \('x', 'target'\).*in_dims=\(0, None\)"):
        ndgrad.wrap(point, batched=False, vectorize=True)(x, target)
    box = ndgrad.wrap(point, batched=False, vectorize=True, in_dims=(0, 0), estimator=exact())
    box(x, target).sum().backward()
    assert_close(x.grad, 2 * (x.detach() - target))
    x.grad = None
    shared = ndgrad.wrap(point, batched=False, vectorize=True, in_dims=(0, None), estimator=exact())
    shared(x, target[0]).sum().backward()
    assert_close(x.grad, 2 * (x.detach() - target[0]))
    assert shared.num_evaluations == B + B * 2 * n


def test_the_function_never_sees_a_gradient() -> None:
    seen = []

    def fn(x: Tensor, w: Tensor) -> Tensor:
        seen.append((x.requires_grad, w.requires_grad, torch.is_grad_enabled()))
        return x * w

    x, w = leaf(B, n), leaf(n, seed=1)
    ndgrad.wrap(fn, argnums=0, estimator=exact())(x, w).sum().backward()
    assert set(seen) == {(False, False, False)}


def test_draws_replace_the_parameters_they_were_drawn_from() -> None:
    """A family of two parameters hands one draw to ``fn``; the companion follows its row."""

    def family(mean: Tensor, log_scale: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(mean, log_scale.exp()), 1)

    shapes = set()

    def fn(z: Tensor, offset: Tensor) -> Tensor:
        shapes.add((tuple(z.shape), tuple(offset.shape)))
        return (z - offset).sum(1)

    S = 5
    estimator = ndgrad.ScoreFunction(family, num_samples=S)
    mean, log_scale = leaf(B, n), torch.full((B, n), -30.0, dtype=torch.float64)  # no noise to speak of
    offset = randn(B, n, seed=7)
    box = ndgrad.wrap(fn, estimator=estimator, argnums=(0, 1), in_dims=(0, 0, 0))
    y = box(mean, log_scale, offset)
    assert_close(y.detach(), (mean.detach() - offset).sum(1))
    assert shapes == {((S * B, n), (S * B, n))}


def test_draws_of_a_family_whose_parameters_are_one_dict() -> None:
    def family(p: Tensor, q: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Normal(p, q)

    estimator = ndgrad.ScoreFunction(family, num_samples=2)
    box = ndgrad.wrap(lambda z: z, estimator=estimator)
    p, q = leaf(B), torch.full((B,), 1e-30, dtype=torch.float64).requires_grad_()
    assert_close(box({"p": p, "q": q}).detach(), p.detach())


def test_inputs_on_two_devices_are_refused() -> None:
    """The other device stands for an accelerator, which the machine that runs this may not have."""
    argument = Argument(1, "w", [Leaf(torch.zeros(B), "input")], lambda leaves: leaves[0])
    _check_devices([argument], torch.device("cpu"))
    with pytest.raises(
        ValueError, match=r"'w' is on cpu, the first input on cuda:0: move it with \.to\('cuda:0'\)"
    ):
        _check_devices([argument], torch.device("cuda:0"))
    argument.leaves[0].role = "shared"
    _check_devices([argument], torch.device("cuda:0"))
