"""The fit of a bypass network: optimiser, replayed samples, matching of differences, early stopping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.estimator import Rows, as_tuple
from ndgrad.fit_losses import Loss, total_loss
from ndgrad.replay import Replay, Samples, concatenate


class Batch:
    """Samples of several calls as one set of rows, those that failed left out."""

    def __init__(self, parts: list[Samples]) -> None:
        self._parts = parts

    @cached_property
    def inputs(self) -> Rows:
        """Where the function was evaluated, (R, ...)."""
        return concatenate([part.came_back(part.inputs) for part in self._parts])

    @cached_property
    def targets(self) -> Rows:
        """Its values there, (R, ...)."""
        return concatenate([part.came_back(part.targets) for part in self._parts])

    def of_last(self, values: Tensor) -> Tensor:
        """Return those of the values (R, ...) that belong to the last part."""
        (last,) = self._parts[-1].came_back(self._parts[-1].targets[:1])
        return values[len(values) - len(last) :]

    def centred(self, values: Tensor) -> Tensor:
        """Subtract from each row (R, ...) the mean over the samples around the same input."""
        rows = values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)  # (R, m)
        total = rows.new_zeros(len(self._size), rows.shape[1]).index_add(0, self._group, rows)  # (G, m)
        mean = total / self._size.to(rows.dtype).unsqueeze(1)
        return values - mean[self._group].reshape(values.shape)

    @cached_property
    def _group(self) -> Tensor:
        """The input, of all calls' inputs, that each row was drawn around, (R,)."""
        groups: list[Tensor] = []
        first = 0
        for part in self._parts:
            rows = torch.arange(len(part.inputs[0]), device=part.inputs[0].device)
            groups.extend(part.came_back((first + rows % part.num_centers,)))
            first += part.num_centers
        return torch.cat(groups)

    @cached_property
    def _size(self) -> Tensor:
        """How many rows were drawn around each input, (G,)."""
        return self._group.bincount()


def _ones(inputs: Rows) -> Sequence[float | Tensor]:
    return (1.0,) * len(inputs)


@dataclass(frozen=True)
class FitPlan:
    """How a network is fitted.

    Attributes:
        steps: the most optimiser steps per call.
        loss: ``loss(g(z), f(z))`` to a scalar.
        decode: predictions and targets to predictions in the language of the targets.
        match: ``"value"``, or ``"difference"``: compare predictions with targets after subtracting from both their
            means over the samples around one input.
        reach: replayed inputs farther than this from every current one, in root mean square over the coordinates and
            in units of their widths, are left out; None keeps all.
        widths: the units of distances, for each input.
        patience: steps without improvement on held-out samples after which the fit stops; None for no such stop.

    """

    steps: int
    loss: Loss
    decode: Callable[[Rows, Rows], Rows]
    match: str = "value"
    reach: float | None = None
    widths: Callable[[Rows], Sequence[float | Tensor]] = _ones
    patience: int | None = None

    def num_held_out(self, samples: Samples) -> int:
        """Count the samples around each input that are held out: one in five, at least two, which have a difference."""
        S = len(samples.inputs[0]) // samples.num_centers
        return 0 if self.patience is None else max(2, S // 5)

    def error(self, outputs: Rows, batch: Batch) -> Tensor:
        """Return the loss of a network's outputs on the batch."""
        if self.match == "value" or len(outputs) != len(batch.targets):
            return total_loss(self.loss, outputs, batch.targets)
        predictions = self.decode(outputs, batch.targets)
        targets = [f.to(g.dtype) for g, f in zip(predictions, batch.targets, strict=True)]
        return total_loss(
            self.loss, tuple(map(batch.centred, predictions)), tuple(map(batch.centred, targets))
        )


class Fit:
    """A private copy of a network, trained by nobody but `run`."""

    def __init__(
        self, network: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer], replay: int
    ) -> None:
        self.network = network.requires_grad_(True)
        self.optimizer = optimizer(list(network.parameters()))
        self.replay = Replay(replay)
        self.steps = 0

    def run(self, samples: Samples, plan: FitPlan) -> tuple[Rows, Tensor]:
        """Take joint steps over these samples and the replayed ones.

        Returns:
            The network's outputs on the samples that came back before the first step, and the loss of the last.

        """
        count = plan.num_held_out(samples)
        training = samples.without_first(count)
        batch = Batch(
            [*self.replay.near(samples.centers, plan.reach, plan.widths(samples.centers)), training]
        )
        stopping = EarlyStopping(self.network, Batch([samples.first(count)]), plan) if count else None
        for step in range(plan.steps):
            outputs, error = self._step(batch, plan)
            if step == 0:
                before = tuple(map(batch.of_last, outputs))
            if stopping is not None and stopping.should_stop():
                break
        if stopping is not None:
            before = concatenate([stopping.before, before])
            stopping.restore_best()
        self.network.eval()
        self.steps += step + 1
        self.replay.append(samples)
        return before, error

    def _step(self, batch: Batch, plan: FitPlan) -> tuple[Rows, Tensor]:
        """Take one step; return the outputs and the loss before it."""
        with torch.enable_grad():
            self.network.train()
            self.optimizer.zero_grad(set_to_none=True)
            outputs = as_tuple(self.network(*batch.inputs))
            error = plan.error(outputs, batch)
            error.backward(inputs=list(self.network.parameters()))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return tuple(y.detach() for y in outputs), error.detach()

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply ``function`` (as of ``Module.to``) to the network, the optimiser's state and the replay."""
        self.network._apply(function)
        for state in self.optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.ndim > 0:
                    state[key] = function(value)
        self.replay.move(function)

    def state(self) -> dict[str, Any]:
        """Return plain tensors and numbers, loadable with ``weights_only=True``."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "replay": self.replay.state(),
            "steps": self.steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.network.load_state_dict(state["network"])
        # copied: the optimiser would go on in the tensors of ``state`` itself
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.replay.load(state["replay"])
        self.steps = state["steps"]


class EarlyStopping:
    """Watches a network on held-out samples while it is fitted, and keeps its best state."""

    def __init__(self, network: nn.Module, held_out: Batch, plan: FitPlan) -> None:
        self._network, self._held_out, self._plan = network, held_out, plan
        self.before, self._best_error = self._measure()
        self._best = copy.deepcopy(network.state_dict())
        self._steps_since = 0

    def should_stop(self) -> bool:
        """Measure the network as it stands; whether ``patience`` steps have brought nothing."""
        _, error = self._measure()
        if error < self._best_error:
            self._best_error, self._steps_since = error, 0
            self._best = copy.deepcopy(self._network.state_dict())
        else:
            self._steps_since += 1
        return self._steps_since == self._plan.patience

    def restore_best(self) -> None:
        """Go back to the state with the least error, that before the fit included."""
        self._network.load_state_dict(self._best)

    @torch.no_grad()
    def _measure(self) -> tuple[Rows, float]:
        outputs = as_tuple(self._network.eval()(*self._held_out.inputs))
        return outputs, self._plan.error(outputs, self._held_out).item()
