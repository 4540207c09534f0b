"""What functions, classes and objects hold: all that tells them apart, one level deep."""

from __future__ import annotations

import copyreg
import dis
import functools
import gc
import sys
import sysconfig
import types
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from ndgrad.interface import closure_contents

Contents = tuple[tuple[str, ...], list[Any]]

_LIBRARIES = ("ndgrad", "numpy", "torch")
_HELD: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__func__", "__self__"),
    functools.partial: ("func", "args", "keywords"),
    type(functools.lru_cache(len)): ("__wrapped__",),
    functools.cached_property: ("func",),
    property: ("fget", "fset", "fdel"),
    classmethod: ("__func__",),
    staticmethod: ("__func__",),
    np.vectorize: ("pyfunc", "otypes", "signature", "excluded"),  # the rest changes with its calls
}
_DESCRIPTORS = (
    types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip


def contents_of(value: Any) -> Contents:
    """Return words for what ``value`` is, and what it holds.

    Raises:
        ValueError: for what has a state that cannot be read, such as a lock or an open file.

    """
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    if isinstance(value, type):
        return _of_class(value)
    if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
        return ("builtin", *names_of(value)), _owner(value)
    if isinstance(value, np.ufunc) and type(value) is np.ufunc:
        return ("ufunc", *names_of(value)), _python_functions(value)
    if isinstance(value, _DESCRIPTORS):
        return ("descriptor", *names_of(value)), [value.__objclass__]
    if isinstance(value, types.MappingProxyType):
        return ("mappingproxy",), [dict(value)]
    held = _held(value)
    if held is not None:
        return ("holder",), [type(value), *(getattr(value, name, None) for name in held)]
    return ("object",), [type(value), *_state(value)]


def names_of(value: Any) -> tuple[str, str]:
    """Return the module and the name of a function or class."""
    module = getattr(value, "__module__", None)
    return module if isinstance(module, str) else "", getattr(value, "__qualname__", value.__name__)


def cannot_tell(value: Any, error: Exception) -> ValueError:
    """Return the error for what cannot be told apart."""
    return ValueError(
        f"the cache must tell functions and arguments apart by what they hold, but a {type(value).__qualname__} cannot "
        f"be pickled ({error}); name what it is yourself: cache_key='...', and change it when the function changes"
    )


def _of_function(fn: types.FunctionType) -> Contents:
    if fn.__globals__ is vars(functools) and "registry" in vars(fn):  # singledispatch, which has caches too
        return ("dispatcher", *names_of(fn)), [vars(fn)["registry"]]
    holds = {
        "defaults": fn.__defaults__,
        "keyword defaults": fn.__kwdefaults__,
        "closure": tuple(closure_contents(fn)),
        "attributes": vars(fn),
    }
    holds = {name: value for name, value in holds.items() if value} | _globals(fn)
    return ("function", *names_of(fn), *holds), [fn.__code__, *holds.values()]


def _globals(fn: types.FunctionType) -> dict[str, Any]:
    """Return what a function names of its module; of what another module defines the name there."""
    module = str(fn.__globals__.get("__name__"))
    if _is_installed(module):
        return {}
    named = [(name, fn.__globals__[name]) for name in _global_names(fn.__code__) if name in fn.__globals__]
    return {f"global {name}": names_of(at) if _is_elsewhere(at, module) else at for name, at in named}


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    names = {each.argval for each in dis.get_instructions(code) if each.opname.startswith(loads)}
    inner = [_global_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return tuple(sorted(names.union(*inner)))


def _is_elsewhere(value: Any, module: str) -> bool:
    """Whether another module defines this function or class under its own name."""
    if not isinstance(value, types.FunctionType | type) or value.__module__ == module:
        return False
    try:
        return attrgetter(value.__qualname__)(sys.modules[value.__module__]) is value
    except (KeyError, AttributeError):
        return False


def _of_class(cls: type) -> Contents:
    """Open a class: the names of all classes above, and what the user wrote into them."""
    words = ("class", *names_of(cls))
    if _is_installed(names_of(cls)[0]):
        return words, []
    own = [base for base in cls.__mro__ if not _is_installed(names_of(base)[0])]
    written = [item for base in own for item in sorted(vars(base).items()) if _is_written(*item)]
    above = [name for base in cls.__mro__ for name in names_of(base)]
    return (*words, *above, *(name for name, _ in written)), [type(cls), *(value for _, value in written)]


def _is_written(name: str, value: Any) -> bool:
    """Whether an attribute of a class is its author's, not Python's book-keeping."""
    if name.startswith("__") and name.endswith("__"):
        return callable(value) or isinstance(value, classmethod | property)
    return name != "_abc_impl"


@functools.lru_cache(maxsize=1024)
def _is_installed(name: str) -> bool:
    """Whether a module is Python's, or an installed package's."""
    top = name.partition(".")[0]
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return top in _LIBRARIES or top in sys.stdlib_module_names
    path = Path(file)
    installed = {"site-packages", "dist-packages"}.intersection(path.parts)
    return top in _LIBRARIES or bool(installed) or path.is_relative_to(sysconfig.get_path("stdlib"))


def _owner(builtin: Any) -> list[Any]:
    owner = getattr(builtin, "__self__", None)
    return [] if type(owner).__name__ == "PyCapsule" else [owner]  # which pybind11 has there


def _python_functions(ufunc: np.ufunc) -> list[Any]:
    """Return the function of `np.frompyfunc`, which has no name for it."""
    return [held for held in gc.get_referents(ufunc) if callable(held)]


def _held(value: Any) -> tuple[str, ...] | None:
    for kind in type(value).__mro__:
        if kind in _HELD:
            return _HELD[kind]
    by_numba = _is_installed(names_of(type(value))[0]) and "py_func" in getattr(value, "__dict__", ())
    return ("py_func", "targetoptions") if by_numba else None


def _state(value: Any) -> list[Any]:
    """Return what `pickle` would build ``value`` from, without asking that the parts can be pickled themselves."""
    reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
    try:
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return [reduced]
        how, args, *rest = reduced
        if how is copyreg.__newobj__ and len(args) == 1 and rest[1:] == [None, None]:  # type: ignore[attr-defined]
            return rest[:1]  # of the object that a class makes without arguments
        state, items, pairs, *setter = (*rest, None, None, None)[: max(3, len(rest))]
        return [how, args, state, list(items or ()), list(pairs or ()), *setter]
    except Exception as error:
        raise cannot_tell(value, error) from error
