"""``ndgrad.wrap``: its forms and options, and the module it makes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import ndgrad
from ndgrad.validation import one_of, positive_float, positive_int

B, n, S = 4, 3, 6


def rows(seed: int = 0) -> Tensor:
    return torch.randn(
        B, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


def square(x: Tensor) -> Tensor:
    return x**2


def gradient(box: nn.Module, x: Tensor) -> Tensor:
    return torch.autograd.grad(box(x).sum(), x)[0]


def test_decorator_with_and_without_options() -> None:
    @ndgrad.wrap
    def plain(x: Tensor) -> Tensor:
        return x * 3

    @ndgrad.wrap(estimator=ndgrad.FiniteDifference(eps=0.5), chunk_size=2, evaluate_in="forward")
    def configured(x: Tensor) -> Tensor:
        return x**2

    x = rows()
    assert isinstance(plain, ndgrad.BlackBox)
    assert isinstance(plain.estimator, ndgrad.EvolutionStrategy)
    assert_close(plain(x).detach(), 3 * x.detach())
    y = configured(x)
    assert configured.num_evaluations == B * (1 + 2 * n)
    y.sum().backward()
    assert_close(x.grad, 2 * x.detach())


def test_a_decorator_makes_an_estimator_for_each_function() -> None:
    decorate = ndgrad.wrap(estimator="evolution_strategy")
    assert decorate(square).estimator is not decorate(square).estimator


NEED_ARGUMENTS = {"blackbox_interpolation", "implicit_mle"}


@pytest.mark.parametrize("name", sorted(ndgrad.ESTIMATORS.keys() - NEED_ARGUMENTS))
def test_estimators_by_name(name: str) -> None:
    assert type(ndgrad.wrap(square, estimator=name).estimator) is ndgrad.ESTIMATORS[name]


@pytest.mark.parametrize("name", sorted(NEED_ARGUMENTS))
def test_a_name_does_not_suffice_where_arguments_have_no_default(name: str) -> None:
    """A sense that was guessed would be wrong half of the time."""
    with pytest.raises(
        TypeError, match=rf"'sense'; type estimator=ndgrad.{ndgrad.ESTIMATORS[name].__name__}\("
    ):
        ndgrad.wrap(square, estimator=name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"estimator": "es"},
            ValueError,
            r"one of .*'diff_bypass', 'evolution_strategy'.*instance, got 'es'",
        ),
        ({"estimator": ndgrad.EvolutionStrategy}, TypeError, r"got <class .*: create it, with parentheses"),
        ({"estimator": 3}, TypeError, r"must be an ndgrad.Estimator or a name, got 3$"),
        ({"evaluate_in": "later"}, ValueError, r"'backward' or 'forward', got 'later'"),
        ({"vectorize": True}, ValueError, r"type batched=False, vectorize=True"),
        ({"batched": False, "in_dims": (0,)}, ValueError, r"batched=False has none; type vectorize=True"),
        ({"in_dims": (0, 1)}, ValueError, r"0 \(rows.*None \(shared\), got \(0, 1\)"),
        ({"in_dims": {"x": -1}}, ValueError, r"got \{'x': -1\}"),
        ({"in_dims": 2}, ValueError, r"got 2"),
        ({"chunk_size": 0}, ValueError, r"chunk_size must be an integer >= 1, got 0"),
        ({"chunk_size": 2.5}, ValueError, r"chunk_size must be an integer >= 1, got 2.5"),
        ({"chunk_size": 3, "batched": False}, ValueError, r"chunk_size needs batched=True.*chunk_size=3"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ndgrad.wrap(square, **options)


def test_what_is_no_function() -> None:
    with pytest.raises(TypeError, match="needs a callable as its first argument, got int"):
        ndgrad.wrap(3)


def test_an_estimator_belongs_to_one_function() -> None:
    estimator = ndgrad.EvolutionStrategy(S, 0.3)
    ndgrad.wrap(square, estimator=estimator)
    with pytest.raises(
        ValueError, match=r"this EvolutionStrategy already belongs.*copy.deepcopy\(estimator\)"
    ):
        ndgrad.wrap(torch.round, estimator=estimator)
    ndgrad.wrap(torch.round, estimator=copy.deepcopy(estimator))


def test_a_refused_wrap_does_not_take_the_estimator() -> None:
    estimator = ndgrad.EvolutionStrategy(S, 0.3)
    with pytest.raises(ValueError, match="chunk_size"):
        ndgrad.wrap(square, estimator=estimator, chunk_size=0)
    assert ndgrad.wrap(square, estimator=estimator).estimator is estimator


def test_repr_shows_function_options_and_estimator() -> None:
    box = ndgrad.wrap(square, estimator=ndgrad.EvolutionStrategy(S, 0.3), chunk_size=5, evaluate_in="forward")
    text = repr(box)
    assert "square, interface='torch', batched=True, chunk_size=5, evaluate_in='forward'" in text
    assert "(estimator): EvolutionStrategy(num_samples=6, sigma=0.3" in text
    point = repr(ndgrad.wrap(nn.Tanh(), batched=False, vectorize=True))
    assert "Tanh, interface='torch', batched=False, vectorize=True\n" in point
    assert "chunk_size" not in point
    assert "evaluate_in" not in point


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.5, -2.0, 0.25]))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.to(x.dtype) * x**2


def test_a_module_is_registered_and_receives_no_gradient() -> None:
    box = ndgrad.wrap(Scale(), estimator=ndgrad.FiniteDifference(eps=0.5))
    x = rows()
    box(x).sum().backward()
    weight = box.fn.weight
    assert_close(x.grad, 2 * weight.detach().double() * x.detach())
    assert weight.grad is None
    assert list(box.state_dict()) == ["fn.weight"]
    box.double().eval()
    assert weight.dtype == torch.float64
    assert not box.fn.drop.training


def test_a_state_dict_replaces_the_weights_of_a_module() -> None:
    box = ndgrad.wrap(Scale(), estimator=ndgrad.FiniteDifference(eps=0.5))
    with torch.no_grad():
        box.fn.weight.mul_(-3)
    other = ndgrad.wrap(Scale(), estimator=ndgrad.FiniteDifference(eps=0.5))
    x = rows()
    assert (other(x) - box(x)).abs().min() > 0
    other.load_state_dict(saved_and_loaded(box))
    assert_close(other(x), box(x))
    assert_close(gradient(other, x), gradient(box, x))


def saved_and_loaded(box: nn.Module) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(box.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


MAKERS: dict[str, Callable[[], ndgrad.Estimator]] = {
    "es": lambda: ndgrad.EvolutionStrategy(S, 0.3),
    "score": lambda: ndgrad.ScoreFunction(num_samples=S, sigma=0.3),
    "fd": lambda: ndgrad.FiniteDifference(eps=0.3),
    "bypass": lambda: ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2, replay=1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_dict_continues_where_the_run_stopped(name: str) -> None:
    torch.manual_seed(5)
    box, other = (ndgrad.wrap(square, estimator=MAKERS[name]()) for _ in range(2))
    x = rows()
    gradient(box, x)
    other.load_state_dict(saved_and_loaded(box))
    torch.manual_seed(7)
    expected = gradient(box, x)
    torch.manual_seed(7)
    assert_close(gradient(other, x), expected)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda box: pickle.loads(pickle.dumps(box))], ids=["copy", "pickle"]
)
def test_copies_go_on_alike_and_count_apart(name: str, clone: Callable[[Any], Any]) -> None:
    torch.manual_seed(5)
    box = ndgrad.wrap(square, estimator=MAKERS[name](), chunk_size=5)
    x = rows()
    gradient(box, x)
    spent = box.num_evaluations
    other = clone(box)
    assert other.num_evaluations == spent
    assert other.estimator is not box.estimator
    torch.manual_seed(7)
    expected = gradient(box, x)
    assert other.num_evaluations == spent
    torch.manual_seed(7)
    assert_close(gradient(other, x), expected)
    assert other.num_evaluations == box.num_evaluations == 2 * spent
    assert repr(other) == repr(box)


def test_a_copied_module_calls_its_own_function() -> None:
    box = ndgrad.wrap(Scale(), estimator=ndgrad.FiniteDifference(eps=0.5))
    other = copy.deepcopy(box)
    with torch.no_grad():
        other.fn.weight.mul_(2)
    x = rows()
    assert_close(other(x), 2 * box(x))


def test_every_evaluation_is_counted_over_calls() -> None:
    box = ndgrad.wrap(square, estimator=ndgrad.EvolutionStrategy(S, 0.3))
    assert box.num_evaluations == 0
    x = rows()
    for call in range(1, 3):
        gradient(box, x)
        assert box.num_evaluations == call * B * (1 + 2 * S)
    with pytest.raises(AttributeError):
        box.num_evaluations = 0


class Network(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.outputs = outputs

    def forward(self, x: Tensor) -> Any:
        values = (x * self.weight, (x * self.weight).sum(1), x)[: self.outputs]
        return values if len(values) > 1 else values[0]


def bypass(outputs: int) -> ndgrad.DiffBypass:
    return ndgrad.DiffBypass(Network(outputs), sigma=0.3, num_samples=S, fit_steps=1, forward="bypass")


def test_the_value_of_a_bypass_is_its_network_in_the_containers_of_the_function() -> None:
    torch.manual_seed(3)
    box = ndgrad.wrap(lambda x: {"a": x**2, "b": x.prod(1)}, estimator=bypass(2))
    x = rows()
    out = box(x)
    weight = box.estimator.network.weight.detach()
    assert_close(out["a"].detach(), x.detach() * weight)
    assert_close(out["b"].detach(), (x.detach() * weight).sum(1))
    assert_close(box.eval()(x)["a"].detach(), x.detach() ** 2)


def test_without_an_evaluation_a_bypass_has_no_containers() -> None:
    box, single = (
        ndgrad.wrap(fn, estimator=bypass(k)) for fn, k in ((lambda x: (x**2, x.prod(1)), 2), (square, 1))
    )
    x = rows()
    for module in (box, single):
        module(x)
    spent = box.num_evaluations
    with torch.no_grad():
        y, _ = box(x)
        z = single(x)
    assert box.num_evaluations == spent
    assert_close(y, x.detach() * box.estimator.network.weight.detach())
    assert_close(z, x.detach() * single.estimator.network.weight.detach())


def test_a_network_with_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one tensor for each of the 2 outputs.*returned 3"):
        ndgrad.wrap(lambda x: (x**2, x.prod(1)), estimator=bypass(3))(rows())


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None])
def test_positive_int_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match=f"steps must be an integer >= 1, got {value!r}"):
        positive_int("steps", value)


def test_positive_int_accepts() -> None:
    assert positive_int("steps", 3) == 3
    assert positive_int("steps", 0, least=0) == 0


@pytest.mark.parametrize("value", [0, -0.5, float("inf"), float("nan"), True, "3", None])
def test_positive_float_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match=f"width must be a positive finite number, got {value!r}"):
        positive_float("width", value)


def test_positive_float_accepts() -> None:
    assert positive_float("width", 3) == 3.0
    assert isinstance(positive_float("width", 3), float)


def test_one_of() -> None:
    assert one_of("mode", None, iter(("a", None))) is None
    with pytest.raises(ValueError, match="mode must be one of 'a', None, got 'b'"):
        one_of("mode", "b", ("a", None))


def test_an_estimator_that_returns_other_outputs_than_the_function() -> None:
    class Doubling(ndgrad.Estimator):
        def forward(self, f: Any, *inputs: Tensor, evaluate_in: str = "backward") -> Any:
            y = f(*inputs)
            return (*y, *y)

    box = ndgrad.wrap(lambda x: x, estimator=Doubling())
    with pytest.raises(ndgrad.OutputError, match=r"one tensor for each of the 1 outputs .*but returned 2"):
        box(torch.ones(2, 3, requires_grad=True))
