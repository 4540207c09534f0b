"""Choosing by name, with an error that lists what there is."""

from __future__ import annotations

from collections.abc import Collection


def select(kind: str, wanted: Collection[str], valid: Collection[str]) -> list[str]:
    """Return the wanted names in the order given (commas separate, too); all of them if none is given.

    Raises:
        ValueError: if a name is unknown; the message lists the valid ones.
    """
    names = [name for entry in wanted for name in entry.split(",") if name]
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise ValueError(f"unknown {kind} {', '.join(map(repr, unknown))}; valid: {', '.join(valid)}")
    return list(dict.fromkeys(names or valid))
