"""The closed-contour dynamic program, smoothed: a Gibbs distribution over contours, differentiable by itself.

``p(v) ~ exp(-E(v) / T)`` over the closed contours v with ``|v_n - v_{n+1}| <= delta``, E the same energy that
`dynamic_programming.solve` minimises; T -> 0 leaves the best contour. Replacing min by a soft minimum is what
one would reach for instead of a bypass (Mensch and Blondel, "Differentiable dynamic programming", ICML 2018).
The closing constraint is met exactly, by one chain for every start index.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_marginals(unary: Tensor, delta: int, temperature: float = 1.0) -> Tensor:
    """Return the log-probability ``log p(v_n = i)`` of every index on every ray.

    Args:
        unary: finite costs (B, N, M).
        delta: largest index step between neighbouring rays, >= 0.
        temperature: T > 0, in units of the costs.

    Returns:
        (B, N, M), differentiable; every ray's probabilities sum to 1.

    Cost: O(N M^2 delta) time and memory for each row, forward and backward pass along the chain.

    Raises:
        ValueError: delta < 0 or T <= 0.

    Example:
        >>> costs = torch.tensor([[[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]])
        >>> log_marginals(costs, delta=0).exp()[0, 0]  # two contours, of energy 0 and 6
        tensor([0.9975, 0.0025])
    """
    if delta < 0 or temperature <= 0:
        raise ValueError(f"need delta >= 0 and temperature > 0, got {delta} and {temperature}")
    scores = -unary / temperature  # (B, N, M)
    M = unary.shape[2]
    closed = torch.full((M, M), -torch.inf, dtype=unary.dtype, device=unary.device).fill_diagonal_(
        0
    )  # (start, v)
    forward = _messages(
        scores, closed, delta
    )  # [n]: (B, start, M), of all that comes before ray n and n itself
    backward = _messages(scores.flip(1), _widen(closed, delta), delta)[::-1]
    # for each start: before and at ray n, times at ray n and after until the start is met again; n counted twice
    joint = torch.stack([f + b for f, b in zip(forward, backward, strict=True)], dim=1)  # (B, N, start, M)
    per_index = torch.logsumexp(joint, dim=2) - scores  # (B, N, M)
    return per_index - torch.logsumexp(per_index, dim=2, keepdim=True)


def _messages(scores: Tensor, first: Tensor, delta: int) -> list[Tensor]:
    """Go along the rays: message n is the log-weight of all chains up to ray n, for each start and index."""
    message = first + scores[:, 0, None]  # (B, start, M)
    messages = [message]
    for n in range(1, scores.shape[1]):
        message = _widen(message, delta) + scores[:, n, None]
        messages.append(message)
    return messages


def _widen(message: Tensor, delta: int) -> Tensor:
    """Log-sum over the indices within delta: (..., M) -> (..., M)."""
    bordered = F.pad(message, (delta, delta), value=-torch.inf)
    windows = bordered.unfold(-1, 2 * delta + 1, 1)  # (..., M, 2 delta + 1)
    # an empty window: -inf with gradient 0, where logsumexp alone would give NaN
    reachable = windows.isfinite().any(-1)
    safe = torch.where(reachable[..., None], windows, 0.0)
    return torch.where(reachable, torch.logsumexp(safe, dim=-1), -torch.inf)
