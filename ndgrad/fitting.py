"""The bypass network together with what its fit needs: optimiser, replayed samples, losses, measured quality."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ndgrad.estimator import Rows, as_tuple
from ndgrad.surrogates import Shapes, build_surrogate, calibrate

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class FitQuality:
    """How well the network predicted this call's samples *before* it was fitted to them.

    Attributes:
        value_error: root mean square of ``g(z) - f(z)``, relative to that of ``f(z)`` about its mean.
        gradient_error: the same for differences between samples around one input; this is what the gradient sees.
            None with a single sample.
        loss: the loss after the last fit step.

    """

    value_error: float
    gradient_error: float | None
    loss: float


class Fit:
    """A private copy of a network, trained by nobody but `run`."""

    def __init__(
        self, network: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer], replay: int
    ) -> None:
        self.network = network.requires_grad_(True)
        self.optimizer = optimizer(list(network.parameters()))
        self.replay: deque[tuple[Rows, Rows]] = deque(maxlen=replay)
        self.steps = 0

    def run(self, inputs: Rows, targets: Rows, steps: int, loss: Loss) -> tuple[Rows, float]:
        """Take joint steps over these rows and the replayed ones.

        Returns:
            The network's outputs on ``inputs`` before the first step, and the loss of the last.

        """
        rows = [torch.cat(column) for column in zip(*(z for z, _ in self.replay), inputs, strict=True)]
        values = tuple(
            torch.cat(column) for column in zip(*(y for _, y in self.replay), targets, strict=True)
        )
        before: Rows = ()
        with torch.enable_grad():
            self.network.train()
            for step in range(steps):
                self.optimizer.zero_grad(set_to_none=True)
                outputs = as_tuple(self.network(*rows))
                error = _total(loss, outputs, values)
                if step == 0:
                    before = tuple(y[-len(inputs[0]) :].detach() for y in outputs)
                error.backward(inputs=list(self.network.parameters()))
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.network.eval()
        self.steps += steps
        self.replay.append((inputs, targets))
        return before, error.item()

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply ``function`` (as of ``Module.to``) to the network, the optimiser's state and the replay."""
        self.network._apply(function)
        for state in self.optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.ndim > 0:
                    state[key] = function(value)
        moved = [tuple(tuple(map(function, part)) for part in sample) for sample in self.replay]
        self.replay = deque(moved, maxlen=self.replay.maxlen)  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        """Return plain tensors and numbers, loadable with ``weights_only=True``."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "replay": [([*z], [*y]) for z, y in self.replay],
            "steps": self.steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.replay.clear()
        self.replay.extend((tuple(z), tuple(y)) for z, y in state["replay"])
        self.steps = state["steps"]


def own_copy(network: nn.Module, like: Tensor) -> nn.Module:
    """Copy a user's network to the device and dtype of the inputs."""
    return copy.deepcopy(network).to(like.device, like.dtype)


def default_network(inputs: Rows, outputs: Rows) -> tuple[nn.Module, tuple[Shapes, Shapes]]:
    """Build a network for the shapes of samples (R, ...), scaled to them."""
    shapes = [tuple(t.shape[1:]) for t in inputs], [tuple(t.shape[1:]) for t in outputs]
    network = build_surrogate(*shapes).to(inputs[0].device, inputs[0].dtype)
    calibrate(network, inputs, outputs)
    return network, shapes


def default_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, or cross-entropy where ``prediction`` (R, C, ...) is logits of classes (R, ...)."""
    if has_classes(prediction, target):
        return F.cross_entropy(prediction, target.round().long())
    if prediction.shape != target.shape:
        raise ValueError(
            f"the surrogate must return the shape of the wrapped function, {tuple(target.shape)}, or class logits "
            f"{(target.shape[0], 'C', *target.shape[1:])}; it returned {tuple(prediction.shape)}. Pass another "
            "surrogate, or loss= and decode="
        )
    return F.mse_loss(prediction, target.to(prediction.dtype))


def default_decode(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the prediction itself, or the expected class index of its logits."""
    if not has_classes(prediction, target):
        return prediction
    classes = torch.arange(prediction.shape[1], dtype=prediction.dtype, device=prediction.device)
    return torch.einsum("rc...,c->r...", prediction.softmax(1), classes)


def has_classes(prediction: Tensor, target: Tensor) -> bool:
    """Whether ``prediction`` has one more dimension than ``target``, the second."""
    return prediction.shape[:1] + prediction.shape[2:] == target.shape and prediction.ndim == target.ndim + 1


def measure(prediction: Rows, target: Rows, num_rows: int, loss: float) -> FitQuality | None:
    """Compare decoded predictions with targets on S B rows around B inputs; None where their shapes differ."""
    if any(p.shape != t.shape for p, t in zip(prediction, target, strict=True)):
        return None
    g, f = (
        torch.cat([t.reshape(-1, num_rows, t.shape[1:].numel()) for t in rows], 2)
        for rows in (prediction, target)
    )
    value = _relative(g - f, f - f.mean((0, 1)))  # both (S, B, m)
    gradient = _relative((g - f) - (g - f).mean(0), f - f.mean(0)) if len(f) > 1 else None
    return FitQuality(value, gradient, loss)


def _relative(error: Tensor, scale: Tensor) -> float:
    return float(error.norm() / scale.norm().clamp(min=torch.finfo(scale.dtype).tiny))


def _total(loss: Loss, outputs: Rows, values: Rows) -> Tensor:
    if len(outputs) != len(values):
        raise ValueError(
            f"the surrogate must return one tensor for each of the {len(values)} outputs of the wrapped function, "
            f"but returned {len(outputs)}"
        )
    return torch.stack([loss(g, f) for g, f in zip(outputs, values, strict=True)]).sum()
