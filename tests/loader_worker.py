"""A data set whose items are estimated gradients; a module of its own, so that spawned workers can import it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import ndgrad


def noisy(x: np.ndarray) -> np.ndarray:
    return np.round(x) + 0.1 * np.random.standard_normal(x.shape)  # noqa: NPY002 - what a user's function may do


class Gradients(Dataset[Tensor]):
    def __init__(self) -> None:
        self.box = ndgrad.wrap(noisy, estimator=ndgrad.EvolutionStrategy(3, 0.5))

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        x = torch.full((1, 2), float(index), requires_grad=True)
        self.box(x).sum().backward()
        return x.grad


def seed_numpy(worker: int) -> None:
    """Torch seeds its own generator in each worker; NumPy's has to be told (PyTorch's notes on randomness)."""
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002
