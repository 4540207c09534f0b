"""The data of an experiment: loaded once in a process, and told apart by what is in it."""

from __future__ import annotations

import functools
import hashlib

from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.cache import load_even


@functools.lru_cache(maxsize=2)
def shared_data(source: str) -> SliceSet:
    """Return the slices of ``--data``, loaded once."""
    return load_even(source)


@functools.lru_cache(maxsize=2)
def fingerprint(source: str) -> str:
    """Return what tells a data set from another one in the same place: everything that a training or score sees."""
    digest = hashlib.sha256()
    for item in shared_data(source).slices:
        said = (item.name, item.patient, tuple(item.image.shape), item.spacing)
        digest.update(f"{said}\n".encode())
        digest.update(item.image.contiguous().numpy().tobytes())
        digest.update(item.mask.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
