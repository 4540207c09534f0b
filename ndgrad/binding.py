"""How the arguments of a call are read: what is differentiated, what goes with the rows, what is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ndgrad.arguments import Argument, Key, Leaf, find_argument, list_arguments, read_arguments
from ndgrad.call import Call
from ndgrad.interface import is_array
from ndgrad.parameters import parameter_arguments, refuse_in_call

ArgNums = Key | Sequence[Key] | None
InDims = int | Sequence[int | None] | dict[Key, int | None] | None


@dataclass(frozen=True)
class BindingRules:
    """How the arguments of every call are to be read (see `ndgrad.wrap`)."""

    parameter_names: tuple[str, ...]
    keyword_names: tuple[str, ...]
    argnums: tuple[Key, ...] | None
    in_dims: InDims
    batched: bool
    vectorize: bool
    remembered: list[tuple[Key, int]] = field(default_factory=list)
    """What required a gradient in the last call where anything did: argument and leaf. In a call where nothing does, as
    in evaluation, the rows are theirs."""

    def bind(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wants_constant_inputs: bool,
        parameters: Mapping[str, Tensor],
    ) -> Call:
        """Assign every leaf its role and collect the inputs: those among the arguments, then the parameters."""
        arguments = read_arguments(args, kwargs, self.parameter_names, self.keyword_names)
        refuse_in_call(arguments, parameters)
        declared = _declarations(self.in_dims, arguments)
        self._assign_rows(arguments, declared)
        trained = any(parameter.requires_grad for parameter in parameters.values())
        candidates = self._assign_inputs(arguments, declared, wants_constant_inputs, trained)
        like = next(iter(_inputs(arguments) or [leaf.value for leaf in candidates]), None)
        single = not self.batched and not self.vectorize
        num_rows = None if single else _common_rows(arguments)
        arguments += parameter_arguments(parameters, num_rows, like, self._companion_role())
        inputs = _inputs(arguments)
        like = inputs[0] if like is None and inputs else like
        dtype = torch.get_default_dtype() if like is None else like.dtype
        device = torch.device("cpu") if like is None else like.device
        _check_devices(arguments, device)
        if num_rows is None:
            return Call(tuple(x.unsqueeze(0) for x in inputs), 1, dtype, device, arguments)
        return Call(tuple(inputs), num_rows, dtype, device, arguments)

    def _assign_rows(self, arguments: list[Argument], declared: list[int | str | None]) -> None:
        for argument, dim in zip(arguments, declared, strict=True):
            holds_array = any(is_array(leaf.value) for leaf in argument.leaves)
            if dim == 0 and not holds_array and not isinstance(self.in_dims, int):
                raise ValueError(
                    f"in_dims declares rows of {argument}, which holds no tensor or array to take them from; pass the "
                    "numbers of its rows, torch.arange(B), and look them up in the function"
                )
            for leaf in argument.leaves:
                if dim == 0 and is_array(leaf.value):
                    leaf.role = "row"
        with_arrays = [
            argument for argument in arguments if any(is_array(leaf.value) for leaf in argument.leaves)
        ]
        if self.vectorize and len(with_arrays) > 1 and self.in_dims is None and self.argnums is None:
            listing = ", ".join(map(str, with_arrays))
            example = ", ".join(["0"] + ["None"] * (len(with_arrays) - 1))
            raise ValueError(
                f"vectorize=True takes rows of its arguments apart, and {len(with_arrays)} arguments hold tensors "
                f"({listing}): say which have rows, for example in_dims=({example})"
            )

    def _assign_inputs(
        self,
        arguments: list[Argument],
        declared: list[int | str | None],
        wants_constant_inputs: bool,
        trained: bool,
    ) -> list[Leaf]:
        """Give the inputs and their companions their roles; return both.

        Where nothing requires a gradient (nor is a parameter ``trained``), all of them are inputs.
        """
        with_rows = [a for a, dim in zip(arguments, declared, strict=True) if dim != "shared"]
        if self.argnums is None:
            leaves = [leaf for argument in arguments for leaf in argument.leaves]
            candidates = [leaf for leaf in leaves if leaf.needs_grad]
            if candidates:
                self._remember(arguments)
            else:
                candidates = self._recall(arguments) or _leaves_of_first(
                    with_rows, lambda leaf: leaf.is_float
                )
        else:
            chosen = [find_argument(key, arguments, "argnums") for key in self.argnums]
            candidates = [leaf for argument in chosen for leaf in argument.leaves if leaf.is_float]
        for argument, dim in zip(arguments, declared, strict=True):
            if dim == "shared" and any(
                leaf is candidate for leaf in argument.leaves for candidate in candidates
            ):
                raise ValueError(
                    f"{argument} is to be differentiated, but in_dims declares it shared by all rows; estimators "
                    "differentiate inputs that have rows. Pass it detached, or expand it to rows and type 0"
                )
        active = trained or any(leaf.needs_grad for leaf in candidates)
        for leaf in candidates:
            leaf.role = (
                "input" if leaf.needs_grad or wants_constant_inputs or not active else self._companion_role()
            )
        if not candidates and (self.batched or self.vectorize):  # integers only: they still have rows
            for leaf in _leaves_of_first(with_rows, lambda leaf: is_array(leaf.value)):
                leaf.role = "row"
        return candidates

    def _remember(self, arguments: list[Argument]) -> None:
        self.remembered[:] = [
            (argument.key, index)
            for argument in arguments
            for index, leaf in enumerate(argument.leaves)
            if leaf.needs_grad
        ]

    def _recall(self, arguments: list[Argument]) -> list[Leaf]:
        leaves = {(a.key, index): leaf for a in arguments for index, leaf in enumerate(a.leaves)}
        found = [leaves[place] for place in self.remembered if place in leaves]
        return [leaf for leaf in found if leaf.is_float]

    def _companion_role(self) -> str:
        return "row" if self.batched or self.vectorize else "shared"


def _inputs(arguments: list[Argument]) -> list[Tensor]:
    return [leaf.value for argument in arguments for leaf in argument.leaves if leaf.role == "input"]


def _declarations(in_dims: InDims, arguments: list[Argument]) -> list[int | str | None]:
    """Return for each argument 0 (rows), "shared" (declared so), or None (not declared)."""
    if in_dims is None:
        return [None] * len(arguments)
    if isinstance(in_dims, int):
        return [0] * len(arguments)
    if isinstance(in_dims, dict):
        declared = {id(find_argument(key, arguments, "in_dims")): dim for key, dim in in_dims.items()}
        return [
            declared[id(a)] if declared.get(id(a), 1) == 0 else "shared" if id(a) in declared else None
            for a in arguments
        ]
    positional = sum(argument.position is not None for argument in arguments)
    if len(in_dims) != positional:
        raise ValueError(
            f"in_dims declares {len(in_dims)} positional arguments, but the call has {positional}: "
            f"{list_arguments(arguments)}"
        )
    dims: list[int | str | None] = ["shared" if dim is None else dim for dim in in_dims]
    return dims + [None] * (len(arguments) - positional)


def _leaves_of_first(arguments: list[Argument], suits: Callable[[Leaf], bool]) -> list[Leaf]:
    """Return the suitable leaves of the first argument that has any; statics may come before it."""
    for argument in arguments:
        if leaves := [leaf for leaf in argument.leaves if suits(leaf)]:
            return leaves
    return []


def _check_devices(arguments: list[Argument], device: torch.device) -> None:
    for argument in arguments:
        for leaf in argument.leaves:
            if leaf.role == "input" and leaf.value.device != device:
                raise ValueError(
                    f"all differentiated inputs must be on one device; {argument} is on {leaf.value.device}, the first "
                    f"input on {device}: move it with .to({str(device)!r})"
                )


def _common_rows(arguments: list[Argument]) -> int:
    """Return the batch size B that everything with rows agrees on; 1 where nothing has rows."""
    sizes: list[tuple[str, int]] = []
    for argument in arguments:
        for leaf in argument.leaves:
            if leaf.role != "shared":
                if leaf.value.ndim == 0:
                    raise ValueError(
                        f"{argument} must have rows, that is a leading batch dimension, but is a single number; pass "
                        "x.unsqueeze(0), or type batched=False for a function of one point"
                    )
                sizes.append((str(argument), leaf.value.shape[0]))
    if len({size for _, size in sizes}) > 1:
        listing = ", ".join(f"{name} has {size}" for name, size in sizes)
        raise ValueError(
            f"everything with rows must have the same number of them, but {listing}; inputs that require a gradient "
            "have rows, others only where in_dims or argnums say so"
        )
    return sizes[0][1] if sizes else 1
