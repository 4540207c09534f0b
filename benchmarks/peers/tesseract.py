"""Tesseract's ``finite_difference_vjp``: what the ``vector_jacobian_product`` of a Tesseract without derivative calls.

The endpoint is called in the process, without the container and the network around it, which change no number.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.peer import Estimate, Peer, Problem, RowValue

_NOTE = "eps = sigma, sqrt(3) sigma for central differences; one endpoint call per row, in the process"


def make(algorithm: str) -> Estimate:
    from pydantic import create_model
    from tesseract_core.runtime import Array, Differentiable, Float64
    from tesseract_core.runtime.experimental import finite_difference_vjp

    vector = Differentiable[Array[(None,), Float64]]
    inputs, outputs = create_model("Inputs", x=(vector, ...)), create_model("Outputs", y=(vector, ...))

    def row(problem: Problem, seeds: np.random.Generator, value: RowValue, x: Tensor) -> Tensor:
        step = problem.step if algorithm == "central" else problem.sigma

        def apply(given: object) -> object:
            z = torch.from_numpy(np.asarray(given.x))  # type: ignore[attr-defined]
            return outputs(y=value(z).double().reshape(1).numpy())

        found = finite_difference_vjp(
            apply, inputs(x=x.double().numpy()), {"x"}, {"y"}, {"y": np.ones(1)}, algorithm=algorithm,
            eps=step, num_samples=problem.num_samples, seed=int(seeds.integers(2**31)),
        )  # fmt: skip
        return torch.from_numpy(np.asarray(found["x"]))

    def estimate(problem: Problem) -> Tensor:
        return problem.by_row(partial(row, problem, np.random.default_rng(problem.seed)))

    return estimate


def _falls_back(num_inputs: int, num_samples: int) -> str | None:
    if num_samples >= num_inputs:
        return f"takes central differences where samples ({num_samples}) reach inputs: see tesseract_central"
    return None


_peer = partial(Peer, "tesseract-core", "tesseract_core.runtime", note=_NOTE)
PEERS = {
    "tesseract_central": _peer(make=partial(make, "central"), kind="differences", probes_per_input=2),
    "tesseract_forward": _peer(
        make=partial(make, "forward"), kind="differences", probes_per_input=1, value=1
    ),
    "tesseract_spsa": _peer(
        make=partial(make, "stochastic"), kind="sampling", probes_per_sample=2, reason_against=_falls_back
    ),
}
