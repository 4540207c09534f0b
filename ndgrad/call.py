"""One call of a wrapped function, with all its arguments known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ndgrad.arguments import Argument, Leaf
from ndgrad.interface import Interface, is_array
from ndgrad.transforms import plain

Span: TypeAlias = "slice | int | np.ndarray[Any, Any]"
"""Which evaluations: some of them, or a single point."""
Hand: TypeAlias = Callable[[Any, bool], Any]
"""What the function is handed for a leaf, given it and whether all rows share it."""


@dataclass
class Call:
    """The arguments of one call, split into what varies with rows and what does not."""

    inputs: tuple[Tensor, ...]  # (B, ...) each; what the estimator differentiates
    num_rows: int  # B
    dtype: torch.dtype
    device: torch.device
    all_arguments: list[Argument]

    def arguments(
        self, rows: Sequence[Tensor], span: Span, hand: Hand
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Build ``(args, kwargs)`` for one call of the function.

        Args:
            rows: what takes the places of the inputs. Fewer rows than inputs are draws from a distribution that the
                inputs parameterise: they replace the first such argument, the others are left out.
            span: which evaluations these are; evaluation r takes its companions from row r mod B. An integer asks
                for a single point without a leading dimension.
            hand: converts each leaf.

        """
        draws = len(rows) < len(self.inputs)
        queue = [hand(row, False) for row in rows]
        args, kwargs = [], {}
        for argument in self.all_arguments:
            if draws and argument.has_inputs:
                _refuse_parameter(argument)
                if not queue:
                    continue
                value, queue = (queue[0] if len(queue) == 1 else tuple(queue)), []
            else:
                value = argument.rebuild([self._fill(leaf, queue, span, hand) for leaf in argument.leaves])
            if argument.position is not None:
                args.append(value)
            else:
                kwargs[str(argument.name)] = value
        return tuple(args), kwargs

    def _fill(self, leaf: Leaf, queue: list[Any], span: Span, hand: Hand) -> Any:
        if leaf.role == "input":
            return queue.pop(0)
        value = plain(leaf.value).detach() if isinstance(leaf.value, Tensor) else leaf.value
        if leaf.role == "row":
            index = np.arange(span.start, span.stop) if isinstance(span, slice) else span
            value = value[index % self.num_rows]
        return hand(value, leaf.role != "row")

    def hints(self, batched: bool, interface: Interface) -> list[str]:
        """Return what the caller may have meant to type, for the message of a failed call."""
        hints = []
        for argument in self.all_arguments:
            leading = [
                leaf.value.shape[:1]
                for leaf in argument.leaves
                if leaf.role == "shared" and is_array(leaf.value)
            ]
            if batched and (self.num_rows,) in map(tuple, leading):
                key = argument.position if argument.name is None else argument.name
                hints.append(
                    f"{argument} has {self.num_rows} rows as the batch has, but is shared by all rows; if row b of it "
                    f"belongs to row b of the input, type in_dims={{{key!r}: 0}}"
                )
        if interface == "torch":
            hints.append(
                "if it expects NumPy arrays, type interface='numpy'; plain numbers and lists, interface='python'"
            )
        if batched:
            hints.append("if it takes one point at a time, type batched=False, vectorize=True")
        elif self.num_rows == 1 and any(x.ndim > 2 for x in self.inputs):
            hints.append(
                "the whole input is one point; if it has rows, each of them a point, type vectorize=True"
            )
        return hints


def _refuse_parameter(argument: Argument) -> None:
    if argument.is_parameter:
        raise ValueError(
            f"{argument} is trained, but the estimator evaluates the function on draws from a distribution and "
            f"differentiates only what parameterises that; freeze it, module.{argument.name}.requires_grad_(False), "
            "or use an estimator that probes around its inputs, such as ScoreFunction(sigma=...)"
        )
