"""Evaluations that need not be made again."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ndgrad.execution import cache_file
from ndgrad.execution.batch import Batch
from ndgrad.execution.identity import function_identity, value_identity
from ndgrad.execution.parcels import Packing
from ndgrad.execution.tasks import Index
from ndgrad.outputs import Outputs
from ndgrad.trees import Rebuild, flatten

Leaves = tuple[Tensor, ...]


class Store(Protocol):
    """Keeps the outputs of single rows by key."""

    def get(self, key: str) -> tuple[str, Leaves] | None:
        """Return the structure (`structure_of`) and the leaves kept under ``key``."""

    def put(self, key: str, structure: str, leaves: Leaves) -> None:
        """Keep them."""


class Memory:
    """Keeps them as long as the wrapped function lives."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Leaves]] = {}

    def get(self, key: str) -> tuple[str, Leaves] | None:
        """See `Store.get`."""
        return self._kept.get(key)

    def put(self, key: str, structure: str, leaves: Leaves) -> None:
        """See `Store.put`."""
        self._kept[key] = structure, tuple(leaf.clone() for leaf in leaves)

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        return self


class Folder:
    """Keeps a file for each, in a folder that any number of processes may share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> tuple[str, Leaves] | None:
        """See `Store.get`; a file that is torn or foreign is left out, with a warning."""
        path = self._path(key)
        try:
            found = cache_file.read(path, key)
            if found is not None and found[0]:
                _require_structure(*found)
            return found
        except cache_file.NotOurs as error:
            warnings.warn(
                f"{path} is no cached evaluation, and is left out: {error}. It is written anew", stacklevel=2
            )
            return None

    def put(self, key: str, structure: str, leaves: Leaves) -> None:
        """See `Store.put`."""
        cache_file.write(self._path(key), key, structure, leaves)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def make_store(cache: str | os.PathLike[str] | None) -> Store | None:
    """Return the store for ``wrap(cache=)``."""
    if cache is None:
        return None
    if isinstance(cache, str) and cache == "memory":
        return Memory()
    if not isinstance(cache, str | os.PathLike):
        raise TypeError(f"cache must be None, 'memory' or a folder, got {cache!r}")
    folder = Path(cache)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cache must be a folder, but {folder} is a file; name another, or 'memory'")
    return Folder(folder)


class Cache:
    """Looks rows up and keeps what they gave.

    Args:
        store: where.
        cache_key: names the function; None to tell it by what it is.

    """

    def __init__(self, store: Store, cache_key: str | None) -> None:
        self._store, self._cache_key = store, cache_key
        self._like: Any = None  # the last outputs with containers that JSON does not know, without rows

    def look_up(self, batch: Batch) -> tuple[list[str], list[tuple[Index, Outputs]], Index]:
        """Return the key of every row, the outputs of those that are kept, and which are not."""
        keys = row_keys(batch, self._cache_key)
        parts, missing = [], []
        for row, key in enumerate(keys):
            found = self._outputs(key)
            if found is None:
                missing.append(row)
            else:
                parts.append((np.array([row]), found.to(batch.call.device)))
        return keys, parts, np.array(missing, dtype=np.int64)

    def keep(self, keys: Sequence[str], outputs: Outputs) -> None:
        """Keep the outputs of one call, under the keys of its rows."""
        structure = structure_of(outputs.rebuild(outputs.leaves))
        if not structure:
            self._like = outputs.rebuild(outputs.structure().leaves)
        for i, key in enumerate(keys):
            self._store.put(key, structure, tuple(leaf[i : i + 1].cpu() for leaf in outputs.leaves))

    def _outputs(self, key: str) -> Outputs | None:
        found = self._store.get(key)
        if found is None:
            return None
        structure, leaves = found
        if structure:
            return Outputs(leaves, rebuild_from(structure))
        return None if self._like is None else Outputs(leaves, flatten(self._like)[1])


def row_keys(batch: Batch, cache_key: str | None) -> list[str]:
    """Return a key for each row: of the function and all that it is handed for this row."""
    packing = Packing()
    index = np.arange(batch.num_rows)
    if batch.batched:
        template = batch.arguments(index, packing.take)
        columns = [packing.values]
    else:
        columns = []
        for row in index:
            packing = Packing()
            template = batch.arguments(int(row), packing.take)
            columns.append(packing.values)
    common = _common(batch, template, packing.shared, cache_key)
    per_row = [[value[row] for value in columns[0]] for row in index] if batch.batched else columns
    return [_digest(common, *map(value_identity, values)) for values in per_row]


def _common(batch: Batch, template: Any, shared: Sequence[Any], cache_key: str | None) -> bytes:
    """Digest what all rows share: the function, and its arguments with slots in the places of those with rows."""
    named = function_identity(batch.fn) if cache_key is None else value_identity(("cache_key", cache_key))
    args, kwargs = template
    how = (batch.interface, batch.batched, str(batch.call.dtype))
    return _digest(named, value_identity((how, args, sorted(kwargs.items()), list(shared)))).encode()


def structure_of(tree: Any) -> str:
    """Return a tree's containers as JSON; empty where it has others than dicts with text for keys, tuples and lists."""
    try:
        return json.dumps(_structure(tree))
    except TypeError:
        return ""


def _structure(tree: Any) -> Any:
    leaves, _ = flatten(tree)
    if len(leaves) == 1 and leaves[0] is tree:
        return 0
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": [[key, _structure(value)] for key, value in tree.items()]}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [_structure(value) for value in tree]}
    raise TypeError("another container")


def rebuild_from(structure: str) -> Rebuild:
    """Return the function that puts leaves into the containers of `structure_of`."""

    def build(part: Any, leaves: Any) -> Any:
        if part == 0:
            return next(leaves)
        ((kind, children),) = part.items()
        if kind == "dict":
            return {key: build(child, leaves) for key, child in children}
        return {"tuple": tuple, "list": list}[kind](build(child, leaves) for child in children)

    parsed = json.loads(structure)
    return lambda leaves: build(parsed, iter(leaves))


def _require_structure(structure: str, leaves: Leaves) -> None:
    try:
        tree = rebuild_from(structure)(leaves)
    except Exception as error:
        raise cache_file.NotOurs(f"it describes no containers: {error!r}") from error
    if len(flatten(tree)[0]) != len(leaves):
        raise cache_file.NotOurs("it has more numbers than containers")


def _digest(*parts: bytes) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()
