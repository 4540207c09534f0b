"""EvoTorch's search distributions: the gradient with respect to their mean, from raw fitnesses.

The divisors are those of its algorithm PGPE.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.peers.peer import Conversion, Estimate, Peer, Problem, RowValue

_NOTE = "raw fitnesses, divisors as in PGPE; one distribution per row"


def make(name: str, divisor: str, solutions_per_sample: int) -> Estimate:
    from evotorch import distributions

    def row(problem: Problem, value: RowValue, x: Tensor) -> Tensor:
        sigma = torch.full_like(x, problem.sigma)
        parameters = {"mu": x, "sigma": sigma, "divide_mu_grad_by": divisor}
        law = getattr(distributions, name)(parameters)
        samples = law.sample(problem.num_samples * solutions_per_sample)  # (S, n)
        # "max": the gradient of the fitness itself, not of its negative
        gradients = law.compute_gradients(
            samples, value(samples), objective_sense="max", ranking_method="raw"
        )
        g: Tensor = gradients["mu"]
        return g

    return lambda problem: problem.by_row(partial(row, problem))


SYMMETRIC = Conversion(
    "raw / sigma^2: the library weighs sigma eps where the gradient has eps / sigma",
    lambda sigma, _: sigma**-2,
)
SEPARABLE = Conversion(
    "raw / sigma^2 * S / (S - 1): as for the symmetric one, and each fitness enters the mean subtracted from it",
    lambda sigma, num_samples: num_samples / (num_samples - 1) / sigma**2,
)
PEERS = {
    "evotorch_symmetric": Peer(
        "evotorch", "evotorch", partial(make, "SymmetricSeparableGaussian", "num_directions", 2), "sampling",
        _NOTE, probes_per_sample=2, conversion=SYMMETRIC,
    ),
    "evotorch_separable": Peer(
        "evotorch", "evotorch", partial(make, "SeparableGaussian", "num_solutions", 1), "sampling",
        _NOTE, minimum_samples=2, conversion=SEPARABLE,
    ),
}  # fmt: skip
