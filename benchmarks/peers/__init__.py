"""Gradient estimators of other libraries, one file each. A new one is one file here and one line below.

Nothing of another library is imported before its estimator is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.peers import (
    evotorch,
    numdifftools,
    optax,
    pyepo,
    scipy_differentiate,
    storchastic,
    tesseract,
    torchopt,
    torchzero,
)
from benchmarks.peers.peer import Conversion, Peer, Problem, installed

PEERS: Mapping[str, Peer] = {
    **torchopt.PEERS,
    **torchzero.PEERS,
    **storchastic.PEERS,
    **evotorch.PEERS,
    **optax.PEERS,
    **tesseract.PEERS,
    **pyepo.PEERS,
    **numdifftools.PEERS,
    **scipy_differentiate.PEERS,
}

__all__ = ["PEERS", "Conversion", "Peer", "Problem", "installed"]
