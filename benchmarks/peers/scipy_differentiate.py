"""``scipy.differentiate.jacobian``: central differences of rising order, stopped after ``maxiter`` of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.peer import Estimate, Peer, Problem

_NOTE = "all rows in one call; the library evaluates the centre once for every input"


def make(maxiter: int) -> Estimate:
    from scipy.differentiate import jacobian

    def estimate(problem: Problem) -> Tensor:
        def values(z: np.ndarray) -> np.ndarray:  # (n, n, B) or (n, n, B, steps)
            points = torch.from_numpy(np.moveaxis(np.atleast_3d(z), 0, -1))  # (n, B, n) or (n, B, steps, n)
            if points.dim() == 3:
                return problem.values(points).double().numpy()
            return problem.values(points.transpose(1, 2)).transpose(1, 2).double().numpy()

        x = problem.x.double().numpy().T  # (n, B)
        found = jacobian(values, x, initial_step=problem.step, order=2, maxiter=maxiter)
        return torch.from_numpy(found.df).T  # (B, n)

    return estimate


_peer = partial(Peer, "scipy", "scipy.differentiate", kind="differences")
PEERS = {
    "scipy_central": _peer(
        make=partial(make, 1), note=f"initial step sqrt(3) sigma, maxiter 1; {_NOTE}", probes_per_input=3
    ),
    "scipy_adaptive": _peer(
        make=partial(make, 2),
        note=f"steps sqrt(3) sigma and half of it, maxiter 2; {_NOTE}",
        probes_per_input=5,
    ),
}
