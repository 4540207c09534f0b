from __future__ import annotations

import copy
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.testing import assert_close

import ndgrad
from ndgrad import trace
from ndgrad.diagnostics import draw


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Model(nn.Module):
    """Holds modules by name and runs a function of them."""

    def __init__(self, run: Any, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def x() -> Tensor:
    return torch.linspace(-0.8, 1.1, 15).reshape(5, 3)


def status(graph: nx.DiGraph) -> dict[str, str]:
    return dict(graph.nodes(data="status"))


def edges(graph: nx.DiGraph) -> dict[tuple[str, str], bool]:
    return {(a, b): data["gradient"] for a, b, data in graph.edges(data=True)}


def reached(graph: nx.DiGraph) -> set[str]:
    return {name for name, value in graph.nodes(data="reached") if value}


def test_chain_and_containers() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.ModuleList([nn.Linear(4, 2)])[0])
    graph = trace(model, x())
    assert list(graph.nodes) == ["input", "0.0", "0.1", "1", "output"]
    assert edges(graph) == dict.fromkeys(
        [("input", "0.0"), ("0.0", "0.1"), ("0.1", "1"), ("1", "output")], True
    )
    assert set(status(graph).values()) == {"input", "differentiable", "output"}
    assert reached(graph) == set(graph.nodes)
    assert graph.nodes["0.1"]["type"] == "Tanh"
    assert graph.nodes["0.0"]["trainable"]
    assert not graph.nodes["0.1"]["trainable"]
    assert graph.graph["summary"] == "differentiable throughout"


@pytest.mark.parametrize(
    ("name", "operation", "why"),
    [
        ("round", torch.round, "gradient is 0"),
        ("sign", lambda h: h.sign(), "gradient is 0"),
        ("floor", lambda h: h.clone().floor_(), "gradient is 0"),
        ("detach", lambda h: h.detach(), "detached from its input"),
        ("data", lambda h: h.data, "detached from its input"),
        ("argmax", lambda h: h.argmax(-1, keepdim=True).float(), "output is int64"),
        ("gt", lambda h: (h > 0).float(), "output is bool"),
        ("mul", lambda h: h * 0, "gradient is 0"),
    ],
)
def test_operations_that_stop_the_gradient(name: str, operation: Any, why: str) -> None:
    model = Model(
        lambda m, z: m.last(operation(m.first(z)).sum(-1, keepdim=True)),
        first=nn.Linear(3, 4),
        last=nn.Linear(1, 1),
    )
    graph = trace(model, x())
    assert list(graph.nodes) == ["input", "first", name, "last", "output"]
    assert status(graph)[name] == "broken"
    assert why in graph.nodes[name]["detail"]
    assert reached(graph) == {"last", "output"}
    assert edges(graph) == {
        ("input", "first"): False, ("first", name): False, (name, "last"): False, ("last", "output"): True,
    }  # fmt: skip
    assert graph.graph["summary"].splitlines() == [
        f"broken at {name}: {graph.nodes[name]['detail']}", "no gradient of the outputs arrives at: first",
    ]  # fmt: skip


def test_black_boxes_show_their_estimator() -> None:
    model = Model(
        lambda m, z: m.bypassed(m.estimated(m.first(z))),
        first=nn.Linear(3, 4),
        estimated=ndgrad.wrap(np.round, estimator=ndgrad.EvolutionStrategy(4, 0.3)),
        bypassed=ndgrad.wrap(torch.sign, estimator="diff_bypass"),
    )
    graph = trace(model, x())
    assert status(graph)["estimated"] == "estimated"
    assert status(graph)["bypassed"] == "bypassed"
    assert graph.nodes["estimated"]["detail"].startswith("EvolutionStrategy(num_samples=4, sigma=0.3")
    assert reached(graph) == set(graph.nodes)
    assert all(edges(graph).values())
    assert "estimated at estimated: EvolutionStrategy(" in graph.graph["summary"]
    assert "bypassed at bypassed: DiffBypass(" in graph.graph["summary"]
    assert model.estimated.num_evaluations == 0


def test_a_black_box_is_one_node_whatever_it_calls() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    graph = trace(nn.Sequential(ndgrad.wrap(net, estimator="finite_difference")), x())
    assert list(graph.nodes) == ["input", "0", "output"]
    alone = trace(ndgrad.wrap(net, estimator="finite_difference"), x())
    assert list(alone.nodes) == ["input", "BlackBox", "output"]
    bare = Model(lambda m, z: m.es(torch.round, z), es=ndgrad.EvolutionStrategy(3, 0.2))
    assert status(trace(bare, x()))["es"] == "estimated"


def test_modules_used_twice_are_two_nodes() -> None:
    shared = nn.Linear(3, 3)
    graph = trace(Model(lambda m, z: m.a(m.a(z)), a=shared), x())
    assert list(graph.nodes) == ["input", "a", "a (2)", "output"]
    assert graph.nodes["a (2)"]["path"] == "a"
    half = trace(Model(lambda m, z: m.a(m.a(z).detach()), a=shared), x())
    assert "no gradient of the outputs" not in half.graph["summary"]  # a is trained by its second call
    assert not half.nodes["a"]["reached"]


