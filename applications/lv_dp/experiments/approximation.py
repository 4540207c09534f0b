"""Figure 2.1: networks of one hidden layer fit ``x sin 4x - cos sqrt(15 |x|)`` on [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.cells import Cell, Result, Store, Watch
from applications.lv_dp.experiments.experiment import Experiment, Results
from applications.lv_dp.experiments.figures.fits import draw_fits
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.summaries import Entry
from applications.lv_dp.settings import ProfileName

HIDDEN = (10, 20, 50, 200, 1000, 5000, 20000)  # the thesis' text and caption differ; both sets, and 1000
STEPS: dict[ProfileName, int] = {"smoke": 200}
DEFAULT_STEPS = 2000
POINTS = 201


def target(x: Tensor) -> Tensor:
    """Return the function of section 2.2.3.

    Example:
        >>> target(torch.tensor([0.0]))
        tensor([-1.])
    """
    return x * (4 * x).sin() - (15 * x.abs()).sqrt().cos()


@dataclass(frozen=True)
class FitCell(Cell):
    """One network's fit: mean squared error on an even grid, Adam, all points in every step."""

    hidden: int
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Number of hidden units and seed."""
        return f"mlp{self.hidden}-seed{self.seed}"

    def identity(self) -> dict[str, Any]:
        """Return all of it."""
        return {"hidden": self.hidden, "steps": self.steps, "seed": self.seed, "points": POINTS}

    def run(self, folder: Path, store: Store, watch: Watch) -> Result:
        """Fit, and return the fitted values and the root of the mean squared error."""
        x = torch.linspace(-1, 1, POINTS)[:, None]
        network = self._network()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1 / self.hidden**0.5)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(1, self.steps + 1):
            loss = (network(x) - target(x)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            watch(step, self.steps)
        with torch.no_grad():
            fitted = network(x)
        error = float((fitted - target(x)).square().mean().sqrt())
        return {"x": x[:, 0].tolist(), "fitted": fitted[:, 0].tolist(), "rmse": error}

    def _network(self) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return nn.Sequential(nn.Linear(1, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))


def fits(options: ReproduceConfig) -> list[FitCell]:
    """Return one fit for each number of hidden units, with the first seed."""
    hidden = HIDDEN[:3] if options.is_small else HIDDEN
    steps = options.iterations or STEPS.get(options.profile, DEFAULT_STEPS)
    return [FitCell(units, steps, options.first_seed) for units in hidden]


def cells(options: ReproduceConfig) -> list[Cell]:
    """Return the fits."""
    return [*fits(options)]


def entries(results: Results) -> list[Entry]:
    """Return the error of every fit."""
    found = ((cell, results.of(cell)) for cell in fits(results.options))
    return [Entry("RMSE", cell.hidden, (result["rmse"],) if result else ()) for cell, result in found]


def figure(results: Results) -> Figure:
    """Draw every fit over the function."""
    x = torch.linspace(-1, 1, POINTS)
    return draw_fits(
        x.tolist(),
        target(x).tolist(),
        {cell.hidden: results.of(cell) for cell in fits(results.options)},
        fits(results.options)[0].steps,
    )


EXPERIMENTS = (
    Experiment(
        "figure-2-1",
        "networks of 10 to 20000 hidden units fit x sin 4x - cos sqrt(15 |x|)",
        cells,
        entries,
        figure,
        published.CLAIMS["figure-2-1"],
    ),
)
