"""What tells one function from another, and one argument from another: bytes that are equal where they are."""

from __future__ import annotations

import functools
import hashlib
import types
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ndgrad.execution.contents import cannot_tell, contents_of, names_of

_PLAIN = frozenset((int, float, complex, str, bytes, bool, type(None)))  # whose repr tells all


def function_identity(fn: Callable[..., Any]) -> bytes:
    """Return bytes that change with a function's name, its code, and everything that it holds.

    For a Python function: module, qualified name, byte code, defaults, attributes, the contents of its closure, and
    what it names of its own module; functions and classes that another module defines count by name only. For an
    object: its class, with the methods and attributes of all user-written classes above it, and its state. Installed
    packages count by name only. The bytes are the same in another process.

    Raises:
        ValueError: for what cannot be told apart, such as a lock or an open file.

    """
    return value_identity(fn)


def value_identity(value: Any) -> bytes:
    """Return bytes that are equal for equal values: of a tensor or array its dtype, shape and memory.

    Containers differ by type and keys too.

    Raises:
        ValueError: for what cannot be told apart, such as a lock or an open file.

    Example:
        >>> value_identity({1: 5.0, 2: 1.0}) == value_identity({2: 5.0, 1: 1.0})
        False
        >>> value_identity({"b", "a"}) == value_identity({"a", "b"})
        True

    """
    return _describe(value)


def _describe(value: Any, in_order: bool = False) -> bytes:
    """Describe all that is reached from ``value``, which may be deep and may hold itself.

    Args:
        value: what to describe.
        in_order: only to give the elements of sets an order, where classes and sets inside need not be opened.

    """
    parts: list[bytes] = []
    seen: dict[int, tuple[int, Any]] = {}  # with the object, whose id would be another's once it is gone
    todo = [value]
    while todo:
        value = todo.pop()
        leaf = _leaf(value)
        if leaf is not None:
            parts += leaf
            continue
        if id(value) in seen:
            parts.append(_words("again", str(seen[id(value)][0])))
            continue
        if not isinstance(value, tuple | frozenset):  # of which equal ones may be one object or two
            seen[id(value)] = len(seen), value
        words, children = _open(value, in_order)
        parts.append(_words(*words, str(len(children))))
        todo += reversed(children)
    return b"".join([len(part).to_bytes(8, "little") + part for part in parts])


def _open(value: Any, in_order: bool) -> tuple[tuple[str, ...], Sequence[Any]]:
    kind = type(value)
    if kind in (tuple, list):
        return (kind.__name__,), value
    if kind in (dict, OrderedDict):
        if _PLAIN.issuperset(map(type, value)):
            return (kind.__name__, *map(repr, value)), list(value.values())
        return (kind.__name__, "keys"), [item for pair in value.items() for item in pair]
    if isinstance(value, set | frozenset):
        return ("set",), [kind, *(_plain_members(value) if in_order else sorted(value, key=_place))]
    if isinstance(value, np.ndarray) and kind is np.ndarray:  # of objects: others are leaves
        return ("array", repr(value.dtype), str(value.shape)), value.ravel().tolist()
    if isinstance(value, type) and in_order:
        return ("class", *names_of(value)), ()
    return contents_of(value)


def _place(element: Any) -> bytes:
    return _describe(element, in_order=True)


def _plain_members(value: set[Any] | frozenset[Any]) -> list[str]:
    return sorted(repr(element) for element in value if type(element) in _PLAIN)


def _leaf(value: Any) -> list[bytes] | None:
    """Describe what holds nothing else; None for what does."""
    kind = type(value)
    if kind in _PLAIN or (kind in (tuple, list) and _PLAIN.issuperset(map(type, value))):
        return [_words("plain", repr(value))]
    if kind is np.ndarray or isinstance(value, np.generic):
        return None if value.dtype.hasobject else _array(value, "array" if kind is np.ndarray else "scalar")
    if isinstance(value, torch.Tensor):
        what = (str(value.dtype), str(value.layout), str(tuple(value.shape)))
        return [_words("tensor", *what), _memory(value)]
    if isinstance(value, types.ModuleType):
        return [_words("module", value.__name__)]
    if isinstance(value, types.CodeType):
        return [_code(value)]
    return None


def _array(value: Any, kind: str) -> list[bytes]:
    dtype = value.dtype.str if value.dtype.names is None else repr(value.dtype)
    return [_words(kind, dtype, str(value.shape)), value.tobytes()]


def _memory(tensor: torch.Tensor) -> bytes:
    try:
        return _by_numpy(tensor)
    except (RuntimeError, TypeError, ValueError) as error:  # on no device, for one
        raise cannot_tell(tensor, error) from error


def _by_numpy(tensor: torch.Tensor) -> bytes:
    try:
        return tensor.numpy(force=True).tobytes()
    except TypeError:  # sparse, or of a dtype that NumPy does not know
        return tensor.detach().cpu().to_dense().reshape(-1).view(torch.uint8).numpy().tobytes()


@functools.lru_cache(maxsize=1024)
def _code(code: types.CodeType) -> bytes:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    described = _describe((counts, names, code.co_code, code.co_exceptiontable, code.co_consts))
    return b"code" + hashlib.sha256(described).digest()


def _words(*words: str) -> bytes:
    return "\0".join(words).encode()
