"""What the wrapped function is handed: tensors, NumPy arrays, or plain Python numbers and lists."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch

Interface = Literal["torch", "numpy", "python"]
_NUMPY_FAMILY = ("numpy", "scipy", "networkx", "pandas", "sklearn", "numba")


def resolve_interface(fn: Callable[..., Any], interface: str) -> Interface:
    """Return the interface asked for; ``"auto"`` reads it off the names that ``fn``'s own code refers to.

    ``"auto"`` is NumPy for a function whose code refers to a module or object of the NumPy family and to none of
    torch, and torch otherwise. Trying tensors first and arrays on failure would be worse than this: methods such as
    ``x.std()`` exist on both and mean different things.
    """
    choices = (*get_args(Interface), "auto")
    if interface not in choices:
        raise ValueError(f"interface must be one of {', '.join(map(repr, choices))}, got {interface!r}")
    if interface != "auto":
        return interface  # type: ignore[return-value]
    families = _families(fn)
    return "numpy" if "torch" not in families and families.intersection(_NUMPY_FAMILY) else "torch"


def to_interface(value: Any, interface: Interface) -> Any:
    """Convert one tensor leaf for the function; other leaves pass unchanged."""
    if not isinstance(value, torch.Tensor) or interface == "torch":
        return value
    array = value.numpy(force=True)
    return array if interface == "numpy" else array.tolist()


def _families(fn: Callable[..., Any]) -> set[str]:
    """Top-level packages of everything that ``fn``'s code names, its own module's package included."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, torch.nn.Module):
        return {"torch"}
    has_code = hasattr(fn, "__code__") or hasattr(fn, "__func__")
    function = fn if has_code else type(fn).__call__  # an object with __call__
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):  # a builtin, or a ufunc
        return {_package(fn), _package(type(fn))}
    names = code_names(function.__code__)
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    found += closure_contents(function)
    packages = {package for item in found for package in (_package(item), _package(type(item)))}
    return packages | _imports(function.__code__) | {_package(function)}


def code_names(code: types.CodeType) -> set[str]:
    """Return the globals and attributes that a function's code names, those of functions inside it included."""
    return set(code.co_names).union(*(code_names(inner) for inner in _nested(code)))


def closure_contents(function: types.FunctionType) -> list[Any]:
    """Return what a function holds of the functions around it, as far as these have assigned it yet."""
    return [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]


def _imports(code: types.CodeType) -> set[str]:
    """Top-level packages that the code imports while it runs."""
    own = {i.argval.split(".")[0] for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"}
    return own.union(*(_imports(inner) for inner in _nested(code)))


def _nested(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _package(item: Any) -> str:
    name = item.__name__ if isinstance(item, types.ModuleType) else getattr(item, "__module__", None) or ""
    return str(name).split(".")[0]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def is_array(value: Any) -> bool:
    """Whether ``value`` is a tensor or NumPy array, the leaves that can have rows."""
    return isinstance(value, torch.Tensor | np.ndarray)
