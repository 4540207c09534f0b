"""Held-out Dice of the left-ventricle model, one setting of the bypass at a time, read from the stored ablations."""

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt

import ndgrad

RESULTS = Path(ndgrad.__file__).parents[1] / "benchmarks" / "results"
LABELS = {  # of the axis, and the value of the profile
    "sigma": ("sigma, logits", "1.0"),
    "samples": ("samples S", "6"),
    "fit-steps": ("fit steps K", "5"),
    "capacity": ("base channels of the network", "8"),
    "smoothing": ("window of the moving average, rays", "5"),
    "jitter": ("centre of the star in training", "normal"),
}

MEASURED = {name: RESULTS / f"lv_ablation_{name.replace('-', '_')}.json" for name in LABELS}
MEASURED = {name: path for name, path in MEASURED.items() if path.exists()}


def scores(path):
    """Return the values of a setting, and the mean and deviation of the Dice at each."""
    content = json.loads(path.read_text())
    found = [s for s in content["scores"] if s["score"] == "dice_whole"]
    values = [str(s["column"]).replace(" (as 1e-6)", "") for s in found]
    return values, [s["mean"] for s in found], [s["deviation"] or 0.0 for s in found]  # None with one seed


rows = math.ceil(len(MEASURED) / 3)
columns = math.ceil(len(MEASURED) / rows)
figure, axes = plt.subplots(
    rows, columns, figsize=(3 * columns + 1, 2.8 * rows), sharey=True, squeeze=False, layout="constrained"
)
for axis, (name, path) in zip(axes.flat, MEASURED.items(), strict=False):
    label, own = LABELS[name]
    values, means, deviations = scores(path)
    axis.errorbar(values, means, deviations, fmt="o-", color="#0072b2", capsize=3)
    axis.axvline(own, color="0.6", lw=1, ls="--")
    axis.set_xlabel(label)
for axis in axes[:, 0]:
    axis.set_ylabel("Dice, held out")
for axis in axes.flat[len(MEASURED) :]:
    axis.remove()
