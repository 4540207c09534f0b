"""Nested containers to lists of leaves and back.

Written here rather than taken from ``torch.utils._pytree`` (private) because dataclasses must work without being
registered, and because a list of plain numbers is one leaf: the vector a plain Python function returns.
"""

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Callable, Sequence
from typing import Any

Rebuild = Callable[[Sequence[Any]], Any]


def flatten(tree: Any) -> tuple[list[Any], Rebuild]:
    """Take ``tree`` apart into its leaves and a function that rebuilds it around new ones.

    Dicts, tuples, named tuples, lists and dataclass instances are containers; anything else is a leaf, and so is a
    list that holds nothing but numbers.

    Example:
        >>> leaves, rebuild = flatten({"a": 1, "b": (2.0, [3, 4])})
        >>> leaves
        [1, 2.0, [3, 4]]
        >>> rebuild(["x", "y", "z"])
        {'a': 'x', 'b': ('y', 'z')}

    """
    opened = _open(tree)
    if opened is None:
        return [tree], lambda leaves: leaves[0]
    children, join = opened
    parts = [flatten(child) for child in children]
    sizes = [len(leaves) for leaves, _ in parts]

    def rebuild(leaves: Sequence[Any]) -> Any:
        remaining = iter(leaves)
        return join(
            [
                part_rebuild([next(remaining) for _ in range(size)])
                for size, (_, part_rebuild) in zip(sizes, parts, strict=True)
            ]
        )

    return [leaf for leaves, _ in parts for leaf in leaves], rebuild


def places(tree: Any) -> list[str]:
    """Return where in its containers each leaf is.

    Example:
        >>> places({"a": 1, "b": (2.0, [3, 4])})
        ["['a']", "['b'][0]", "['b'][1]"]

    """
    opened = _open(tree)
    if opened is None:
        return [""]
    keys = tree if isinstance(tree, dict) else range(len(opened[0]))
    return [f"[{key!r}]{rest}" for key, child in zip(keys, opened[0], strict=True) for rest in places(child)]


def _open(tree: Any) -> tuple[list[Any], Rebuild] | None:
    """Return the children of a container and how to join new ones; None for a leaf."""
    if isinstance(tree, dict):
        return list(tree.values()), lambda values: _like_dict(tree, values)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(tree), lambda values: type(tree)(*values)
    if isinstance(tree, tuple | list) and not _is_number_list(tree):
        return list(tree), type(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return [getattr(tree, name) for name in names], lambda values: _like_dataclass(tree, names, values)
    return None


def _is_number_list(tree: Any) -> bool:
    return (
        isinstance(tree, list)
        and bool(tree)
        and all(isinstance(item, numbers.Number) or _is_number_list(item) for item in tree)
    )


def _like_dict(original: dict[Any, Any], values: Sequence[Any]) -> dict[Any, Any]:
    result = copy.copy(original)  # keeps the class: OrderedDict, defaultdict
    result.update(zip(original, values, strict=True))
    return result


def _like_dataclass(original: Any, names: Sequence[str], values: Sequence[Any]) -> Any:
    result = copy.copy(original)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(result, name, value)  # frozen dataclasses too
    return result
