"""Which module made which tensor, recorded while a model runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from ndgrad.estimator import Estimator
from ndgrad.estimators import DiffBypass
from ndgrad.trees import flatten
from ndgrad.wrap import BlackBox

# they take the shape of a tensor and nothing of its values
_SHAPE_ONLY = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
               "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "size")  # fmt: skip
_EXITS = ("numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__", "__index__")

Sources = dict[str, bool]


@dataclass
class Node:
    """One call of a module, one operation, an input or an output."""

    label: str
    type: str
    status: str
    detail: str = ""
    path: str = ""  # of the module, the same for each of its calls; empty for anything else
    trainable: bool = False


@dataclass
class Given:
    """The tensors that a module or operation takes, as they were before it: it may change them in place."""

    tensors: list[Tensor]
    edges: list[GradientEdge | None]  # None where no gradient is asked for
    sources: list[Sources]
    versions: list[int]


class Recorder(TorchFunctionMode):
    """Watches the modules and torch functions of one forward pass.

    A tensor's sources are the nodes that it was last made by, each with whether a gradient of the tensor comes back to
    it; functions that let the gradient through hand them on. Values that leave torch (``numpy()``, ``item()``) are
    assumed to be in every unknown tensor that is met later.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.nodes: dict[str, Node] = {}
        self.edges: dict[tuple[str, str], bool] = {}  # -> whether a gradient passes
        own = _own_tensors(model)
        # for each tensor also whether it required a gradient when it was recorded
        self._sources: dict[int, tuple[Sources, bool]] = {id(p): ({}, p.requires_grad) for p in own}
        self._alive: list[Tensor] = []  # so that no id is given twice
        self._left: Sources = {}  # of the values that left torch
        self._opaque = 0  # depth inside modules that are one node
        self._made_by: dict[
            Any, Sources
        ] = {}  # the same by autograd's node, for functions that torch does not show
        self._open: list[tuple[int, Given]] = []  # nodes made before each open module, and what it was given
        self._quiet = False
        for path, module in model.named_modules():
            name = path or type(model).__name__
            single = isinstance(module, BlackBox | Estimator) or not any(True for _ in module.children())
            module.register_forward_pre_hook(self._on_enter(single), with_kwargs=True)
            module.register_forward_hook(self._on_leave(name, single), with_kwargs=True)

    def begin(self, arguments: Any) -> None:
        """Make a node of every input tensor."""
        tensors = _tensors(arguments)
        for index, x in enumerate(tensors):
            name = "input" if len(tensors) == 1 else f"input {index}"
            self.nodes[name] = Node(name, f"{tuple(x.shape)}", "input")
            self._remember(x, {name: True})

    def end(self, outputs: Any) -> None:
        """Make a node of every output tensor."""
        tensors = _tensors(outputs)
        for index, y in enumerate(tensors):
            name = "output" if len(tensors) == 1 else f"output {index}"
            self.nodes[name] = Node(name, f"{tuple(y.shape)}", "output")
            self._connect([self._sources_of(y)], [y.requires_grad], name)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hand the sources of the arguments on to the result, or make a node where the gradient stops."""
        name, values = _name(func), kwargs or {}
        if self._quiet or self._opaque or name in _SHAPE_ONLY:
            return func(*args, **values)
        given = self._take((args, values))
        result = func(*args, **values)
        made = _tensors(result)
        if name in _EXITS and given.tensors:
            made = [given.tensors[0].detach()]
        self._record_operation(name, given, made)
        if name in _EXITS and made:
            self._left |= dict.fromkeys(self._sources_of(made[0]), False)
        return result

    def _record_operation(self, name: str, given: Given, made: list[Tensor]) -> None:
        passes, why = _passes(given, made)
        sources: Sources = {} if given.tensors else dict(self._left)
        if why:
            key = self._add(name.strip("_"), Node(name, "operation", "broken", why))
            self._connect(given.sources, passes, key)
            sources[key] = False
        else:
            for own, comes_back in zip(given.sources, passes, strict=True):
                for source, alive in own.items():
                    sources[source] = sources.get(source, False) or (alive and comes_back)
        for y in made:
            self._remember(y, sources)

    def _on_enter(self, single: bool) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self._open.append((len(self.nodes), self._take((args, kwargs))))
            self._opaque += single

        return enter

    def _on_leave(self, name: str, single: bool) -> Callable[..., Any]:
        def leave(module: nn.Module, args: Any, kwargs: dict[str, Any], result: Any) -> Any:
            nodes_before, given = self._open.pop()
            self._opaque -= single
            # a container none of whose parts made a node computes by itself
            if self._opaque or not (single or len(self.nodes) == nodes_before):
                return result
            self._quiet = True
            try:
                return self._record_module(name, module, given, result)
            finally:
                self._quiet = False

        return leave

    def _record_module(self, name: str, module: nn.Module, given: Given, result: Any) -> Any:
        leaves, rebuild = flatten(result)
        # what a module passes on unchanged becomes a tensor of its own, so that it is seen as made here
        leaves = [y.view_as(y) if _is_among(y, given.tensors) else y for y in leaves]
        made = [y for y in leaves if isinstance(y, Tensor)]
        estimator = module.estimator if isinstance(module, BlackBox) else module
        trainable = any(p.requires_grad for p in module.parameters())
        node = Node(name, type(module).__name__, "differentiable", path=name, trainable=trainable)
        if isinstance(estimator, Estimator):
            passes, why = [edge is not None for edge in given.edges], ""
            node.status = "bypassed" if isinstance(estimator, DiffBypass) else "estimated"
            node.detail = repr(estimator)
        else:
            passes, why = _passes(given, made)
        if why:
            node.status, node.detail = "broken", why
        key = self._add(name, node)
        self._connect(given.sources, passes, key)
        changed = [
            x for x, version in zip(given.tensors, given.versions, strict=True) if x._version != version
        ]
        for y in [*made, *changed]:
            self._remember(y, {key: y.requires_grad})
        return rebuild(leaves)

    def _take(self, tree: Any) -> Given:
        tensors = _tensors(tree)
        edges = [get_gradient_edge(x) if x.requires_grad else None for x in tensors]
        return Given(tensors, edges, [self._sources_of(x) for x in tensors], [x._version for x in tensors])

    def _add(self, name: str, node: Node) -> str:
        """Add a node under a name of its own: ``layer``, ``layer (2)``, ..."""
        key, calls = name, 1
        while key in self.nodes:
            calls += 1
            key = f"{name} ({calls})"
        node.label = key
        self.nodes[key] = node
        return key

    def _connect(self, sources: list[Sources], passes: list[bool], target: str) -> None:
        for own, comes_back in zip(sources, passes, strict=True):
            for source, alive in own.items():
                self.edges[source, target] = self.edges.get((source, target), False) or (alive and comes_back)

    def _remember(self, tensor: Tensor, sources: Sources) -> None:
        self._alive.append(tensor)
        self._sources[id(tensor)] = sources, tensor.requires_grad
        if tensor.requires_grad:
            self._made_by[get_gradient_edge(tensor).node] = sources

    def _sources_of(self, tensor: Tensor) -> Sources:
        """Look a tensor up; one made by an autograd Function has the sources that its graph leads to.

        Operations inside such a function are seen, without gradients, but not that its result has one.
        """
        known, required_grad = self._sources.get(id(tensor), (None, False))
        if known is not None and required_grad == tensor.requires_grad:
            return known
        found: Sources = {}
        pending, seen = ([get_gradient_edge(tensor).node] if tensor.requires_grad else []), set()
        while pending:
            node = pending.pop()
            if node in self._made_by:
                found |= self._made_by[node]
            elif node not in seen:
                seen.add(node)
                pending += [before for before, _ in node.next_functions if before is not None]
        return found or known or self._left


def _passes(given: Given, made: list[Tensor]) -> tuple[list[bool], str]:
    """Say for each tensor given whether a gradient comes back to it, and why none does where one should."""
    asking = [edge for edge in given.edges if edge is not None]
    none = [False] * len(given.edges)
    if not asking or not made:
        return none, ""
    live = [y for y in made if y.requires_grad]
    if not live:
        return none, _why_detached(made)
    cotangents = [torch.rand_like(y) + 0.5 for y in live]
    try:
        grads = iter(torch.autograd.grad(live, asking, cotangents, retain_graph=True, allow_unused=True))
    except RuntimeError as error:
        return none, f"its backward pass raises: {str(error).splitlines()[0]}"
    arrived = [None if edge is None else next(grads) for edge in given.edges]
    if all(g is None for g in arrived):
        return none, "its output does not depend on its input differentiably"
    if not any(g is not None and bool(g.any()) for g in arrived):
        return none, "its gradient is 0 at this input"
    return [g is not None for g in arrived], ""


def _why_detached(made: list[Tensor]) -> str:
    if not torch.is_grad_enabled():
        return "it runs under torch.no_grad()"
    if any(not (y.is_floating_point() or y.is_complex()) for y in made):
        return f"its output is {str(made[0].dtype).removeprefix('torch.')}, which has no gradient"
    return "its output is detached from its input"


def _own_tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _tensors(tree: Any) -> list[Tensor]:
    leaves, _ = flatten(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _is_among(leaf: Any, tensors: list[Tensor]) -> bool:
    return any(leaf is x for x in tensors)


def _name(func: Any) -> str:
    """Name a torch function; of a property, its own name rather than ``__get__``."""
    name = getattr(func, "__name__", str(func))
    return str(func.__self__.__name__) if name == "__get__" else str(name)
