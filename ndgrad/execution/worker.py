"""What a worker process runs: rows in, values out.

Worker processes of our own get this code by value (`ndgrad.execution.loky_pool`), and it names nothing of ndgrad but
`ndgrad.trees`, nothing of torch: a worker imports torch only if the wrapped function does, and so begins in a
fraction of a second. For the same reason what travels is made of builtins and NumPy arrays.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from ndgrad.trees import flatten


class Slot:
    """Stands in a template of arguments for value ``index``; a tensor has travelled as an array."""

    def __init__(self, index: int, is_tensor: bool) -> None:
        self.index = index
        self.is_tensor = is_tensor


def run(digest: str, blob: bytes | None, values: list[Any]) -> tuple[Any, ...]:
    """Call the function on the rows of one task.

    Args:
        digest: names ``blob``, which this process may have had before.
        blob: pickle of the function, a template of its arguments, the class of its slots (which is not this module's
            where one of the two travelled by value), the values that all rows share, the interface, and torch's
            default dtype.
        values: what goes into the template's slots before the shared ones.

    Returns:
        ``("returned", tree, dtypes)`` with arrays in place of the tensors, whose dtypes are named by leaf;
        ``("raised", pickle of the error or None, its description, its traceback)``; or ``("unknown",)`` where this
        process has not had the blob.

    """
    contents = _contents(digest, blob)
    if contents is None:
        return ("unknown",)
    fn, template, slot, shared, interface, dtype = contents
    args, kwargs = _fill(template, slot, [*values, *shared], interface)
    try:
        with _as_in_the_caller(dtype):
            returned = fn(*args, **kwargs)
    except (Exception, SystemExit) as error:
        return "raised", _pickled(error), f"{type(error).__name__}: {error}", traceback.format_exc()
    return "returned", *_without_tensors(returned)


def install(digest: str, blob: bytes) -> None:
    """Unpickle the blob ahead of `run`, with all the imports that takes: an evaluation's time begins after it."""
    *_, interface, dtype = _contents(digest, blob) or ()
    if interface == "torch" or dtype != "float32":
        import torch  # noqa: F401


def prepare(parent: int) -> None:
    """Begin a worker process of our own: it ignores Ctrl-C, which its parent answers, and ends with that parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _contents(digest: str, blob: bytes | None) -> tuple[Any, ...] | None:
    # kept in a module made here: code that travels by value has new globals each time
    store = sys.modules.setdefault("_ndgrad_worker", types.ModuleType("_ndgrad_worker")).__dict__
    kept: dict[str, tuple[Any, ...]] = store.setdefault("kept", {})
    contents = kept.get(digest)
    if contents is None and blob is not None:
        contents = pickle.loads(blob)  # from the process that began this one
        while len(kept) >= 4:
            kept.pop(next(iter(kept)), None)
        kept[digest] = contents
    return contents


def _fill(template: Any, slot: type[Slot], values: list[Any], interface: str) -> Any:
    leaves, rebuild = flatten(template)
    return rebuild([_value(leaf, values, interface) if isinstance(leaf, slot) else leaf for leaf in leaves])


def _value(slot: Slot, values: list[Any], interface: str) -> Any:
    value = values[slot.index]
    if (
        isinstance(value, np.ndarray) and not value.flags.writeable
    ):  # as Dask unpickles; the function may change it
        value = value.copy()
    if not slot.is_tensor or interface == "numpy":
        return value
    if interface == "python":
        return value.tolist()
    import torch

    return torch.from_numpy(value)


@contextlib.contextmanager
def _as_in_the_caller(dtype: str) -> Iterator[None]:
    """Have torch, where it is loaded, build no graph, and give numbers the dtype that they have in the caller."""
    if dtype != "float32":
        import torch  # noqa: F401
    loaded: Any = sys.modules.get("torch")
    if loaded is None:
        yield
        return
    own = loaded.get_default_dtype()
    loaded.set_default_dtype(getattr(loaded, dtype))
    try:
        with loaded.no_grad():
            yield
    finally:
        loaded.set_default_dtype(own)


def _without_tensors(returned: Any) -> tuple[Any, dict[int, str]]:
    torch: Any = sys.modules.get("torch")
    leaves, rebuild = flatten(returned)
    dtypes = {}
    for i, leaf in enumerate(leaves):
        if torch is not None and isinstance(leaf, torch.Tensor):
            dtypes[i] = str(leaf.dtype).removeprefix("torch.")
            leaf = leaf.float() if leaf.dtype == torch.bfloat16 else leaf  # which NumPy does not know
            leaves[i] = np.array(leaf.numpy(force=True), order="C")
    return rebuild(leaves), dtypes


def _pickled(error: BaseException) -> bytes | None:
    """Pickle an error that can also be unpickled: one with a constructor of its own often cannot."""
    try:
        import cloudpickle as pickler
    except ImportError:  # it comes with every executor that runs elsewhere, but for the builtin one
        pickler = pickle
    try:
        content: bytes = pickler.dumps(error)
        pickle.loads(content)
    except Exception:
        return None
    return content