def test_straight_through_is_differentiable() -> None:
    model = Model(
        lambda m, z: m.last((h := m.first(z)) + (h.round() - h).detach()),
        first=nn.Linear(3, 4),
        last=nn.Linear(4, 1),
    )
    graph = trace(model, x())
    assert reached(graph) >= {"input", "first", "last"}
    assert edges(graph)["first", "last"]
    assert status(graph)["detach"] == "broken"
    assert edges(graph)["detach", "last"] is False
    assert "no gradient of the outputs" not in graph.graph["summary"]


def test_several_inputs_outputs_and_branches() -> None:
    def run(m: Any, a: Tensor, *, options: dict[str, Any]) -> dict[str, Any]:
        h, (g, k) = m.first(a), m.pair(options["b"])
        return {"sum": m.last(h + g), "index": k, "skipped": a}

    class Pair(nn.Module):
        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * z, z.argmax(-1)

    model = Model(run, first=nn.Linear(3, 4), pair=Pair(), last=nn.Linear(4, 1))
    graph = trace(model, x(), options={"b": torch.ones(5, 4), "n": 3})
    found = edges(graph)
    assert found["input 0", "first"]
    assert found["input 1", "pair"]
    assert found["pair", "last"]
    assert found["first", "last"]
    assert found["last", "output 0"]
    assert found["pair", "output 1"] is False
    assert found["input 0", "output 2"]


def test_an_argument_that_gets_no_gradient_among_others_that_do() -> None:
    class Gate(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * (1.5 + (b > 0))

    graph = trace(
        Model(
            lambda m, a, b: m.gate(m.left(a), m.right(b)),
            left=nn.Linear(3, 2),
            right=nn.Linear(3, 2),
            gate=Gate(),
        ),
        x(),
        x() + 1,
    )
    assert status(graph)["gate"] == "differentiable"
    assert edges(graph)["left", "gate"]
    assert edges(graph)["right", "gate"] is False
    assert graph.graph["summary"] == "no gradient of the outputs arrives at: right"


def test_no_grad_is_named() -> None:
    def run(m: Any, z: Tensor) -> Tensor:
        with torch.no_grad():
            h = m.first(z) * 2
        return m.last(h)

    graph = trace(Model(run, first=nn.Linear(3, 4), last=nn.Linear(4, 1)), x())
    assert status(graph)["first"] == "broken"
    assert graph.nodes["first"]["detail"] == "it runs under torch.no_grad()"


def test_a_module_that_detaches_inside() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, z: Tensor) -> Tensor:
            return self.scale * z.detach()

    graph = trace(nn.Sequential(nn.Linear(3, 3), Frozen()), x())
    assert status(graph)["1"] == "broken"
    assert "does not depend on its input differentiably" in graph.nodes["1"]["detail"]
    assert edges(graph)["1", "output"]
    assert reached(graph) == {"1", "output"}


def test_values_that_leave_torch_are_followed() -> None:
    def run(m: Any, z: Tensor) -> Tensor:
        array = m.first(z).detach().numpy()
        return m.last(torch.from_numpy(np.round(array)))

    graph = trace(Model(run, first=nn.Linear(3, 4), last=nn.Linear(4, 1)), x())
    assert edges(graph)["first", "detach"] is False
    assert edges(graph)["detach", "last"] is False
    item = trace(
        Model(
            lambda m, z: m.last(torch.full((2, 1), m.first(z).sum().item())),
            first=nn.Linear(3, 4),
            last=nn.Linear(1, 1),
        ),
        x(),
    )
    assert status(item)["item"] == "broken"
    assert edges(item)["item", "last"] is False


def test_shapes_and_dangling_operations_are_no_breaks() -> None:
    def run(m: Any, z: Tensor) -> Tensor:
        h = m.first(z)
        noise = torch.zeros_like(h) + h.new_ones(h.shape[-1])
        assert not torch.isnan(h).any()
        h.detach().argmax()
        return m.last(h + noise)

    graph = trace(Model(run, first=nn.Linear(3, 4), last=nn.Linear(4, 1)), x())
    assert list(graph.nodes) == ["input", "first", "last", "output"]
    assert graph.graph["summary"] == "differentiable throughout"


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return 2 * z

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Tensor:
        return 2 * v


class Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        return v, v


class Unfinished(Doubled):
    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Tensor:
        raise NotImplementedError("no derivative yet\nsorry")


def test_autograd_functions_are_seen_through() -> None:
    def run(m: Any, z: Tensor) -> Tensor:
        h = m.first(z)
        g = Doubled.apply(h)
        return m.last(Doubled.apply(Added.apply(g, g) + g))

    graph = trace(Model(run, first=nn.Linear(3, 4), last=nn.Linear(4, 1)), x())
    assert edges(graph) == {("input", "first"): True, ("first", "last"): True, ("last", "output"): True}
    again = trace(
        Model(
            lambda m, z: m.last(m.first(z).detach().requires_grad_()),
            first=nn.Linear(3, 4),
            last=nn.Linear(4, 1),
        ),
        x(),
    )
    assert edges(again)["detach", "last"] is False
    plain = trace(Model(lambda m, z: Doubled.apply(z)), x())
    assert plain.nodes["Model"]["status"] == "differentiable"


