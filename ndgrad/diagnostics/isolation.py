"""Measuring without leaving a trace: copies of modules, and random numbers put back afterwards."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ndgrad.wrap import BlackBox


def isolated(module: Callable[..., Any]) -> Callable[..., Any]:
    """Copy a module with its state; the functions of its black boxes are shared, any other callable is returned.

    A simulator behind a function may be large, or a connection that has no copy; networks among them are copied,
    since a call in train mode changes the statistics of their normalisation layers.
    """
    if not isinstance(module, nn.Module):
        return module
    functions = [inner._evaluator.fn for inner in module.modules() if isinstance(inner, BlackBox)]
    return copy.deepcopy(module, {id(fn): fn for fn in functions if not isinstance(fn, nn.Module)})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, NumPy's global generator and ``random``, and put all three back at the end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - what functions draw from
    on_gpu = torch.cuda.is_initialized()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if on_gpu else ()):
        torch.default_generator.manual_seed(
            seed
        )  # torch.manual_seed takes milliseconds where CUDA is not in use
        if on_gpu:  # pragma: no cover - needs a GPU
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002 - as above
            random.setstate(python_state)


def reseed(module: nn.Module, seed: int) -> None:
    """Give every generator that the module or one inside it keeps a stream of its own."""
    kept = [value for inner in module.modules() for value in vars(inner).values()]
    for index, generator in enumerate(value for value in kept if isinstance(value, torch.Generator)):
        generator.manual_seed(seed + 7919 * index)
