"""What ``torch.func`` and forward-mode differentiation make of a tensor: levels of wrappers around its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ndgrad.errors import UnsupportedTransformError

Tensors = tuple[Tensor, ...]

_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_is_mapped = torch._C._functorch.is_batchedtensor
_unwrap = torch._C._functorch.get_unwrapped


def inside_transform() -> bool:
    """Whether a transform of ``torch.func`` is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def requires_gradient(x: Tensor) -> bool:
    """Whether x requires a gradient at any level: below ``vmap``, ``x.requires_grad`` does not say so."""
    return x.requires_grad or (_is_wrapped(x) and requires_gradient(_unwrap(x)))


def has_tangent(x: Tensor) -> bool:
    """Whether a forward-mode derivative is under way with respect to x."""
    if not _is_wrapped(x):
        return forward_ad.unpack_dual(x).tangent is not None
    own = not _is_mapped(x) and forward_ad.unpack_dual(x).tangent is not None
    return own or has_tangent(_unwrap(x))


def plain(x: Tensor) -> Tensor:
    """Return x without levels: what a black box can read.

    Raises:
        UnsupportedTransformError: for a tensor that ``torch.func.vmap`` maps, whose values belong to several calls.

    """
    if not _is_wrapped(x):
        return x
    if _is_mapped(x):
        raise UnsupportedTransformError(
            "torch.func.vmap may map the differentiated inputs of a wrapped function, but nothing else that it reads; "
            "name what is mapped in argnums=, or give it all rows at once, box(x.flatten(0, 1)), with in_dims= for "
            "what goes with them"
        )
    return plain(_unwrap(x))


def fold(tensors: Sequence[Tensor], dims: Sequence[int | None], size: int, axis: int = 0) -> Tensors:
    """Make the mapped dimension part of the one at ``axis``, (B, ...) to (K B, ...); where it is -1, a new first one.

    What is not mapped (dim None) is repeated.
    """
    place = max(axis, 0)
    moved = (
        t.unsqueeze(place).expand(*t.shape[:place], size, *t.shape[place:])
        if dim is None
        else t.movedim(dim, place)
        for t, dim in zip(tensors, dims, strict=True)
    )
    return tuple(t if axis < 0 else t.flatten(axis, axis + 1) for t in moved)


def unfold(tensors: Sequence[Tensor], size: int, axis: int = 0) -> Tensors:
    """Take the dimension at ``axis`` apart, (K B, ...) to (K, B, ...)."""
    return tuple(t.unflatten(axis, (size, t.shape[axis] // size)) for t in tensors)


_LEVEL = 1  # of the vmap that torch.autograd enters, which is older than that of torch.func and never nested


def is_stacked(vectors: Sequence[Tensor]) -> bool:
    """Whether ``torch.autograd`` wants several products at once, as for ``grad(is_grads_batched=True)``."""
    return any(map(torch._C._functorch.is_legacy_batchedtensor, vectors))


def on_stacks(product: Callable[[Tensors], Tensors], vectors: Tensors) -> Tensors:
    """Call ``product`` on the K vectors (K, B, ...) themselves, outside of that vmap, which forbids noise."""
    size = max(torch._remove_batch_dim(v, _LEVEL, 0, 0).shape[0] for v in vectors)
    stacks = tuple(torch._remove_batch_dim(v, _LEVEL, size, 0) for v in vectors)
    torch._C._vmapmode_decrement_nesting()
    try:
        products = product(stacks)
    finally:
        torch._C._vmapmode_increment_nesting()
    return tuple(torch._add_batch_dim(g, 0, _LEVEL) for g in products)
