"""What ``torch.func`` and forward-mode differentiation make of a tensor: levels of wrappers around its values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ndgrad.errors import UnsupportedTransformError

_functorch = torch._C._functorch


def inside_transform() -> bool:
    """Whether a transform of ``torch.func`` is active."""
    return _functorch.peek_interpreter_stack() is not None


def requires_gradient(x: Tensor) -> bool:
    """Whether x requires a gradient at any level: below ``vmap``, ``x.requires_grad`` does not say so."""
    return any(level.requires_grad for level in _levels(x))


def has_tangent(x: Tensor) -> bool:
    """Whether a forward-mode derivative is under way with respect to x."""
    return any(forward_ad.unpack_dual(level).tangent is not None for level in _levels(x))


def plain(x: Tensor) -> Tensor:
    """Return the values of x without levels: what a black box can read.

    Raises:
        UnsupportedTransformError: for a tensor that ``torch.func.vmap`` maps, whose values belong to several calls.

    """
    for level in _levels(x):
        if _functorch.is_batchedtensor(level):
            raise UnsupportedTransformError(
                "torch.func.vmap maps the differentiated inputs of a wrapped function, and nothing else that goes into "
                "it; give it all rows at once, box(x.flatten(0, 1)), with in_dims= for what goes with them, or name "
                "what is mapped in argnums="
            )
    return level.detach()


def _levels(x: Tensor) -> Iterator[Tensor]:
    yield x
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
        yield x


def fold(
    tensors: Sequence[Tensor], dims: Sequence[int | None], size: int, axis: int = 0
) -> tuple[Tensor, ...]:
    """Make the mapped dimension part of the one at ``axis``, (B, ...) to (K B, ...); where it is -1, a new first one.

    What is not mapped (dim None) is repeated.
    """
    place = max(axis, 0)
    moved = (
        t.unsqueeze(place).expand(*t.shape[:place], size, *t.shape[place:]) if dim is None else t.movedim(dim, place)
        for t, dim in zip(tensors, dims, strict=True)
    )
    return tuple(t if axis < 0 else t.flatten(axis, axis + 1) for t in moved)


def unfold(tensors: Sequence[Tensor], size: int, axis: int = 0) -> tuple[Tensor, ...]:
    """Take the dimension at ``axis`` apart, (K B, ...) to (K, B, ...)."""
    return tuple(t.unflatten(axis, (size, t.shape[axis] // size)) for t in tensors)


_LEVEL = 1  # is_grads_batched=True wraps cotangents by a vmap of its own, older than that of torch.func and never nested


def unstack(cotangents: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Return the K cotangents (K, B, ...) of ``torch.autograd.grad(is_grads_batched=True)``; None where it is not."""
    stacked = next((v for v in cotangents if _functorch.is_legacy_batchedtensor(v)), None)
    if stacked is None:
        return None
    size = torch._remove_batch_dim(stacked, _LEVEL, 0, 0).shape[0]
    return tuple(torch._remove_batch_dim(v, _LEVEL, size, 0) for v in cotangents)


def restack(products: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Undo `unstack` for what was made of them, (K, B, ...)."""
    return tuple(torch._add_batch_dim(g, 0, _LEVEL) for g in products)
