"""torchzero's gradient approximators: modules of an optimiser whose update is the estimate.

``target="update"`` saves the evaluation that the default spends on the loss to return.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.peer import Estimate, Peer, Problem, RowValue

_NOTE = (
    "h = sigma, sqrt(3) sigma for central differences; one optimiser step of rate 1 per row, since the closure's "
    "result must be a scalar"
)


def make(name: str, formula: str | None = None, step: float | None = None) -> Estimate:
    import torchzero as tz

    def row(problem: Problem, value: RowValue, x: Tensor) -> Tensor:
        options: dict[str, Any] = {} if name == "FDM" else {"n_samples": problem.num_samples}
        if formula is not None:
            options["formula"] = formula
        h = step or (problem.step if formula == "central" else problem.sigma)
        module = getattr(tz.m, name)(h=h, target="update", **options)
        parameter = torch.nn.Parameter(x.clone())
        optimiser = tz.Optimizer([parameter], module, tz.m.LR(1.0))
        optimiser.step(lambda backward=True: value(parameter))
        return x - parameter.detach()

    return lambda problem: problem.by_row(partial(row, problem))


def _peer(name: str, **costs: int) -> Peer:
    return Peer("torchzero", "torchzero", partial(make, name), "sampling", _NOTE, **costs)  # type: ignore[arg-type]


PEERS = {
    "torchzero_spsa": _peer("SPSA", probes_per_sample=2),
    "torchzero_rdsa": _peer("RDSA", probes_per_sample=2),
    "torchzero_gaussian_smoothing": _peer("GaussianSmoothing", value=1),
    "torchzero_central": Peer(
        "torchzero", "torchzero", partial(make, "FDM", "central"), "differences", _NOTE, probes_per_input=2
    ),
    "torchzero_forward": Peer(
        "torchzero", "torchzero", partial(make, "FDM", "forward"), "differences", _NOTE,
        probes_per_input=1, value=1,
    ),
    "torchzero_forward_default": Peer(
        "torchzero", "torchzero", partial(make, "FDM", "forward", 1e-3), "differences",
        f"h = 1e-3, its default, for smooth boxes; else {_NOTE}", probes_per_input=1, value=1,
    ),
}  # fmt: skip
