"""What a bypass network answers at the input itself, where its gradient is taken and no sample lies.

    python -m benchmarks.bypass_at_the_input

The network F of the left-ventricle model is fitted to the dynamic program around warped maps with one drop per row of
random place, as in a training. Then it is asked for the contour of fresh maps: at the maps themselves, and at samples
around them. Batch normalisation takes its statistics from samples, whose noise the map itself does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

import ndgrad
from applications.lv_dp.gradients import contour
from applications.lv_dp.settings import Settings
from applications.lv_dp.unet import BypassNetwork, Norm
from benchmarks.provenance import provenance, write_json

_KINDS: dict[str, tuple[Norm, bool]] = {
    "batch norm": ("batch", False),
    "batch norm, fit_at_input": ("batch", True),
    "group norm": ("group", False),
    "group norm, fit_at_input": ("group", True),
}


@dataclass(frozen=True)
class Config:
    """How long to fit, and how to ask."""

    calls: int = 300
    """Calls of the wrapped program, each with a batch of new maps."""
    batch: int = 10
    sigma: float = 1.0
    num_samples: int = 3
    fit_steps: int = 2
    height: float = 4.0
    """Of the drop, in the map's units, as sigma."""
    asked: int = 500
    """Fresh maps."""
    seed: int = 0
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """Folder for bypass_at_the_input.json; nothing is written without it."""


def main(config: Config) -> dict[str, Any]:
    """Fit and ask each kind; prints and returns mean and root mean square of the error, in indices.

    Raises:
        ValueError: calls, batch or asked below 1.
    """
    if min(config.calls, config.batch, config.asked) < 1:
        raise ValueError(
            f"--calls, --batch and --asked are 1 or more, got {config.calls}, {config.batch} and {config.asked}"
        )
    torch.set_num_threads(config.threads)
    rows = {name: _ask(_fitted(norm, at_input, config), config) for name, (norm, at_input) in _KINDS.items()}
    for name, row in rows.items():
        at_x, around = (
            f"{row[key]['mean']:+.2f} (rms {row[key]['rms']:.2f})" for key in ("at_input", "around")
        )
        print(f"{name}: index error at the input {at_x}, at samples around it {around}")
    results = {"rows": rows, **provenance(config)}
    write_json(config.out, "bypass_at_the_input", results)
    return results


def _fitted(norm: Norm, fit_at_input: bool, config: Config) -> torch.nn.Module:
    """Return the network after ``calls`` calls on batches of maps."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    settings = Settings()
    estimator = ndgrad.DiffBypass(
        BypassNetwork(settings.bypass_levels, settings.bypass_channels, norm),
        sigma=config.sigma,
        num_samples=config.num_samples,
        fit_steps=config.fit_steps,
        forward="bypass",
        fit_at_input=fit_at_input,
        generator=generator,
    )
    box = ndgrad.wrap(lambda warped: contour(settings, warped), estimator=estimator)
    for _ in range(config.calls):
        maps = _maps(config.batch, config.height, generator).requires_grad_()
        box(maps).sum().backward()
    network = estimator.network
    assert network is not None  # fitted by the first call
    return network.eval()


def _maps(count: int, height: float, generator: torch.Generator) -> Tensor:
    """Return warped maps (B, N, M+1) that fall by ``height`` around a random radius, the same on all rays."""
    settings = Settings()
    N, M = settings.num_rays, settings.num_radii
    radius = 3 + (M - 8) * torch.rand(count, 1, 1, generator=generator)
    return (height * torch.sigmoid((radius - torch.arange(M + 1.0)) / 1.5)).expand(count, N, M + 1).clone()


@torch.no_grad()
def _ask(network: Callable[[Tensor], Tensor], config: Config) -> dict[str, dict[str, float]]:
    """Compare the most likely index with the program's, at maps and around them."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    maps = _maps(config.asked, config.height, generator)
    noisy = maps + config.sigma * torch.randn(maps.shape, generator=generator)
    return {"at_input": _error(network, maps), "around": _error(network, noisy)}


def _error(network: Callable[[Tensor], Tensor], maps: Tensor) -> dict[str, float]:
    error = network(maps).argmax(1) - contour(Settings(), maps)  # (B, N)
    return {"mean": error.mean().item(), "rms": error.square().mean().sqrt().item()}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
