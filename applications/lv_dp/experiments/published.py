"""The numbers of the thesis (N. M. Nguyen, University of Alberta, 2019) and of the later publication."""

from __future__ import annotations

from typing import Any

SIZES = (10, 20, 50, 100, 200, 500, 1000, 1436)

TABLE_5_1: dict[str, dict[int, float]] = {  # Dice inside the star's square, ACDC validation
    "unet": dict(zip(SIZES, (0.5115, 0.6511, 0.7321, 0.7990, 0.8392, 0.8862, 0.9020, 0.9096), strict=True)),
    "unet_dp": dict(
        zip(SIZES, (0.6025, 0.6558, 0.7296, 0.8135, 0.8558, 0.8891, 0.8978, 0.9031), strict=True)
    ),
    "edpcnn": dict(zip(SIZES, (0.7270, 0.7569, 0.8015, 0.8328, 0.8701, 0.8990, 0.9093, 0.9137), strict=True)),
}

LATER: dict[str, dict[int, float]] = {  # arXiv 1812.00328, MIDL 2020
    "unet": {10: 0.695, 1436: 0.944},
    "unet_dp": {10: 0.719, 1436: 0.936},
    "edpcnn": {10: 0.907, 1436: 0.947},
}

TABLE_5_2: dict[str, dict[str, float]] = {  # seconds on an NVIDIA GTX 1080 Ti
    "unet": {"training iteration": 0.96, "inference, one image": 0.01465},
    "edpcnn": {"training iteration": 1.575, "inference, one image": 0.01701},
}

CLAIMS: dict[str, str] = {
    "figure-2-1": "the more hidden units, the better the fit",
    "figure-5-2": "N = 25 and delta = 1 are good; Dice drops by about 3 % at the extremes (N = 100, delta = 10)",
    "figure-5-4": "no significant degradation at 0.2 of the object radius or below",
    "figure-5-5": "with 10 slices the U-Net varies and overfits, EDPCNN does not",
    "figure-5-7": "EDPCNN does not work as well on small left ventricles",
    "figure-5-8": "on the low-dimensional U-Net the evolution strategy does about as well as DiffBypass",
    "figure-5-9": "on the full U-Net the evolution strategy does worse than on the low-dimensional one",
    "ablation-sigma": "sigma = 1 works well; without exploration F overfits and misleads",
    "ablation-samples": "S = 10 works well; more samples trade time for accuracy of the gradient",
    "ablation-fit-steps": "K = 10 fits F well enough",
    "ablation-capacity": "8 base channels of F work well",
    "ablation-smoothing": "smoothing over about N/4 rays adds 0.5 to 0.8 % Dice",
    "ablation-jitter": "moving the centre at random adds up to about 2 % Dice on small training sets",
}


def table_5_1() -> dict[str, Any]:
    """Return what stands beside our table 5.1."""
    return {"thesis": TABLE_5_1, "later publication": LATER}
