"""The one place that calls the function: chunks, counts, copies, and what a failure says."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import ndgrad

B, n, m, S = 5, 3, 2, 7
WEIGHTS = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.0, 1.5]], dtype=torch.float64)


def rows(seed: int = 0) -> Tensor:
    return torch.randn(
        B, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def steps(x: Tensor) -> Tensor:
    return torch.round(4 * torch.tanh(x @ WEIGHTS)) / 4


MAKERS: dict[str, Callable[[], ndgrad.Estimator]] = {
    "pairs": lambda: ndgrad.EvolutionStrategy(S, 0.3),
    "loo": lambda: ndgrad.EvolutionStrategy(S, 0.3, antithetic=False),
    "score": lambda: ndgrad.ScoreFunction(num_samples=S, sigma=0.3),
    "fd": lambda: ndgrad.FiniteDifference(eps=0.3),
    "bypass": lambda: ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2),
}
PROBES = {"pairs": 2 * S, "loo": S, "score": S, "fd": 2 * n, "bypass": S}


def run(name: str, chunk_size: int | None, evaluate_in: str = "backward") -> tuple[Tensor, Tensor, list[int]]:
    sizes: list[int] = []

    def fn(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return steps(x)

    torch.manual_seed(8)
    box = ndgrad.wrap(fn, estimator=MAKERS[name](), chunk_size=chunk_size, evaluate_in=evaluate_in)
    x = rows()
    y = box(x)
    y.backward(torch.linspace(-1.0, 2.0, B * m, dtype=torch.float64).reshape(B, m))
    assert box.num_evaluations == sum(sizes) == B * (1 + PROBES[name])
    assert x.grad is not None
    return y.detach(), x.grad, sizes


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_the_result_does_not_depend_on_the_chunks(name: str, evaluate_in: str) -> None:
    value, grad, sizes = run(name, None, evaluate_in)
    assert sizes[0] == B
    assert grad.abs().sum() > 0
    for chunk_size in (1, 7, B * (1 + PROBES[name])):
        chunked_value, chunked_grad, chunked_sizes = run(name, chunk_size, evaluate_in)
        assert_close(chunked_value, value)
        assert_close(chunked_grad, grad)
        assert max(chunked_sizes) <= chunk_size
    assert chunked_sizes == sizes


def test_chunks_are_filled() -> None:
    _, _, sizes = run("loo", 7)
    assert sizes == [5] + [7] * 5


def test_a_function_of_one_point_is_called_once_per_row() -> None:
    shapes = []

    def point(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return steps(x)

    torch.manual_seed(8)
    box = ndgrad.wrap(point, estimator=MAKERS["loo"](), batched=False, vectorize=True)
    x = rows()
    box(x).backward(torch.linspace(-1.0, 2.0, B * m, dtype=torch.float64).reshape(B, m))
    assert_close(x.grad, run("loo", None)[1])
    assert shapes == [(n,)] * (B * (1 + S))
    assert box.num_evaluations == B * (1 + S)


def test_a_single_point() -> None:
    torch.manual_seed(8)
    x = rows()[0].detach().requires_grad_()
    shapes = set()

    def point(x: Tensor) -> dict[str, Tensor]:
        shapes.add(tuple(x.shape))
        return {"y": x**2, "s": x.prod()}

    box = ndgrad.wrap(point, estimator=ndgrad.FiniteDifference(eps=0.5), batched=False)
    out = box(x)
    assert out["y"].shape == (n,)
    assert out["s"].shape == ()
    v = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    ((out["y"] * v).sum() + 0.7 * out["s"]).backward()
    z = x.detach()
    assert_close(x.grad, 2 * z * v + 0.7 * z.prod() / z)
    assert shapes == {(n,)}
    assert box.num_evaluations == 1 + 2 * n


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("batched", [True, False])
def test_a_function_that_changes_its_input_in_place(interface: str, batched: bool) -> None:
    def fn(x: Any) -> Any:
        x *= x
        return x

    x = rows()
    before = x.detach().clone()
    box = ndgrad.wrap(
        fn,
        estimator=ndgrad.FiniteDifference(eps=0.5),
        interface=interface,
        batched=batched,
        vectorize=not batched,
    )
    y = box(x)
    y.sum().backward()
    assert_close(x.detach(), before)
    assert_close(y.detach(), before**2)
    assert_close(x.grad, 2 * before)


LAYOUTS: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Tensor]]] = {
    "transposed": (lambda: rows().detach(), lambda base: base.T),
    "expanded": (lambda: rows().detach()[:1], lambda base: base.expand(B, n)),
    "strided": (lambda: rows().detach(), lambda base: base[::2, ::2]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_inputs_in_any_memory_layout(layout: str, interface: str) -> None:
    make, view = LAYOUTS[layout]
    base = make().requires_grad_()
    x = view(base)

    def fn(z: Any) -> Any:
        z *= z  # an expanded row must not be squared B times
        return z

    y = ndgrad.wrap(fn, estimator=ndgrad.FiniteDifference(eps=0.5), interface=interface)(x)
    v = torch.arange(1.0, 1.0 + y.numel(), dtype=torch.float64).reshape(y.shape)
    y.backward(v)
    reference = base.detach().clone().requires_grad_()
    (view(reference) ** 2).backward(v)
    assert_close(y.detach(), x.detach() ** 2)
    assert_close(base.grad, reference.grad)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_empty_and_single_batches(name: str, size: int, chunk_size: int | None) -> None:
    torch.manual_seed(8)
    box = ndgrad.wrap(lambda x: x @ WEIGHTS, estimator=MAKERS[name](), chunk_size=chunk_size)
    x = rows().detach()[:size].requires_grad_()
    y = box(x)
    assert y.shape == (size, m)
    y.sum().backward()
    assert x.grad.shape == (size, n)
    assert box.num_evaluations == size * (1 + PROBES[name])
    if name == "fd":
        assert_close(x.grad, WEIGHTS.sum(1).expand(size, n))


def test_an_empty_batch_of_points_has_no_output_shape() -> None:
    box = ndgrad.wrap(lambda x: x, batched=False, vectorize=True)
    with pytest.raises(ndgrad.OutputError, match=r"empty batch has no point.*skip empty batches"):
        box(torch.zeros(0, n))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(dtype: torch.dtype) -> None:
    seen = []

    def fn(x: Tensor, table: Tensor) -> Tensor:
        seen.append((x.dtype, table.dtype))
        return x**2 * table

    x = torch.tensor([[0.5, 1.5], [2.0, -3.0], [1.0, 0.25]], dtype=dtype, requires_grad=True)
    table = torch.tensor([2.0, 4.0], dtype=dtype)
    y = ndgrad.wrap(fn, estimator=ndgrad.FiniteDifference(eps=0.5))(x, table)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert_close(x.grad, 2 * x.detach() * table)
    assert set(seen) == {(torch.float32, torch.float32)}


def test_autocast_does_not_reach_the_function_or_the_estimate() -> None:
    seen = []

    def fn(x: Tensor) -> Tensor:
        y = x @ WEIGHTS.float()
        seen.append(y.dtype)
        return y

    x = rows().detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = ndgrad.wrap(fn, estimator=ndgrad.FiniteDifference(eps=0.5))(x)
        y.sum().backward()
    assert set(seen) == {torch.float32}
    assert_close(x.grad, WEIGHTS.float().sum(1).expand(B, n), rtol=1e-5, atol=1e-5)


def test_a_fit_in_a_backward_pass_under_autocast_is_the_one_without() -> None:
    def slope(context: Any) -> Tensor:
        torch.manual_seed(0)
        box = ndgrad.wrap(lambda x: 3 * x.sum(1), estimator=ndgrad.DiffBypass(sigma=0.5, fit_steps=30))
        x = torch.zeros(4, 3, requires_grad=True)
        y = box(x).sum()
        with context:
            y.backward()
        assert x.grad is not None
        return x.grad

    # autocast keeps one bfloat16 copy of the weights for all the steps of a fit, which then runs away
    assert_close(slope(torch.autocast("cpu", torch.bfloat16)), slope(nullcontext()), rtol=0, atol=0)


def test_containers_are_the_same_where_nothing_is_evaluated() -> None:
    network = torch.nn.Linear(n, 2)
    estimator = ndgrad.DiffBypass(network, num_samples=4, forward="bypass")
    box = ndgrad.wrap(lambda x: {"a": x[:, :2]}, estimator=estimator)
    x = rows().detach().float()
    assert set(box(x.clone().requires_grad_())) == set(box(x)) == {"a"}


class RefusalError(Exception):
    pass


def failing(x: Any, scale: float = 1.0, table: Any = None) -> Any:
    raise RefusalError("out of domain")


def failure(*args: Any, fn: Callable[..., Any] = failing, **options: Any) -> ndgrad.FunctionError:
    keywords = options.pop("keywords", {})
    with pytest.raises(ndgrad.FunctionError) as caught:
        ndgrad.wrap(fn, **options)(*args, **keywords)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, RefusalError)
    return caught.value


def test_a_function_that_raises_is_named_with_its_arguments() -> None:
    error = failure(rows(), keywords={"scale": 2.0, "table": np.zeros((4, 2))})
    message = str(error)
    assert "the wrapped function failing raised RefusalError: out of domain" in message
    assert "rows 0 to 4 (the batch has 5)" in message
    assert "fn(tensor(5, 3) float64, scale=float, table=array(4, 2) float64), interface='torch'" in message
    assert "interface='numpy'" in message
    assert "type batched=False, vectorize=True" in message
    assert "in_dims" not in message
    assert_close(error.inputs[0], rows().detach())


def test_what_a_program_wrote_before_it_failed_is_shown() -> None:
    def fn(x: Tensor) -> Tensor:
        code = "import sys; sys.exit('mesh inverted at t=0.3')"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return x

    with pytest.raises(
        ndgrad.FunctionError, match=r"non-zero exit status 1.* It wrote: mesh inverted at t=0.3"
    ):
        ndgrad.wrap(fn)(rows())


def test_hints_fit_the_case() -> None:
    message = str(failure(rows(), interface="numpy", batched=False, vectorize=True))
    assert "row 0 as fn(array(3,) float64), interface='numpy'" in message
    assert "type" not in message.split("\n")[-1]
    assert "row 2 as fn(list of 1)" in str(failure(rows(), fn=third_row, interface="python", chunk_size=1))
    whole = str(failure(rows(), batched=False))
    assert "if it has rows, each of them a point, type vectorize=True" in whole
    shared = str(failure(rows(), 1.0, torch.zeros(B, 2)))
    assert "'table' has 5 rows as the batch has" in shared
    assert "in_dims={'table': 0}" in shared
    keyword = str(failure(rows(), keywords={"table": np.zeros((B, 2))}))
    assert "in_dims={'table': 0}" in keyword
    variadic = str(failure(rows(), torch.zeros(B, 2), fn=variadic_failing))
    assert "argument 1 has 5 rows" in variadic
    assert "in_dims={1: 0}" in variadic


def third_row(x: list[list[float]]) -> list[float]:
    if x[0] == rows().detach().tolist()[2]:
        raise RefusalError("out of domain")
    return [0.0]


def variadic_failing(*xs: Tensor) -> Tensor:
    raise RefusalError("out of domain")


def test_a_probe_that_raises_is_named_and_counted() -> None:
    calls = []

    def fn(x: Tensor) -> Tensor:
        calls.append(0)
        if len(calls) == B + 7:
            raise RefusalError("the seventh probe")
        return x

    box = ndgrad.wrap(fn, estimator=MAKERS["loo"](), chunk_size=1)
    y = box(rows())
    with pytest.raises(ndgrad.FunctionError, match=r"row 1 \(probe 1 around it\)"):  # 6 = 1 * 5 + 1
        y.sum().backward()
    assert box.num_evaluations == B + 7


def test_objects_are_named_by_their_class() -> None:
    class Simulator:
        def __call__(self, x: Tensor) -> Tensor:
            raise RefusalError("out of domain")

    assert "Simulator raised RefusalError" in str(failure(rows(), fn=Simulator()))


def test_interrupts_pass() -> None:
    def fn(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ndgrad.wrap(fn)(rows())


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(failure(rows())))
    assert isinstance(error, ndgrad.FunctionError)
    assert_close(error.inputs[0], rows().detach())
    bad = pickle.loads(pickle.dumps(ndgrad.NonFiniteError("message", (rows(),))))
    assert str(bad) == "message"
    assert_close(bad.inputs[0], rows())


def test_every_error_has_one_base_and_the_builtin_a_caller_expects() -> None:
    expected = {
        ndgrad.FunctionError: RuntimeError,
        ndgrad.OutputError: ValueError,
        ndgrad.NonFiniteError: ndgrad.OutputError,
        ndgrad.OutputTypeError: TypeError,
        ndgrad.SecondDerivativeError: RuntimeError,
    }
    for error, builtin in expected.items():
        assert issubclass(error, ndgrad.NdgradError)
        assert issubclass(error, builtin)
    assert ndgrad.FunctionError("message").inputs == ndgrad.NonFiniteError("message").inputs == ()


@pytest.mark.parametrize("options", [{"batched": True}, {"batched": False, "vectorize": True}])
def test_a_companion_array_that_the_function_changes_stays_the_callers(options: Any) -> None:
    def fn(x: Any, target: Any) -> Any:
        target -= 1.0
        return ((np.asarray(x) - target) ** 2).sum(-1)

    x = torch.tensor([[0.5, -1.0], [2.0, 0.25], [1.5, -0.75]], dtype=torch.float64, requires_grad=True)
    target = np.array([[1.0, 2.0], [0.5, -1.5], [3.0, 0.0]])
    kept = target.copy()
    box = ndgrad.wrap(
        fn, estimator=ndgrad.FiniteDifference(eps=0.1), in_dims=(0, 0), interface="numpy", **options
    )
    v = torch.tensor([0.7, -1.3, 2.0], dtype=torch.float64)
    box(x, target).backward(v)
    assert np.array_equal(target, kept)
    assert_close(x.grad, 2 * (x.detach() - torch.from_numpy(kept - 1)) * v[:, None])
