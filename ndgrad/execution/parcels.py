"""What is sent to a worker process, and how its answer is read: the parent's side of `ndgrad.execution.worker`."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndgrad.call import Hand
from ndgrad.errors import ExecutorError
from ndgrad.execution.worker import Slot
from ndgrad.trees import flatten

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Raised:
    """An exception of the function, and where it was raised, as text, if that was in another process."""

    error: BaseException
    traceback: str | None = None


@dataclass(frozen=True)
class Parcel:
    """The arguments of `ndgrad.execution.worker.run` for one task."""

    digest: str
    blob: bytes
    values: list[Any]


class RemoteError(RuntimeError):
    """Stands for an exception of a worker process that cannot be unpickled here."""


class Courier:
    """Packs tasks of one evaluation.

    What all of its tasks have in common (the function, arguments that all rows share) is pickled once.

    Args:
        fn: the function.
        interface: what it is handed.
        arguments: given a `Hand` and the rows of a task, builds the arguments of ``fn``.

    """

    def __init__(
        self, fn: Callable[..., Any], interface: str, arguments: Callable[[Any, Hand], Arguments]
    ) -> None:
        self._fn, self._interface, self._arguments = fn, interface, arguments
        self._common: tuple[str, bytes] | None = None

    def pack(self, index: Any) -> Parcel:
        """Return what a worker needs to evaluate rows ``index``."""
        packing = Packing()
        template = self._arguments(index, packing.take)
        if self._common is None:
            template = packing.place_shared(template)
            self._common = self._pickle(
                (self._fn, template, Slot, packing.shared, self._interface, default_dtype())
            )
        digest, blob = self._common
        return Parcel(digest, blob, packing.values)

    def _pickle(self, contents: Any) -> tuple[str, bytes]:
        name = getattr(self._fn, "__qualname__", None) or type(self._fn).__qualname__
        try:
            blob = _pickler().dumps(contents)
        except Exception as error:
            remedy = (
                "keep locks, files and connections out of it (open them inside the function), or use threads, which "
                "carry nothing: executor=concurrent.futures.ThreadPoolExecutor(...)"
                if importlib.util.find_spec("cloudpickle")
                else "lambdas and closures need cloudpickle: pip install 'ndgrad[parallel]'"
            )
            raise ExecutorError(
                f"the wrapped function {name} and its shared arguments must be pickled to reach another process, but "
                f"{type(error).__name__}: {error}; {remedy}"
            ) from error
        return hashlib.sha256(blob).hexdigest(), blob


class Packing:
    """Takes the leaves out of arguments and leaves slots behind: first those with rows, then the shared ones."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.shared: list[Any] = []

    def take(self, value: Any, is_shared: bool) -> Any:
        """Be the `Hand` of `Courier`."""
        is_tensor = isinstance(value, Tensor)
        if is_shared and not is_tensor:
            return value
        into = self.shared if is_shared else self.values
        into.append(as_array(value) if is_tensor or isinstance(value, np.ndarray) else value)
        return Slot(-len(self.shared) if is_shared else len(self.values) - 1, is_tensor)

    def place_shared(self, template: Any) -> Any:
        """Give the slots of shared leaves, which come last, their places, now that these are known."""
        leaves, rebuild = flatten(template)
        for leaf in leaves:
            if isinstance(leaf, Slot) and leaf.index < 0:
                leaf.index = len(self.values) - 1 - leaf.index
        return rebuild(leaves)


def default_dtype() -> str:
    """Name the dtype that torch gives to numbers without one, here and so in the workers."""
    return str(torch.get_default_dtype()).removeprefix("torch.")


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """Copy a tensor or array to a contiguous array."""
    return np.array(value.numpy(force=True) if isinstance(value, Tensor) else value, order="C")


def unpack(answer: tuple[Any, ...]) -> Any:
    """Return what the function returned, with its tensors, or `Raised`."""
    kind, *rest = answer
    if kind == "raised":
        content, description, traceback = rest
        return Raised(_error(content, description), traceback)
    tree, dtypes = rest
    leaves, rebuild = flatten(tree)
    for i, name in dtypes.items():
        leaves[i] = torch.from_numpy(as_array(leaves[i])).to(
            getattr(torch, name)
        )  # a copy: Dask's are read-only
    return rebuild(leaves)


def _error(content: bytes | None, description: str) -> BaseException:
    try:
        if content is not None:
            error: BaseException = pickle.loads(content)  # from a worker, which is trusted with the work
            return error
    except Exception:  # whatever it was, its description says more than why it cannot be read
        pass
    return RemoteError(description)


def _pickler() -> Any:
    try:
        import cloudpickle
    except ImportError:  # it comes with the extras
        return pickle
    return cloudpickle
