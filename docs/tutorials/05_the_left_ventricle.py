"""
The left ventricle, through a dynamic program
=============================================

A U-Net turns an image of the heart into a map, an exact dynamic program finds the best closed
contour on it, and the loss is about the *contour*. The dynamic program has no derivative; a bypass
carries the gradient past it. This is the experiment of the thesis, here on a synthetic phantom and
at its smallest size.
"""

# %%
# The phantom
# -----------
# A ring of muscle around a pool of blood, with papillary muscles, fat and noise. Nothing has to be
# downloaded.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from applications.lv_dp import train
from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data.phantom import load_phantom

slices = load_phantom().slices
figure, axes = plt.subplots(1, 4, figsize=(9, 2.4))
for axis, each in zip(axes, slices[:: len(slices) // 4], strict=False):
    axis.imshow(each.image, cmap="gray")
    axis.contour(each.mask, [0.5], colors="#d55e00", linewidths=1)
    axis.set(xticks=[], yticks=[])
figure.tight_layout()
print(len(slices), "slices of", len({each.patient for each in slices}), "patients")

# %%
# Train
# -----
# On the command line this is ``python -m applications.lv_dp train --method edpcnn --estimator
# diff_bypass --data phantom --profile smoke --iterations 60 --out runs/first``. The profile
# ``smoke`` is the smallest: a star of 12 rays with 14 points each, a U-Net of two levels, and, per
# slice and iteration, 3 probes of the dynamic program. A third of the patients are held out.

results = {}
with tempfile.TemporaryDirectory() as folder:
    for method in ("unet", "edpcnn"):
        config = TrainConfig(Path(folder) / method, method=method, profile="smoke", iterations=60)
        results[method] = train.main(config)

print(f"{'read out as':12} Dice on held-out patients")
for name, scores in (results["unet"]["held_out"] | results["edpcnn"]["held_out"]).items():
    print(f"{name:12} {scores['dice_whole']:.3f}")

# %%
# What to expect of it
# --------------------
# This is a demonstration that the chain trains, not a measurement: a minute of the smallest
# settings on images that were drawn by a program. The measured tables, on Sunnybrook, with three
# seeds and baselines trained with the same care, are under
# :doc:`/generated/results/left_ventricle`; what they do not show is under :doc:`/results/limits`.
#
# With data of your own, the same command takes ``--data png:DIR``, ``acdc:DIR`` or
# ``sunnybrook:DIR`` (:doc:`/generated/cli/lv_dp`). No data set comes with the project, so that this
# page stops at the phantom.
