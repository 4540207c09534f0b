"""TorchOpt's ``zero_order`` (Ren et al. 2023): a decorator for functions with a scalar result."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.peers.peer import Conversion, Estimate, Peer, Problem, RowValue

_NOTE = "standard normal directions; one decorated call per row, since the result must be a scalar"


def make(method: str) -> Estimate:
    from torchopt.diff.zero_order import zero_order

    def row(problem: Problem, value: RowValue, x: Tensor) -> Tensor:
        decorate = zero_order(
            torch.distributions.Normal(0.0, 1.0),
            method=method,
            num_samples=problem.num_samples,
            sigma=problem.sigma,
        )
        x.requires_grad_()
        (g,) = torch.autograd.grad(decorate(value)(x), x)
        return g

    return lambda problem: problem.by_row(partial(row, problem))


FORWARD = Conversion(
    "raw / sigma^2: version 0.7.3 multiplies the differences by sigma where it should divide by it",
    lambda sigma, _: sigma**-2,
)
PEERS = {
    "torchopt_naive": Peer("torchopt", "torchopt", partial(make, "naive"), "sampling", _NOTE, value=1),
    "torchopt_forward": Peer(
        "torchopt", "torchopt", partial(make, "forward"), "sampling", _NOTE, value=1, conversion=FORWARD
    ),
    "torchopt_antithetic": Peer(
        "torchopt", "torchopt", partial(make, "antithetic"), "sampling", _NOTE, probes_per_sample=2, value=1
    ),
}
