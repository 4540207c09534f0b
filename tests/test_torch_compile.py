"""``torch.compile``: values, gradients and calls as in eager mode, and the black box stays out of every graph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import ndgrad

pytestmark = [
    pytest.mark.slow,  # the compiler alone takes seconds to import
    # of the compiler itself: what it imports, and what it looks at in every tensor
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

B, n, m, S = 6, 4, 3, 5


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counted:
    """A black box in NumPy or torch that writes down how it was called."""

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn
        self.calls: list[tuple[int, bool]] = []

    def __call__(self, x: Any) -> Any:
        self.calls.append((len(x), torch.compiler.is_compiling()))
        return self.fn(x)


def in_numpy(x: Any) -> Any:
    return np.round(3 * np.tanh(x)) / 3


def in_torch(x: Tensor) -> Tensor:
    return torch.round(3 * torch.tanh(x)) / 3


ESTIMATORS: dict[str, Callable[[], ndgrad.Estimator]] = {
    "es": lambda: ndgrad.EvolutionStrategy(S, 0.3),
    "fd": lambda: ndgrad.FiniteDifference(eps=0.3),
    "bypass": lambda: ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2),
    "perturbed": lambda: ndgrad.PerturbedOptimizer(S, 0.3),
}


class Network(nn.Module):
    """Not a Sequential, whose loop the compiler leaves alone altogether when something in it is no graph."""

    def __init__(self, box: ndgrad.BlackBox) -> None:
        super().__init__()
        self.before, self.box, self.behind = nn.Linear(n, m), box, nn.Linear(m, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.box(torch.tanh(self.before(x))).exp())


def network(fn: Counted, estimator: ndgrad.Estimator, **options: Any) -> Network:
    torch.manual_seed(1)
    interface = "numpy" if fn.fn is in_numpy else "torch"
    return Network(ndgrad.wrap(fn, estimator=estimator, interface=interface, **options))


def step(model: Callable[[Tensor], Tensor], net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the value and all gradients of one step with fixed noise."""
    torch.manual_seed(7)
    net.zero_grad()
    y = model(x)
    (y**2).sum().backward()
    return [y.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("fn", [in_numpy, in_torch])
@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_a_compiled_network_equals_the_eager_one(name: str, fn: Any, evaluate_in: str) -> None:
    counted, results = Counted(fn), []
    for compiled in (False, True):
        counted.calls.clear()
        net = network(counted, ESTIMATORS[name](), evaluate_in=evaluate_in)
        model = torch.compile(net, backend="aot_eager") if compiled else net
        steps = [
            step(model, net, torch.randn(B, n, generator=torch.Generator().manual_seed(s))) for s in (2, 3)
        ]
        results.append((steps, list(counted.calls)))
    (eager, calls), (found, compiled_calls) = results
    assert_close(found, eager, rtol=0, atol=0)
    assert all(gradient.abs().max() > 0 for gradient in eager[0][1:])
    assert compiled_calls == calls
    assert not any(traced for _, traced in compiled_calls)


def test_the_box_is_one_break_between_two_graphs() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append([node.target for node in graph.graph.nodes if node.op.startswith("call")])
        return graph.forward

    net = network(Counted(in_torch), ndgrad.EvolutionStrategy(S, 0.3))
    torch.compile(net, backend=backend)(torch.randn(B, n)).sum().backward()
    assert len(graphs) == 2
    assert torch.tanh in graphs[0]
    assert not any(torch.round in graph for graph in graphs)
    assert graphs[1], "what follows is compiled, too"


def test_inductor() -> None:
    pytest.importorskip("torch._inductor")
    net = network(Counted(in_numpy), ndgrad.FiniteDifference(eps=0.3))
    x = torch.randn(B, n)
    eager = step(net, net, x)
    try:
        found = step(torch.compile(net), net, x)
    except torch._inductor.exc.InductorError as error:  # no compiler on this machine
        pytest.skip(str(error))
    assert_close(found, eager, rtol=1e-4, atol=1e-5)


def test_a_compiled_training_step_with_inference_and_eval() -> None:
    counted = Counted(in_numpy)
    net = network(counted, ESTIMATORS["bypass"]())
    model = torch.compile(net, backend="eager")
    model(torch.randn(B, n)).sum().backward()
    counted.calls.clear()
    net.eval()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert not model(torch.randn(B, n)).requires_grad
    assert counted.calls == [(B, False)] * 2


@pytest.mark.parametrize("fn", [in_numpy, in_torch])
def test_a_single_graph_is_refused(fn: Any) -> None:
    """A black box in a graph would be traced: run once with other values, and never again."""
    net = network(Counted(fn), ndgrad.FiniteDifference(eps=0.3))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="_black_box_runs_outside_of_graphs"):
        torch.compile(net, backend="eager", fullgraph=True)(torch.randn(B, n))


def test_the_compiler_is_not_imported_by_those_who_do_not_compile() -> None:
    code = (
        "import sys, torch, ndgrad\n"
        "x = torch.zeros(2, 3, requires_grad=True)\n"
        "ndgrad.wrap(torch.round)(x).sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