def test_a_backward_pass_that_raises_is_broken() -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 4), Model(lambda m, z: Unfinished.apply(z))), x())
    assert graph.nodes["1"]["detail"] == "its backward pass raises: no derivative yet"


def test_in_place_changes_are_seen() -> None:
    steps = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    assert edges(trace(steps, x()))["1", "2"]

    def run(m: Any, z: Tensor) -> Tensor:
        h = m.first(z)
        m.act(h)
        return m.last(h.mul_(2))

    graph = trace(Model(run, first=nn.Linear(3, 4), act=nn.ReLU(inplace=True), last=nn.Linear(4, 1)), x())
    assert list(edges(graph)) == [("input", "first"), ("first", "act"), ("act", "last"), ("last", "output")]
    cut = trace(
        Model(lambda m, z: m.last(m.first(z).detach_()), first=nn.Linear(3, 4), last=nn.Linear(4, 1)), x()
    )
    assert status(cut)["detach"] == "broken"


def test_identity_and_unused_modules() -> None:
    model = Model(
        lambda m, z: m.same(z) + m.drop(z),
        same=nn.Identity(),
        drop=nn.Dropout(0.0).eval(),
        unused=nn.Linear(1, 1),
    )
    graph = trace(model, x())
    assert edges(graph) == {
        ("input", "same"): True, ("input", "drop"): True, ("same", "output"): True, ("drop", "output"): True,
    }  # fmt: skip
    assert "unused" not in graph


def test_modules_that_compute_beside_their_children() -> None:
    tokens = torch.tensor([[1, 0, 2]])
    embedded = trace(
        nn.Sequential(nn.Embedding(4, 6), nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)), tokens
    )
    assert edges(embedded)["input", "0"] is False
    assert "1.self_attn" in embedded
    assert reached(embedded) == set(embedded.nodes) - {"input"}
    recurrent = trace(nn.LSTM(3, 4), x().unsqueeze(1))
    assert list(recurrent.nodes) == ["input", "LSTM", "output 0", "output 1", "output 2"]


def test_the_model_is_not_changed() -> None:
    model = Model(
        lambda m, z: m.box(m.norm(m.first(z))), first=nn.Linear(3, 4), norm=nn.BatchNorm1d(4),
        box=ndgrad.wrap(torch.round, estimator=ndgrad.DiffBypass(num_samples=2, fit_steps=1), evaluate_in="forward"),
    )  # fmt: skip
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    trace(model, x())
    assert_close(
        {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)},
        {k: v for k, v in before.items() if isinstance(v, Tensor)},
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert model.box.num_evaluations == 0
    assert model.box.estimator.network is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    given = x()
    trace(model, given)
    assert not given.requires_grad


def test_errors_of_the_model_pass_and_leave_nothing_behind() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trace(model, x())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    with pytest.raises(TypeError, match=r"needs a torch.nn.Module, got function"):
        trace(lambda z: z, x())  # type: ignore[arg-type]


def test_drawing_shows_every_node_and_status() -> None:
    model = Model(
        lambda m, z: (m.box(h := m.first(z)) + m.bypass(h) + z.sum(), h.argmax(-1)),
        first=nn.Linear(3, 4),
        box=ndgrad.wrap(np.round, estimator="finite_difference"),
        bypass=ndgrad.wrap(torch.sign, estimator="diff_bypass"),
    )
    graph = trace(model, x())
    figure = draw(graph)
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    (axis,) = figure.axes
    words = {text.get_text() for text in axis.texts}
    assert {"input", "first", "Linear", "box", "FiniteDifference", "bypass", "DiffBypass", "argmax"} <= words
    assert {text.get_text() for text in axis.get_legend().get_texts()} == {
        "input or output", "differentiable", "estimated gradient", "bypassed by a network",
        "broken: no gradient passes", "a gradient flows back", "no gradient flows back", "receives no gradient",
    }  # fmt: skip


def test_drawing_on_given_axes_places_boxes_apart_and_downwards() -> None:
    figure = Figure()
    axis = figure.subplots()
    long = "a" * 40
    model = Model(
        lambda m, z: (h := getattr(m, long)(z)) + m.b(h) + m.c(h),
        **{long: nn.Linear(3, 3)},
        b=nn.Tanh(),
        c=nn.ReLU(),
    )
    graph = trace(model, x())
    assert draw(graph, axis) is figure
    assert "…" + "a" * 25 in {text.get_text() for text in axis.texts}
    from ndgrad.diagnostics.block_diagram import _places

    places = _places(graph)
    assert len(set(places.values())) == len(graph)
    for source, target in graph.edges:
        assert places[source][1] > places[target][1]
    legend = {text.get_text() for text in axis.get_legend().get_texts()}
    assert legend == {"input or output", "differentiable", "a gradient flows back"}
