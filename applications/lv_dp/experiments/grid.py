"""Figure 5.2: the number of rays N against the smoothness delta."""

from __future__ import annotations

from applications.lv_dp.experiments import published
from applications.lv_dp.experiments.ablations import quarter
from applications.lv_dp.experiments.figures.heat import draw_heat
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.points import Point, scored
from applications.lv_dp.settings import ProfileName

RAYS: dict[ProfileName, tuple[int, ...]] = {"smoke": (8, 12), "cpu": (12, 25, 50)}
DELTAS: dict[ProfileName, tuple[int, ...]] = {"smoke": (1, 2), "cpu": (1, 2, 5)}
AS_IN_THE_THESIS = ((12, 25, 50, 100), (1, 2, 5, 7, 10))
SLICES: dict[ProfileName, int] = {"smoke": 4, "cpu": 50}  # else 200, as in the thesis
INNER_SEED = 1  # settings are chosen on patients held out within the training patients


def points(options: ReproduceConfig) -> list[Point]:
    """Return every pair (N, delta), smoothed over about N/4 rays."""
    rays = RAYS.get(options.profile, AS_IN_THE_THESIS[0])
    deltas = DELTAS.get(options.profile, AS_IN_THE_THESIS[1])
    return [_point(options, N, delta) for N in rays for delta in deltas]


def size(options: ReproduceConfig) -> int:
    """Return the number of training slices."""
    return options.at_most(SLICES.get(options.profile, 200), INNER_SEED)


def _point(options: ReproduceConfig, N: int, delta: int) -> Point:
    change = (f"num_rays={N}", f"delta={delta}", f"smoothing={quarter(N)}")
    cells = tuple(
        options.training(size(options), seed, change=change, inner_seed=INNER_SEED)
        for seed in options.all_seeds
    )
    return Point(f"N = {N}", delta, "edpcnn", cells)


EXPERIMENTS = (
    scored(
        "figure-5-2",
        "grid of the number of rays N and the smoothness delta, on patients held out within the training ones",
        points,
        lambda options, entries: draw_heat(
            entries,
            "smoothness delta (indices)",
            f"EDPCNN, {size(options)} slices: Dice on held-out patients",
        ),
        published=published.CLAIMS["figure-5-2"],
    ),
)
