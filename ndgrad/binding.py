"""One call of a wrapped function: which leaves are differentiated, which go with rows, which are shared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ndgrad.interface import Interface, is_array, to_interface
from ndgrad.trees import Rebuild, flatten

Key = int | str
ArgNums = Key | Sequence[Key] | None
InDims = int | Sequence[int | None] | dict[Key, int | None] | None


@dataclass
class Leaf:
    """One leaf of an argument; ``role`` is "input" (differentiated), "row" (goes with the rows) or "shared"."""

    value: Any
    role: str = "shared"

    @property
    def is_float(self) -> bool:
        """Whether this is a tensor that could be differentiated."""
        return isinstance(self.value, Tensor) and self.value.is_floating_point()

    @property
    def needs_grad(self) -> bool:
        """Whether this is a floating tensor that requires a gradient."""
        return self.is_float and self.value.requires_grad


@dataclass
class Argument:
    """One positional or keyword argument: its position or None, its name or None, its leaves."""

    position: int | None
    name: str | None
    leaves: list[Leaf]
    rebuild: Rebuild

    def matches(self, key: Key) -> bool:
        """Whether ``key`` names this argument by position or by name."""
        return key == (self.position if isinstance(key, int) else self.name)

    def __str__(self) -> str:
        return repr(self.name) if self.name is not None else f"argument {self.position}"

    @property
    def has_inputs(self) -> bool:
        """Whether any leaf is differentiated."""
        return any(leaf.role == "input" for leaf in self.leaves)


@dataclass
class Call:
    """The arguments of one call, split into what varies with rows and what does not."""

    inputs: tuple[Tensor, ...]  # (B, ...) each; what the estimator differentiates
    num_rows: int  # B
    dtype: torch.dtype
    device: torch.device
    arguments_: list[Argument]

    def arguments(
        self, rows: Sequence[Tensor], span: slice | int, interface: Interface
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Build ``(args, kwargs)`` for one call of the function.

        Args:
            rows: what takes the places of the inputs. Fewer rows than inputs are draws from a distribution that the
                inputs parameterise: they replace the first such argument, the others are left out.
            span: which evaluations these are; evaluation r takes its companions from row r mod B. An integer asks
                for a single point without a leading dimension.
            interface: what the function is handed.

        """
        draws = len(rows) < len(self.inputs)
        queue = [to_interface(row, interface) for row in rows]
        args, kwargs = [], {}
        for argument in self.arguments_:
            if draws and argument.has_inputs:
                if not queue:
                    continue
                value, queue = (queue[0] if len(queue) == 1 else tuple(queue)), []
            else:
                value = argument.rebuild(
                    [self._fill(leaf, queue, span, interface) for leaf in argument.leaves]
                )
            if argument.position is not None:
                args.append(value)
            else:
                kwargs[str(argument.name)] = value
        return tuple(args), kwargs

    def _fill(self, leaf: Leaf, queue: list[Any], span: slice | int, interface: Interface) -> Any:
        if leaf.role == "input":
            return queue.pop(0)
        value = leaf.value
        if leaf.role == "row":
            index = span % self.num_rows if isinstance(span, int) else _modulo(span, self.num_rows)
            value = value[index]
        return to_interface(value.detach() if isinstance(value, Tensor) else value, interface)

    def name_rows(self, start: int, stop: int) -> str:
        """Say which rows of the batch evaluations start..stop belong to."""
        if stop - start != 1:
            return f"rows {start} to {stop - 1} (the batch has {self.num_rows})"
        probe, row = divmod(start, self.num_rows)
        return f"row {row}" + (f" (probe {probe} around it)" if probe else "")

    def hints(self, batched: bool, interface: Interface) -> list[str]:
        """Return what the caller may have meant to type, for the message of a failed call."""
        hints = []
        for argument in self.arguments_:
            leading = [
                leaf.value.shape[:1]
                for leaf in argument.leaves
                if leaf.role == "shared" and is_array(leaf.value)
            ]
            if batched and (self.num_rows,) in map(tuple, leading):
                key = argument.position if argument.name is None else argument.name
                hints.append(
                    f"{argument} has {self.num_rows} rows as the batch has, but is shared by all rows; if row b of it "
                    f"belongs to row b of the input, type in_dims={{{key!r}: 0}}"
                )
        if interface == "torch":
            hints.append(
                "if it expects NumPy arrays, type interface='numpy'; plain numbers and lists, interface='python'"
            )
        if batched:
            hints.append("if it takes one point at a time, type batched=False, vectorize=True")
        return hints


