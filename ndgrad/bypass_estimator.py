"""What the estimators with a network of their own share: its state, and f's rows handed to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.bypass import Bypass
from ndgrad.estimator import FlatFunction, Rows, VJPEstimator, as_tuple, split_rows
from ndgrad.fit_losses import FitQuality
from ndgrad.replay import Samples, concatenate


def has_numbers(inputs: Rows) -> bool:
    """Whether there is anything to differentiate: a row, with a coordinate."""
    return any(x.numel() for x in inputs)


class BypassEstimator(VJPEstimator):
    """A VJP estimator that holds a bypass network with its fit."""

    wants_constant_inputs = True  # the network takes the same inputs in every call

    bypass: Bypass

    @property
    def network(self) -> nn.Module | None:
        """The fitted network; None before the first call of a default one."""
        return self.bypass.network

    @property
    def quality(self) -> FitQuality | None:
        """How well the network predicted the last call's samples before it was fitted to them."""
        return self.bypass.quality

    def flat_network(self, inputs: Rows, outputs: Rows, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return the network, as it stands, in the language of the outputs: (..., B, n) to (..., B, m)."""
        network = self.bypass.frozen(inputs[0])

        def g(*rows: Tensor) -> Rows:
            like = tuple(y[:1].expand(len(rows[0]), *y.shape[1:]) for y in outputs)
            return self.bypass.plan.decode(as_tuple(network(*rows)), like)

        return FlatFunction(g, inputs, dtype)

    def learn_flat(self, inputs: Rows, outputs: Rows, probes: Tensor, values: Tensor) -> None:
        """Fit to probes (S, B, n), where f is ``values`` (S, B, m), and to the value at the inputs."""
        rows = split_rows(probes.flatten(0, 1), inputs)
        targets = split_rows(values.flatten(0, 1), outputs)
        self.bypass.learn(Samples(concatenate([rows, inputs]), concatenate([targets, outputs]), inputs))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.bypass.move(fn)
        return super()._apply(fn, recurse)

    def get_extra_state(self) -> dict[str, Any]:
        """Return network, optimiser and replay as plain tensors and numbers."""
        return self.bypass.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore `get_extra_state`, building a default network that was not called yet."""
        self.bypass.load(state)
