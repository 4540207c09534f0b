"""``ndgrad.trace``: a model as a graph that shows where its gradient goes, and where it stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ndgrad.diagnostics.data_flow import Recorder
from ndgrad.diagnostics.isolation import isolated, seeded
from ndgrad.trees import flatten

if TYPE_CHECKING:
    import networkx as nx


def trace(model: nn.Module, *inputs: Any, **keywords: Any) -> nx.DiGraph:
    """Run a model once and return its modules as a graph with the state of the gradient at each.

    Nodes are the calls of modules that hold no others, inputs and outputs, and, outside such modules, every operation
    that stops a gradient. A black box is one node, whatever it calls. Edges are the flow of data; operations that let
    the gradient through, such as sums, are not shown.

    The model runs on a copy, so that parameters, statistics, hooks, estimators and counts stay as they are; every
    floating input is taken to require a gradient. A module or operation counts as broken if its output does not
    require a gradient although an input does (``detach``, ``argmax``, ``no_grad``), or if the gradient of all its
    inputs is 0 at this input (``round``, ``sign``).

    Args:
        model: any module.
        *inputs: the arguments of one call, tensors (B, ...) as the model takes them.
        **keywords: its keyword arguments.

    Returns:
        A ``networkx.DiGraph``. Nodes carry ``label``, ``type`` (of module or operation), ``status`` (``"input"``,
        ``"output"``, ``"differentiable"``, ``"estimated"``, ``"bypassed"``, ``"broken"``), ``detail`` (the estimator,
        or why it is broken), ``path`` (of the module), ``trainable`` (whether it has parameters to train) and
        ``reached`` (whether a gradient of the outputs arrives). Edges carry ``gradient``: whether one flows back along
        it. ``graph.graph["summary"]`` says the same in words.
        `ndgrad.diagnostics.draw` draws it.

    Raises:
        TypeError: for a model that is no module.

    Example:
        >>> import torch, ndgrad
        >>> class Rounded(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
        ...     def forward(self, x):
        ...         return self.last(torch.round(self.first(x)))
        >>> graph = ndgrad.trace(Rounded(), torch.ones(2, 3))
        >>> list(graph.nodes)
        ['input', 'first', 'round', 'last', 'output']
        >>> print(graph.graph["summary"])
        broken at round: its gradient is 0 at this input
        no gradient of the outputs arrives at: first

    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"ndgrad.trace needs a torch.nn.Module, got {type(model).__name__}")
    copy = isolated(model)
    assert isinstance(copy, nn.Module)
    recorder = Recorder(copy)
    arguments, values = _requiring_grad(inputs), _requiring_grad(keywords)
    with seeded(torch.initial_seed()), torch.enable_grad():
        recorder.begin((arguments, values))
        with recorder:
            outputs = copy(*arguments, **values)
        recorder.end(outputs)
    return _graph(recorder)


def _requiring_grad(tree: Any) -> Any:
    leaves, rebuild = flatten(tree)
    return rebuild([_fresh(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves])


def _fresh(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex())


def _graph(recorder: Recorder) -> nx.DiGraph:
    """Drop what leads nowhere, and follow the gradient back from the outputs."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from((name, vars(node).copy()) for name, node in recorder.nodes.items())
    graph.add_edges_from((*edge, {"gradient": alive}) for edge, alive in recorder.edges.items())
    outputs = [name for name, status in graph.nodes(data="status") if status == "output"]
    useful = set(outputs).union(*(nx.ancestors(graph, name) for name in outputs))
    graph.remove_nodes_from(
        [name for name, data in graph.nodes(data=True) if data["status"] == "broken" and name not in useful]
    )
    alive = graph.edge_subgraph([edge for edge in graph.edges if graph.edges[edge]["gradient"]])
    reached = set(outputs).union(*(nx.ancestors(alive, name) for name in outputs if name in alive))
    for name, data in graph.nodes(data=True):
        data["reached"] = name in reached
    for _, target, data in graph.edges(data=True):
        data["gradient"] = data["gradient"] and target in reached
    graph.graph["summary"] = _summary(graph)
    return graph


def _summary(graph: nx.DiGraph) -> str:
    nodes = list(graph.nodes(data=True))
    lines = [
        f"broken at {data['label']}: {data['detail']}" for _, data in nodes if data["status"] == "broken"
    ]
    lines += [
        f"{data['status']} at {data['label']}: {data['detail']}"
        for _, data in nodes
        if data["status"] in ("estimated", "bypassed")
    ]
    trained = {data["path"] for _, data in nodes if data["reached"]}
    cut = dict.fromkeys(
        data["path"] for _, data in nodes if data["trainable"] and data["path"] not in trained
    )
    if cut:
        lines.append(f"no gradient of the outputs arrives at: {', '.join(cut)}")
    return "\n".join(lines) or "differentiable throughout"
