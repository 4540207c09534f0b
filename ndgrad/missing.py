"""Samples that are missing because their evaluation failed.

A failed evaluation reaches an estimator as a row of NaN, in every output. What needs it is missing (a pair, when either
side is), and the estimate is made from the S_b samples that row b has left. Each of those is distributed as it was
drawn if failures have nothing to do with the draw, so a mean over them is unbiased, however many there are. Other rows
keep their estimates, bit for bit.

``good`` (S, B) marks the samples that remain. It is None as long as nothing fails, which one look at the first number
of each row finds out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ndgrad.errors import TooManyFailuresError

Rows = tuple[Tensor, ...]


def came_back(values: Rows) -> Tensor | None:
    """Mark the rows (R,) that are not NaN throughout; None where all rows are such."""
    if _all_numbers(values, 1):
        return None
    failed = [y.reshape(len(y), y.shape[1:].numel()).isnan().all(1) for y in values]
    good = ~torch.stack(failed).all(0)
    return None if good.all() else good


def _all_numbers(values: Rows, ndim: int) -> bool:
    """Whether the first number of each row is one, with rows along the first ``ndim`` dimensions.

    A sum that is a number proves its terms to be numbers, in one small kernel. Another may be overflow, so look again.
    """
    first = next((y for y in values if y.numel()), None)
    if first is None:
        return True
    while first.ndim > ndim:
        first = first.select(-1, 0)
    return not math.isnan(first.sum())


def good_samples(values: Rows, least: int = 1) -> Tensor | None:
    """Mark the samples (S, B) of values (S, B, ...) that came back; None where all did.

    Raises:
        TooManyFailuresError: where a row has fewer than ``least`` left.

    """
    if _all_numbers(values, 2):
        return None
    good = came_back(tuple(y.flatten(0, 1) for y in values))
    if good is None:
        return None
    good = good.unflatten(0, values[0].shape[:2])
    require_samples(good, least)
    return good


def require_samples(good: Tensor, least: int | Tensor) -> None:
    """Require ``least`` samples, a number or one for each row (B,), among ``good`` (S, B)."""
    short = good.sum(0) < least  # (B,)
    if short.any():
        row = int(short.nonzero()[0])
        needed = int(torch.as_tensor(least).expand(len(short))[row])
        raise TooManyFailuresError(
            f"an estimate for row {row} of the inputs needs at least {needed} of its {len(good)} samples, but only "
            f"{int(good[:, row].sum())} came back; the others, or their partners in pairs, failed. Keep probes "
            "in the function's domain (bounds=, a smaller sigma), or let it return a penalty there; if failures are "
            "chance, raise the number of samples, or type on_error='retry' in ndgrad.wrap"
        )


def reweigh(terms: Tensor, good: Tensor | None) -> Tensor:
    """Weigh terms (S, B, ...) so that a sum over all S of them, divided by S, is the mean of those that remain.

    A sample that remains has the weight S / S_b, which is exactly 1 in a row that lost none; a missing one has 0.
    """
    if good is None:
        return terms
    weight = len(good) / good.sum(0, dtype=terms.dtype)  # (B,)
    return torch.where(behind(good, terms), terms * behind(weight, terms[0]), 0.0)


def leave_one_out(w: Tensor, good: Tensor | None = None) -> Tensor:
    """Mean over the *other* samples that remain, (S, B, ...): a baseline that leaves the estimate unbiased."""
    if good is None:
        return (w.sum(0) - w) / (w.shape[0] - 1)
    w = torch.where(behind(good, w), w, 0.0)
    return (w.sum(0) - w) / behind(good.sum(0) - 1, w[0])


def less_baseline(values: Rows, baseline: Rows, good: Tensor | None) -> Rows:
    """Subtract a baseline (B, ...) from values (S, B, ...); where it failed itself, the mean of the other samples."""
    known = came_back(baseline)  # (B,)
    if known is not None:
        every = torch.ones(values[0].shape[:2], dtype=torch.bool, device=known.device)
        require_samples(every if good is None else good, 2 - known.long())
        baseline = tuple(
            torch.where(behind(known, b), b, leave_one_out(y, good))
            for y, b in zip(values, baseline, strict=True)
        )
    return tuple(y - b for y, b in zip(values, baseline, strict=True))


def behind(w: Tensor, like: Tensor) -> Tensor:
    """Give ``w``, (S, B) or (B,), as many dimensions as ``like`` (S, B, ...) or (B, ...)."""
    return w.reshape(*w.shape, *[1] * (like.ndim - w.ndim))
