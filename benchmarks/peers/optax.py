"""``optax.perturbations``: a perturbed function in JAX, which calls the black box back with all its samples."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.peer import Estimate, Peer, Problem


class _Callback:
    """What the compiled gradient calls; compiled once, it serves one problem after the other."""

    problem: Problem

    def __call__(self, z: Any, row: Any) -> np.ndarray:
        """Points (S, B, n), all samples of all rows at once, to ``<v, f(z)>`` (S, B)."""
        rows = np.asarray(row).reshape(-1)
        flat = torch.from_numpy(np.array(z)).reshape(len(rows), -1)
        values = (self.problem.f(flat) * self.problem.v[torch.from_numpy(rows).long()]).sum(-1)
        return values.numpy().astype(np.float32).reshape(np.shape(row))


_CALLBACK = _Callback()


@lru_cache
def _gradients(num_samples: int, sigma: float) -> Any:
    import jax
    import jax.numpy as jnp
    from optax.perturbations import Normal, make_perturbed_fun

    def one(key: Any, x: Any, row: Any) -> Any:
        def value(z: Any) -> Any:
            scalar = jax.ShapeDtypeStruct((), jnp.float32)
            return jax.pure_callback(_CALLBACK, scalar, z, row, vmap_method="broadcast_all")

        return make_perturbed_fun(value, num_samples, sigma, Normal())(key, x)

    return jax.jit(jax.vmap(jax.grad(one, argnums=1)))


def make() -> Estimate:
    import jax

    def estimate(problem: Problem) -> Tensor:
        _CALLBACK.problem = problem
        keys = jax.random.split(jax.random.key(problem.seed), len(problem.x))
        gradients = _gradients(problem.num_samples, problem.sigma)
        return torch.from_numpy(np.array(gradients(keys, problem.x.numpy(), np.arange(len(problem.x)))))

    return estimate


PEERS = {
    "optax_perturbations": Peer(
        "optax", "optax.perturbations", make, "sampling",
        "normal noise, value at x as baseline; rows by vmap, compiled, the box in one pure_callback",
        value=1,
    ),
}  # fmt: skip
