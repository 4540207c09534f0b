"""What a bypass network is fitted by, how its output reads in the language of the function, and how good it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ndgrad.estimator import Rows

Loss = Callable[[Any, Any], Tensor]


class FitQuality:
    """How well the network predicted this call's samples *before* it was fitted to them.

    The numbers stay on their device until they are read, so that a fit does not wait for a GPU.
    """

    def __init__(self, value_error: Tensor, gradient_error: Tensor | None, loss: Tensor) -> None:
        self._value_error, self._gradient_error, self._loss = value_error, gradient_error, loss

    @property
    def value_error(self) -> float:
        """Root mean square of ``g(z) - f(z)``, relative to that of ``f(z)`` about its mean."""
        return self._value_error.item()

    @property
    def gradient_error(self) -> float | None:
        """The same for differences between samples around one input, which is what the gradient sees.

        None with a single sample.
        """
        return None if self._gradient_error is None else self._gradient_error.item()

    @property
    def loss(self) -> float:
        """The loss in the last fit step."""
        return self._loss.item()

    def __repr__(self) -> str:
        return f"FitQuality(value_error={self.value_error}, gradient_error={self.gradient_error}, loss={self.loss})"


def default_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, or cross-entropy where ``prediction`` (R, C, ...) is logits of C >= 2 classes (R, ...)."""
    if has_classes(prediction, target):
        return F.cross_entropy(prediction, target.round().long())
    if prediction.shape != target.shape:
        raise ValueError(
            f"the surrogate must return the shape of the wrapped function, {tuple(target.shape)}, or class logits "
            f"{(target.shape[0], 'C', *target.shape[1:])} of C >= 2 classes; it returned {tuple(prediction.shape)}. "
            "Pass another surrogate, or loss= and decode="
        )
    return F.mse_loss(prediction, target.to(prediction.dtype))


def decoded(decode: Callable[[Any], Tensor] | None, predictions: Rows, targets: Rows) -> Rows:
    """Return predictions in the language of the targets; None for `default_decode`."""
    if decode is not None:
        return tuple(map(decode, predictions))
    return tuple(default_decode(g, y) for g, y in zip(predictions, targets, strict=True))


def default_decode(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the prediction itself, or the expected class index of its logits."""
    if not has_classes(prediction, target):
        return prediction
    classes = torch.arange(prediction.shape[1], dtype=prediction.dtype, device=prediction.device)
    return torch.einsum("rc...,c->r...", prediction.softmax(1), classes)


def has_classes(prediction: Tensor, target: Tensor) -> bool:
    """Whether ``prediction`` has one more dimension than ``target``, the second, of two classes or more."""
    has_one_more = prediction.ndim == target.ndim + 1
    return (
        has_one_more
        and prediction.shape[:1] + prediction.shape[2:] == target.shape
        and prediction.shape[1] >= 2
    )


def total_loss(loss: Loss, outputs: Rows, values: Rows) -> Tensor:
    """Return the sum of ``loss(g, f)`` over the outputs."""
    if len(outputs) != len(values):
        raise ValueError(
            f"the surrogate must return one tensor for each of the {len(values)} outputs of the wrapped function, "
            f"but returned {len(outputs)}"
        )
    return torch.stack([loss(g, f) for g, f in zip(outputs, values, strict=True)]).sum()


def measure(
    prediction: Rows, target: Rows, centred: Callable[[Tensor], Tensor] | None, loss: Tensor
) -> FitQuality | None:
    """Compare decoded predictions with targets (R, ...); None where their shapes differ.

    ``centred`` subtracts the mean over the samples around each input; None if no input has several.
    """
    if any(p.shape != t.shape for p, t in zip(prediction, target, strict=True)):
        return None
    g, f = (
        torch.cat([t.reshape(len(t), t.shape[1:].numel()) for t in rows], 1) for rows in (prediction, target)
    )
    value = _relative(g - f, f - f.mean(0))  # both (R, m)
    gradient = None if centred is None else _relative(centred(g - f), centred(f))
    return FitQuality(value, gradient, loss)


def _relative(error: Tensor, scale: Tensor) -> Tensor:
    return error.norm() / scale.norm().clamp(min=torch.finfo(scale.dtype).tiny)
