"""Noise directions and evaluations of the sampling estimators.

Every law of directions has ``E[eps] = 0`` and ``E[eps epsᵀ] = I``, so that ``E[<g, eps> eps] = g``. They differ in
fourth moments, hence in which smoothing of the function they differentiate (``FOURTH_MOMENT``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from ndgrad.estimator import RowFunction, Rows, as_tuple, working_dtype

Directions = Callable[[int, Tensor, torch.Generator | None], Tensor]


def gaussian(num_samples: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw independent standard normal directions, shape (S, B, n) for x (B, n)."""
    return torch.randn((num_samples, *x.shape), dtype=x.dtype, device=x.device, generator=generator)


def rademacher(num_samples: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw independent signs, shape (S, B, n): the directions of SPSA (Spall 1992)."""
    bits = torch.randint(2, (num_samples, *x.shape), device=x.device, generator=generator)
    return (2 * bits - 1).to(x.dtype)


def sphere(num_samples: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw directions uniform on the sphere of radius sqrt(n), shape (S, B, n)."""
    eps = gaussian(num_samples, x, generator)  # (S, B, n)
    return eps * (math.sqrt(x.shape[-1]) / eps.norm(dim=-1, keepdim=True))


def orthogonal(num_samples: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw blocks of n mutually orthogonal directions of norm sqrt(n), shape (S, B, n).

    Each block is a Haar-distributed frame (Choromanski et al. 2018, arXiv 1804.02395); of the last, partial block
    only the S mod n first directions are drawn. Each direction alone is uniform on the sphere, so any S is unbiased.
    """
    return orthogonal_to(x.unsqueeze(1)[:, :0], num_samples, generator)


def orthogonal_to(fixed: Tensor, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Draw as `orthogonal` does, in the complement of k orthonormal vectors of each row, ``fixed`` (B, k, n).

    Blocks have n - k directions of norm sqrt(n), shape (S, B, n); each alone is uniform on a sphere of the complement.
    """
    size = fixed.shape[2] - fixed.shape[1]
    full, rest = divmod(num_samples, max(size, 1))
    blocks = [_frames(full, size, fixed, generator)] if full else []
    if rest:
        blocks.append(_frames(1, rest, fixed, generator))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _frames(count: int, size: int, fixed: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw ``count`` sets of ``size`` orthogonal vectors of norm sqrt(n) for each row, shape (count * size, B, n)."""
    B, k, n = fixed.shape
    rows = torch.randn((count, B, size, n), dtype=fixed.dtype, device=fixed.device, generator=generator)
    if k:  # first in line, so that the rest is orthogonalised to them
        rows = torch.cat([(math.sqrt(n) * fixed).expand(count, B, k, n), rows], dim=2)
    frames = _by_cholesky(rows) if 2 * rows.shape[2] <= n else _by_qr(rows)  # (count, B, k + size, n)
    return frames[:, :, k:].transpose(1, 2).flatten(0, 1)


def _by_qr(rows: Tensor) -> Tensor:
    """Orthogonalise the rows of (..., size, n), to norm sqrt(n)."""
    q, r = torch.linalg.qr(rows.mT)  # q (..., n, size), r (..., size, size)
    # LAPACK fixes the signs of R's diagonal in its own way; only with a positive diagonal is Q Haar (Mezzadri 2007)
    return (q * (r.diagonal(dim1=-2, dim2=-1).sign() * math.sqrt(rows.shape[-1])).unsqueeze(-2)).mT


def _by_cholesky(rows: Tensor) -> Tensor:
    """Orthogonalise the rows of (..., size, n): the same frame as `_by_qr`, faster, for well-conditioned rows.

    With A Aᵀ = L Lᵀ the rows of L⁻¹ A are orthonormal, and L has a positive diagonal. Rounding grows with the squared
    condition number of A, below 40 for Gaussian rows with 2 size <= n and large n.
    """
    factor = torch.linalg.cholesky(rows @ rows.mT)  # (..., size, size)
    identity = torch.eye(rows.shape[-2], dtype=rows.dtype, device=rows.device)
    scaled = (math.sqrt(rows.shape[-1]) * identity).expand_as(factor)
    return torch.linalg.solve_triangular(factor, scaled, upper=False) @ rows


_SOBOL_BITS = 52  # u = (k + 1/2) / 2^52 is exact in float64, and neither 0 nor 1 for any k < 2^52


def sobol(num_samples: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw scrambled Sobol points, mapped to standard normal directions, shape (S, B, n).

    Each row and coordinate has a scrambling of its own, a random lower triangular matrix and a random shift of
    the binary digits (Matousek 1998). Every point is then uniform, every direction standard normal, while the S points
    of a row are spread evenly. They are not independent: between samples ``E[eps_s eps_tᵀ]`` is diagonal and mostly
    negative, so that no other sample is a baseline.
    """
    B, n = x.shape
    if n > SobolEngine.MAXDIM:
        raise ValueError(
            f"directions='sobol' has at most {SobolEngine.MAXDIM} dimensions, but the inputs have n={n}; type "
            "directions='orthogonal'"
        )
    num_bits = max(num_samples - 1, 1).bit_length()
    points = SobolEngine(max(n, 1)).draw(num_samples, dtype=torch.float64)[:, :n].to(x.device)  # (S, n)
    digits = (points * 2**num_bits).long().unsqueeze(1)  # (S, 1, n), as integers of num_bits bits

    def integers(bits: int) -> Tensor:
        return torch.randint(2**bits, (B, n), generator=generator, device=x.device)

    scrambled = integers(_SOBOL_BITS).repeat(num_samples, 1, 1)  # (S, B, n)
    for bit in range(num_bits):  # a digit flips its own place and a random set of those behind
        place = _SOBOL_BITS - num_bits + bit
        column = 2**place + integers(place)  # (B, n)
        scrambled ^= (digits >> bit & 1) * column
    return torch.special.ndtri((scrambled.double() + 0.5) / 2**_SOBOL_BITS).to(x.dtype)


DIRECTIONS: dict[str, Directions] = {
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "rademacher": rademacher,
    "sobol": sobol,
    "sphere": sphere,
}

FOURTH_MOMENT: dict[str, Callable[[int], float]] = {
    "gaussian": lambda n: 3.0,
    "orthogonal": lambda n: 3.0 * n / (n + 2),
    "rademacher": lambda n: 1.0,
    "sobol": lambda n: 3.0,
    "sphere": lambda n: 3.0 * n / (n + 2),
}
"""``E[eps_i^4]`` in n dimensions: the gradient of the smoothed ``x^3`` is ``3 x^2 + sigma^2 E[eps_i^4]``."""


def antithetic_values(f: Callable[[Tensor], Tensor], upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate both sides of S pairs, (S, B, n) each, in one call: two tensors (S, B, m)."""
    above, below = f(torch.cat([upper, lower])).chunk(2)
    return above, below


def evaluate_samples(f: RowFunction, samples: Rows) -> tuple[Rows, bool]:
    """Evaluate f on samples (S, B, ...) of its inputs.

    Returns:
        Its outputs as floats of at least single precision, (S, B, ...) each, and whether f returns a single tensor.

    """
    raw = f(*(z.flatten(0, 1) for z in samples))
    values = (y.to(working_dtype(y)).unflatten(0, samples[0].shape[:2]) for y in as_tuple(raw))
    return tuple(values), isinstance(raw, Tensor)


def sum_to_rows(terms: Tensor) -> Tensor:
    """Sum (S, B, ...) over everything behind sample and row, (S, B)."""
    return terms.sum(tuple(range(2, terms.ndim))) if terms.ndim > 2 else terms


def contract(values: Rows, cotangents: Rows) -> Tensor:
    """Return ``<v, y_s>`` for every sample and row: values (S, B, ...) and cotangents (B, ...) to (S, B)."""
    return torch.stack([sum_to_rows(y * v) for y, v in zip(values, cotangents, strict=True)]).sum(0)
