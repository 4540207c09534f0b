"""One call of a wrapped function, with all its arguments known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndgrad.arguments import Argument, Leaf
from ndgrad.interface import Interface, is_array, to_interface
from ndgrad.transforms import plain


@dataclass
class Call:
    """The arguments of one call, split into what varies with rows and what does not."""

    inputs: tuple[Tensor, ...]  # (B, ...) each; what the estimator differentiates
    num_rows: int  # B
    dtype: torch.dtype
    device: torch.device
    all_arguments: list[Argument]

    def arguments(
        self, rows: Sequence[Tensor], span: slice | int, interface: Interface
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Build ``(args, kwargs)`` for one call of the function.

        Args:
            rows: what takes the places of the inputs. Fewer rows than inputs are draws from a distribution that the
                inputs parameterise: they replace the first such argument, the others are left out.
            span: which evaluations these are; evaluation r takes its companions from row r mod B. An integer asks
                for a single point without a leading dimension.
            interface: what the function is handed.

        """
        draws = len(rows) < len(self.inputs)
        queue = [to_interface(row, interface) for row in rows]
        args, kwargs = [], {}
        for argument in self.all_arguments:
            if draws and argument.has_inputs:
                _refuse_parameter(argument)
                if not queue:
                    continue
                value, queue = (queue[0] if len(queue) == 1 else tuple(queue)), []
            else:
                value = argument.rebuild(
                    [self._fill(leaf, queue, span, interface) for leaf in argument.leaves]
                )
            if argument.position is not None:
                args.append(value)
            else:
                kwargs[str(argument.name)] = value
        return tuple(args), kwargs

    def _fill(self, leaf: Leaf, queue: list[Any], span: slice | int, interface: Interface) -> Any:
        if leaf.role == "input":
            return queue.pop(0)
        value = plain(leaf.value).detach() if isinstance(leaf.value, Tensor) else leaf.value
        if leaf.role == "row":
            index = (
                span % self.num_rows
                if isinstance(span, int)
                else np.arange(span.start, span.stop) % self.num_rows
            )
            value = value[index]
        return to_interface(value, interface)

    def name_rows(self, start: int, stop: int) -> str:
        """Say which rows of the batch evaluations start..stop belong to."""
        if stop - start != 1:
            return f"rows {start} to {stop - 1} (the batch has {self.num_rows})"
        probe, row = divmod(start, self.num_rows)
        return f"row {row}" + (f" (probe {probe} around it)" if probe else "")

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
        return hints


def _refuse_parameter(argument: Argument) -> None:
    if argument.is_parameter:
        raise ValueError(
            f"{argument} is trained, but the estimator evaluates the function on draws from a distribution and "
            f"differentiates only what parameterises that; freeze it, module.{argument.name}.requires_grad_(False), "
            "or use an estimator that probes around its inputs, such as ScoreFunction(sigma=...)"
        )
