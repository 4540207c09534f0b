"""What tells one function from another, and one argument from another: bytes that are equal where they are."""

from __future__ import annotations

import functools
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ndgrad.interface import closure_contents, code_names

_PLAIN = (int, float, complex, str, bytes, bool, type(None))
_CONSTANTS = (*_PLAIN, tuple, list, dict, np.ndarray, torch.Tensor, torch.nn.Module)


def function_identity(fn: Callable[..., Any]) -> bytes:
    """Return bytes that change with a function's name, its code, and everything that it holds.

    For a Python function: module, qualified name, byte code, defaults, the contents of its closure, and the functions
    and constants (numbers, text, arrays, networks, containers) of its own module that it names. For other objects:
    class and pickle.
    """
    return b"".join(_parts(fn, set()))


def value_identity(value: Any) -> bytes:
    """Return bytes that are equal for equal values: of a tensor or array its dtype, shape and memory."""
    return b"".join(_parts(value, set()))


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
        value = value.resolve_conj().resolve_neg().numpy()
    if isinstance(value, _PLAIN):
        yield _tag("plain", type(value).__name__, repr(value))
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield _tag("array", value.dtype.str, str(value.shape))
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, types.ModuleType):
        yield _tag("module", value.__name__)
    elif id(value) in seen:  # it holds itself, as a recursive function does
        yield _tag("again")
    else:
        yield from _compound(value, seen | {id(value)})


def _compound(value: Any, seen: set[int]) -> Iterator[bytes]:
    if isinstance(value, types.FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, functools.partial):
        yield from _all("partial", (value.func, *value.args, *sorted(value.keywords.items())), seen)
    elif isinstance(value, types.MethodType):
        yield from _all("method", (value.__func__, value.__self__), seen)
    elif isinstance(value, tuple | list):
        yield from _all(type(value).__name__, value, seen)
    elif isinstance(value, dict):
        yield from _all("dict", [item for pair in value.items() for item in pair], seen)
    elif isinstance(value, types.BuiltinFunctionType | np.ufunc | type):
        yield _tag(
            "named", getattr(value, "__module__", None) or "", getattr(value, "__qualname__", value.__name__)
        )
    else:
        yield from _object(value, seen)


def _function(fn: types.FunctionType, seen: set[int]) -> Iterator[bytes]:
    yield _tag("function", fn.__module__ or "", fn.__qualname__)
    yield from _code(fn.__code__)
    yield from _all("holds", [fn.__defaults__, fn.__kwdefaults__, *closure_contents(fn)], seen)
    for name in sorted(code_names(fn.__code__) & fn.__globals__.keys()):
        value = fn.__globals__[name]
        own = isinstance(value, types.FunctionType) and value.__module__ == fn.__module__
        if own or isinstance(value, _CONSTANTS):
            yield from _all(name, [value], seen)


def _code(code: types.CodeType) -> Iterator[bytes]:
    yield _tag("code", *code.co_names, *code.co_varnames)
    yield code.co_code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode()


def _object(value: Any, seen: set[int]) -> Iterator[bytes]:
    cls = type(value)
    yield _tag("object", cls.__module__, cls.__qualname__)
    if isinstance(value, torch.nn.Module):
        yield from _all("state", sorted(value.state_dict().items()), seen)
        yield from _all("training", [value.training], seen)
    call = cls.__dict__.get("__call__") or cls.__dict__.get("forward")
    if isinstance(call, types.FunctionType):
        yield from _function(call, seen)
    try:
        yield pickle.dumps(value, protocol=4)
    except Exception as error:
        raise ValueError(
            f"the cache must tell functions and arguments apart by what they hold, but a {cls.__qualname__} cannot be "
            f"pickled ({error}); name what it is yourself: cache_key='...', and change it when the function changes"
        ) from error


def _all(name: str, values: Any, seen: set[int]) -> Iterator[bytes]:
    values = list(values)
    yield _tag(name, str(len(values)))
    for value in values:
        yield from _parts(value, seen)


def _tag(*words: str) -> bytes:
    return ("\0".join(words) + "\1").encode()
