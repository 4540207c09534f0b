"""Inputs that are probed together, because no output depends on two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ndgrad.stencils import Inputs

_TOLERANCE = 100.0  # roundings by which an output may change with inputs that it does not depend on


@dataclass(frozen=True)
class Block:
    """Some groups of inputs; one probe moves one group.

    Attributes:
        moved: the inputs of each of G groups, (G, 1, n).
        inputs: the k inputs of all these groups.
        group: which of the G each of them is in, (k,); None where each is alone.
        pattern: the outputs that depend on each of them, (k, 1, m); None for all.

    """

    moved: Tensor
    inputs: Inputs
    group: Tensor | None = None
    pattern: Tensor | None = None

    def columns(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, point: Tensor) -> Tensor:
        """Evaluate ``f`` at x (B, n) with one group moved to ``point`` (B, n); the values for each input, (k, B, m).

        What does not depend on an input keeps its value in y (B, m).
        """
        values = f(torch.where(self.moved, point, x))  # (G, B, m)
        if self.group is None or self.pattern is None:
            return values
        self._require_pattern(values, y)
        return torch.where(self.pattern, values[self.group], y)

    def _require_pattern(self, values: Tensor, y: Tensor) -> None:
        assert self.group is not None
        assert self.pattern is not None
        count = torch.zeros(len(self.moved), 1, y.shape[1], dtype=torch.long, device=y.device)
        declared = count.index_add(0, self.group, self.pattern.long()) > 0  # (G, 1, m)
        scale = torch.finfo(y.dtype).eps * (values.norm(dim=-1, keepdim=True) + y.norm(dim=-1, keepdim=True))
        changed = (values - y).abs() > _TOLERANCE * scale  # (G, B, m)
        wrong = changed & ~declared
        if wrong.any():
            group, row, output = wrong.nonzero()[0].tolist()
            inputs = self.moved[group, 0].nonzero().flatten().tolist()
            raise ValueError(
                f"sparsity says that output {output} depends on none of the inputs {inputs}, but in row {row} it "
                "changed with them; set the pattern's entry (input, output) to True where the output depends on "
                "the input. A function with noise has no sparsity that can be checked"
            )


class Coloring(torch.nn.Module):
    """Groups ("colours") of the inputs of a sparsity pattern (n, m), found greedily.

    Inputs with more outputs choose first, and take the first colour none of whose inputs shares an output with them
    (Curtis, Powell & Reid 1974).
    """

    pattern: Tensor  # (n, m)
    colors: Tensor  # (n,)

    def __init__(self, pattern: Tensor) -> None:
        super().__init__()
        if not isinstance(pattern, Tensor) or pattern.dtype != torch.bool or pattern.ndim != 2:
            arrived = (
                f"{pattern.dtype} {tuple(pattern.shape)}"
                if isinstance(pattern, Tensor)
                else type(pattern).__name__
            )
            raise ValueError(
                f"sparsity must be a bool tensor (n, m), True where output k depends on input i, got {arrived}"
            )
        self.register_buffer("pattern", pattern.detach().clone(), persistent=False)
        self.register_buffer("colors", _color(pattern), persistent=False)
        self.num_colors = int(self.colors.max()) + 1 if len(self.colors) else 0

    def blocks(self, size: int, x: Tensor, y: Tensor) -> Iterator[Block]:
        """Yield blocks of at most ``size`` colours, for x (B, n) and y (B, m)."""
        n, m = x.shape[1], y.shape[1]
        if self.pattern.shape != (n, m):
            raise ValueError(
                f"sparsity must have a row for each of n={n} inputs and a column for each of m={m} outputs, as they "
                f"lie flattened side by side, but has shape {tuple(self.pattern.shape)}"
            )
        colors, pattern = self.colors.to(x.device), self.pattern.to(x.device)
        for start in range(0, self.num_colors, size):
            block = torch.arange(start, min(start + size, self.num_colors), device=x.device)
            moved = (colors == block.unsqueeze(1)).unsqueeze(1)  # (G, 1, n)
            inputs = moved.any(0)[0].nonzero().flatten()  # (k,)
            yield Block(moved, inputs, colors[inputs] - start, pattern[inputs].unsqueeze(1))

    def extra_repr(self) -> str:
        """Show the size and what is saved."""
        n, m = self.pattern.shape
        return f"n={n}, m={m}, num_colors={self.num_colors}"


def single_inputs(size: int, x: Tensor) -> Iterator[Block]:
    """Yield blocks of at most ``size`` inputs of x (B, n), each moved by itself."""
    n = x.shape[1]
    for start in range(0, n, size):
        inputs = slice(start, min(start + size, n))
        yield Block(torch.eye(n, dtype=torch.bool, device=x.device)[inputs].unsqueeze(1), inputs)


def _color(pattern: Tensor) -> Tensor:
    """Return the colour of each input, (n,)."""
    n, m = pattern.shape
    colors = torch.zeros(n, dtype=torch.long, device=pattern.device)
    taken = torch.zeros(0, m, dtype=torch.bool, device=pattern.device)  # the outputs of each colour so far
    for i in pattern.sum(1).argsort(descending=True, stable=True).tolist():
        free = (~(taken & pattern[i]).any(1)).nonzero().flatten()
        color = int(free[0]) if len(free) else len(taken)
        if color == len(taken):
            taken = torch.cat([taken, torch.zeros_like(pattern[:1])])
        taken[color] |= pattern[i]
        colors[i] = color
    return colors