@dataclass(frozen=True)
class BindingRules:
    """How the arguments of every call are to be read (see `ndgrad.wrap`)."""

    parameter_names: tuple[str, ...]
    argnums: tuple[Key, ...] | None
    in_dims: InDims
    batched: bool
    vectorize: bool

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any], wants_constant_inputs: bool) -> Call:
        """Assign every leaf its role and collect the inputs."""
        names = dict(enumerate(self.parameter_names))
        arguments = [_argument(i, names.get(i), value) for i, value in enumerate(args)]
        arguments += [_argument(None, name, value) for name, value in kwargs.items()]
        declared = _declarations(self.in_dims, arguments)
        self._assign_rows(arguments, declared)
        self._assign_inputs(arguments, declared, wants_constant_inputs)
        inputs = [leaf.value for argument in arguments for leaf in argument.leaves if leaf.role == "input"]
        dtype = inputs[0].dtype if inputs else torch.get_default_dtype()
        device = inputs[0].device if inputs else torch.device("cpu")
        _check_devices(arguments, device)
        if not self.batched and not self.vectorize:
            return Call(tuple(x.unsqueeze(0) for x in inputs), 1, dtype, device, arguments)
        return Call(tuple(inputs), _common_rows(arguments), dtype, device, arguments)

    def _assign_rows(self, arguments: list[Argument], declared: list[int | str | None]) -> None:
        for argument, dim in zip(arguments, declared, strict=True):
            for leaf in argument.leaves:
                if dim == 0 and is_array(leaf.value):
                    leaf.role = "row"
        with_arrays = [
            argument for argument in arguments if any(is_array(leaf.value) for leaf in argument.leaves)
        ]
        if self.vectorize and len(with_arrays) > 1 and self.in_dims is None and self.argnums is None:
            listing = ", ".join(map(str, with_arrays))
            example = ", ".join(["0"] + ["None"] * (len(with_arrays) - 1))
            raise ValueError(
                f"vectorize=True takes rows of its arguments apart, and {len(with_arrays)} arguments hold tensors "
                f"({listing}): say which have rows, for example in_dims=({example})"
            )

    def _assign_inputs(
        self, arguments: list[Argument], declared: list[int | str | None], wants_constant_inputs: bool
    ) -> None:
        with_rows = [a for a, dim in zip(arguments, declared, strict=True) if dim != "shared"]
        if self.argnums is None:
            leaves = [leaf for argument in arguments for leaf in argument.leaves]
            candidates = [leaf for leaf in leaves if leaf.needs_grad]
            candidates = candidates or _leaves_of_first(with_rows, lambda leaf: leaf.is_float)
        else:
            chosen = [_find(key, arguments, "argnums") for key in self.argnums]
            candidates = [leaf for argument in chosen for leaf in argument.leaves if leaf.is_float]
        for argument, dim in zip(arguments, declared, strict=True):
            if dim == "shared" and any(
                leaf is candidate for leaf in argument.leaves for candidate in candidates
            ):
                raise ValueError(
                    f"{argument} is to be differentiated, but in_dims declares it shared by all rows; estimators "
                    "differentiate inputs that have rows. Pass it detached, or expand it to rows and type 0"
                )
        active = [leaf for leaf in candidates if leaf.needs_grad]
        for leaf in candidates:
            leaf.role = (
                "input" if leaf.needs_grad or wants_constant_inputs or not active else self._companion_role()
            )
        if not candidates and (self.batched or self.vectorize):  # integers only: they still have rows
            for leaf in _leaves_of_first(with_rows, lambda leaf: is_array(leaf.value)):
                leaf.role = "row"

    def _companion_role(self) -> str:
        return "row" if self.batched or self.vectorize else "shared"


