"""numdifftools' ``Gradient``: central differences, and their extrapolation from two steps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.peers.peer import Estimate, Peer, Problem, RowValue

_NOTE = "second order, one call per row"


def make(num_steps: int) -> Estimate:
    import numdifftools as nd

    def row(problem: Problem, value: RowValue, x: Tensor) -> Tensor:
        base = problem.step if num_steps == 1 else problem.sigma
        # step_nom=1: else the step would grow with log(|x|)
        steps = nd.MinStepGenerator(base_step=base, step_nom=1, num_steps=num_steps, step_ratio=2)
        gradient = nd.Gradient(
            lambda z: float(value(torch.from_numpy(z))), step=steps, method="central", order=2
        )
        return torch.from_numpy(gradient(x.double().numpy())).reshape(x.shape)

    return lambda problem: problem.by_row(partial(row, problem))


PEERS = {
    "numdifftools_central": Peer(
        "numdifftools", "numdifftools", partial(make, 1), "differences",
        f"step sqrt(3) sigma; {_NOTE}", probes_per_input=2, value=1,
    ),
    "numdifftools_extrapolated": Peer(
        "numdifftools", "numdifftools", partial(make, 2), "differences",
        f"steps sigma and 2 sigma, extrapolated; {_NOTE}", probes_per_input=4, value=1,
    ),
}  # fmt: skip
