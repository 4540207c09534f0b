"""The arguments of a call, taken apart into leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ndgrad.transforms import has_tangent, requires_gradient
from ndgrad.trees import Rebuild, flatten

Key = int | str


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
        """Whether this is a floating tensor that a derivative may be asked for, in either mode."""
        return self.is_float and (requires_gradient(self.value) or has_tangent(self.value))


@dataclass
class Argument:
    """One positional or keyword argument: its position or None, its name or None, its leaves."""

    position: int | None
    name: str | None
    leaves: list[Leaf]
    rebuild: Rebuild
    is_parameter: bool = False  # of the module, not passed by the caller

    def matches(self, key: Key) -> bool:
        """Whether ``key`` names this argument by position or by name."""
        return key == (self.position if isinstance(key, int) else self.name)

    @property
    def key(self) -> Key:
        """The name of this argument, or where it has none its position."""
        return str(self.name) if self.position is None or self.name is not None else self.position

    def __str__(self) -> str:
        named = repr(self.name) if self.name is not None else f"argument {self.position}"
        return f"parameter {named}" if self.is_parameter else named

    @property
    def has_inputs(self) -> bool:
        """Whether any leaf is differentiated."""
        return any(leaf.role == "input" for leaf in self.leaves)


def parameter_names(fn: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of ``fn``'s positional arguments, and of those that only a keyword can pass.

    Both in the order of the signature; empty where Python does not know it.
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return (), ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return (
        tuple(p.name for p in parameters if p.kind in positional),
        tuple(p.name for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY),
    )


def read_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], keywords: tuple[str, ...] = ()
) -> list[Argument]:
    """Take all arguments apart, in the order of the signature; those that it does not have come last, as passed.

    Args:
        args: the positional ones.
        kwargs: the others; which is passed first must not decide which input comes first.
        names: of the positional ones, as far as they are known.
        keywords: names of those that only a keyword can pass.

    """
    known = dict(enumerate(names))
    positional = [_argument(i, known.get(i), value) for i, value in enumerate(args)]
    places = {name: place for place, name in enumerate((*names, *keywords))}
    in_order = sorted(kwargs.items(), key=lambda item: places.get(item[0], len(places)))
    return positional + [_argument(None, name, value) for name, value in in_order]


def find_argument(key: Key, arguments: list[Argument], option: str) -> Argument:
    """Return the argument that ``option`` names by position or name."""
    for argument in arguments:
        if argument.matches(key):
            return argument
    raise ValueError(f"{option} names {key!r}, but the call has {list_arguments(arguments)}")


def list_arguments(arguments: list[Argument]) -> str:
    """Name all arguments, for a message."""
    return (
        ", ".join(f"{a.position}: {a.name}" if a.position is not None else f"{a.name}=" for a in arguments)
        or "no arguments"
    )


def _argument(position: int | None, name: str | None, value: Any) -> Argument:
    leaves, rebuild = flatten(value)
    return Argument(position, name, [Leaf(lift(leaf)) for leaf in leaves], rebuild)


def lift(value: Any) -> Any:
    """Widen half precision to float32: noise of size sigma would be lost in it, and NumPy has no bfloat16."""
    if not isinstance(value, Tensor):
        return value
    if value.is_meta:
        raise ValueError(
            "a black box cannot run on meta tensors, which hold no values; pass a tensor on a real device"
        )
    if value.is_complex() and value.requires_grad:
        raise TypeError("ndgrad differentiates real inputs; got a complex tensor: pass torch.view_as_real(x)")
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