def parameter_names(fn: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names by which ``fn``'s positional arguments can be called; empty where Python does not know."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _argument(position: int | None, name: str | None, value: Any) -> Argument:
    leaves, rebuild = flatten(value)
    return Argument(position, name, [Leaf(_lift(leaf)) for leaf in leaves], rebuild)


def _lift(value: Any) -> Any:
    """Half precision to float32: noise of size sigma would be lost in it, and NumPy has no bfloat16."""
    if not isinstance(value, Tensor):
        return value
    if value.is_meta:
        raise ValueError(
            "a black box cannot run on meta tensors, which hold no values; pass a tensor on a real device"
        )
    if value.is_complex() and value.requires_grad:
        raise TypeError("ndgrad differentiates real inputs; got a complex tensor: pass torch.view_as_real(x)")
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _declarations(in_dims: InDims, arguments: list[Argument]) -> list[int | str | None]:
    """Return for each argument 0 (rows), "shared" (declared so), or None (not declared)."""
    if in_dims is None:
        return [None] * len(arguments)
    if isinstance(in_dims, int):
        return [0] * len(arguments)
    if isinstance(in_dims, dict):
        declared = {id(_find(key, arguments, "in_dims")): dim for key, dim in in_dims.items()}
        return [
            declared[id(a)] if declared.get(id(a), 1) == 0 else "shared" if id(a) in declared else None
            for a in arguments
        ]
    positional = sum(argument.position is not None for argument in arguments)
    if len(in_dims) != positional:
        raise ValueError(
            f"in_dims declares {len(in_dims)} positional arguments, but the call has {positional}: "
            f"{_listing(arguments)}"
        )
    dims: list[int | str | None] = ["shared" if dim is None else dim for dim in in_dims]
    return dims + [None] * (len(arguments) - positional)


def _find(key: Key, arguments: list[Argument], option: str) -> Argument:
    for argument in arguments:
        if argument.matches(key):
            return argument
    raise ValueError(f"{option} names {key!r}, but the call has {_listing(arguments)}")


def _leaves_of_first(arguments: list[Argument], suits: Callable[[Leaf], bool]) -> list[Leaf]:
    """Return the suitable leaves of the first argument that has any; statics may come before it."""
    for argument in arguments:
        if leaves := [leaf for leaf in argument.leaves if suits(leaf)]:
            return leaves
    return []


def _listing(arguments: list[Argument]) -> str:
    return (
        ", ".join(f"{a.position}: {a.name}" if a.position is not None else f"{a.name}=" for a in arguments)
        or "no arguments"
    )


def _check_devices(arguments: list[Argument], device: torch.device) -> None:
    for argument in arguments:
        for leaf in argument.leaves:
            if leaf.role == "input" and leaf.value.device != device:
                raise ValueError(
                    f"all differentiated inputs must be on one device; {argument} is on {leaf.value.device}, the first "
                    f"input on {device}: move it with .to({str(device)!r})"
                )


def _common_rows(arguments: list[Argument]) -> int:
    """Return the batch size B that everything with rows agrees on; 1 where nothing has rows."""
    sizes: list[tuple[str, int]] = []
    for argument in arguments:
        for leaf in argument.leaves:
            if leaf.role != "shared":
                if leaf.value.ndim == 0:
                    raise ValueError(
                        f"{argument} must have rows, that is a leading batch dimension, but is a single number; pass "
                        "x.unsqueeze(0), or type batched=False for a function of one point"
                    )
                sizes.append((str(argument), leaf.value.shape[0]))
    if len({size for _, size in sizes}) > 1:
        listing = ", ".join(f"{name} has {size}" for name, size in sizes)
        raise ValueError(
            f"everything with rows must have the same number of them, but {listing}; inputs that require a gradient "
            "have rows, others only where in_dims or argnums say so"
        )
    return sizes[0][1] if sizes else 1


def _modulo(span: slice, num_rows: int) -> list[int]:
    return [r % num_rows for r in range(span.start, span.stop)]
