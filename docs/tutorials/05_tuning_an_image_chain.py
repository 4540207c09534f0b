"""
Tuning a chain of image filters
===============================

Blur, subtract the background, threshold, drop small regions: every laboratory has such a chain, and
somebody who turned its knobs by hand. Here the knobs are parameters of a module, and gradient
descent turns them.
"""

# %%
# The chain
# ---------
# Four knobs. Two are widths of filters, one a threshold, one the least area of a region. The last
# two act by comparison: the mask is piecewise constant in them.

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import ndimage

import ndgrad


def segment(image, blur, background, threshold, area):  # (H, W), four numbers -> (H, W) of 0 and 1
    smooth = ndimage.gaussian_filter(image, max(blur, 0.0))
    flat = smooth - ndimage.gaussian_filter(image, max(background, 1.0))
    labels, count = ndimage.label(flat > threshold)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0  # the background is no region
    return (sizes[labels] > area).astype(float)


# %%
# The images
# ----------
# Bright cells on a ground that is lit from one side, with noise and specks. Eight to tune on,
# sixteen to check.

SIZE = 48


def cells(count, rng):
    """Draw images (count, H, W), and the masks of their cells."""
    y, x = np.mgrid[:SIZE, :SIZE]
    images, masks = np.zeros((2, count, SIZE, SIZE))
    for image, mask in zip(images, masks, strict=True):
        for _ in range(5):
            i, j = rng.uniform(6, SIZE - 6, 2)
            mask[np.hypot(y - i, x - j) < rng.uniform(3, 5)] = 1
        specks = rng.uniform(size=image.shape) < 0.01
        light = 0.03 * (np.cos(rng.uniform(0, 7)) * x + np.sin(rng.uniform(0, 7)) * y)
        image[:] = 0.6 * ndimage.gaussian_filter(mask, 0.7) + light + 0.7 * specks
        image += 0.2 * rng.standard_normal(image.shape)
    return images, masks


rng = np.random.default_rng(0)
images, masks = cells(8, rng)
unseen, unseen_masks = cells(16, rng)

# %%
# Dice is the score to raise. It belongs *inside* the wrapped function: what is then estimated is the
# slope of one number per image. A derivative of each of the 2304 pixels would meet the loss's own
# slope, which belongs to the mask as it is and knows nothing of the next one
# (:doc:`/concepts/per_row`).

KNOBS = {"blur": 0.5, "background": 4.0, "threshold": 0.05, "area": 2.0}
UNITS = {"blur": 1.0, "background": 5.0, "threshold": 0.1, "area": 10.0}


def dice(image, mask, **knobs):
    found = segment(image, **{name: value * UNITS[name] for name, value in knobs.items()})
    return 2 * (found * mask).sum() / max(found.sum() + mask.sum(), 1)


def loss(image, mask, blur, background, threshold, area):
    return 1 - dice(image, mask, blur=blur, background=background, threshold=threshold, area=area)


# %%
# One sigma serves all four knobs, so they are given units in which a step of 0.1 matters alike. Each
# image has its copy of them, and autograd adds up what the copies receive. ``batched=False`` says
# that the function takes a single image, ``vectorize=True`` that the module takes many.

box = ndgrad.wrap(
    loss,
    estimator=ndgrad.EvolutionStrategy(num_samples=4, sigma=0.15),
    parameters={name: value / UNITS[name] for name, value in KNOBS.items()},
    in_dims=(0, 0),
    batched=False,
    vectorize=True,
    interface="numpy",
)


def knobs():
    return {name: getattr(box, name).item() * UNITS[name] for name in KNOBS}


def score(images, masks):
    with torch.no_grad():
        return 1 - box(torch.from_numpy(images), torch.from_numpy(masks)).mean().item()


optimizer = torch.optim.Adam(box.parameters(), lr=0.05)
history = [(knobs(), score(images, masks), score(unseen, unseen_masks))]
for _ in range(60):
    optimizer.zero_grad()
    box(torch.from_numpy(images), torch.from_numpy(masks)).mean().backward()
    optimizer.step()
    history.append((knobs(), score(images, masks), score(unseen, unseen_masks)))

first, last = history[0], history[-1]
for name in KNOBS:
    print(f"{name:11} {first[0][name]:6.2f} -> {last[0][name]:.2f}")
print(f"Dice, tuned on  {first[1]:.2f} -> {last[1]:.2f}")
print(f"Dice, unseen    {first[2]:.2f} -> {last[2]:.2f}")

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8))
axes[0].plot([dice for _, dice, _ in history], label="tuned on")
axes[0].plot([dice for *_, dice in history], label="unseen")
axes[0].set(xlabel="step", title="Dice")
axes[0].legend(fontsize=8)
pictures = {
    "image": unseen[0],
    "as it was": segment(unseen[0], **KNOBS),
    "tuned": segment(unseen[0], **last[0]),
}
for axis, (title, picture) in zip(axes[1:], pictures.items(), strict=True):
    axis.imshow(picture, cmap="gray")
    axis.contour(unseen_masks[0], [0.5], colors="#d55e00", linewidths=0.8)
    axis.set(xticks=[], yticks=[], title=title)
figure.tight_layout()

# %%
# Why not finite differences?
# ---------------------------
# Along one knob the score is a staircase: flat, with a jump where some region falls out of the mask. A
# step of 0.001 finds nothing, or a cliff; what trains is the trend over the reach of a probe.

grid = np.linspace(0, 25, 120)
tuned = {name: value / UNITS[name] for name, value in last[0].items()}
curve = []
for area in grid / UNITS["area"]:
    scores = [dice(image, mask, **{**tuned, "area": area}) for image, mask in zip(images, masks, strict=True)]
    curve.append(np.mean(scores))
figure, axis = plt.subplots(figsize=(6, 2.6))
axis.step(grid, curve, where="mid")
axis.axvspan(last[0]["area"] - 1.5, last[0]["area"] + 1.5, color="0.9", label="reach of sigma")
axis.set(xlabel="least area, pixels", ylabel="Dice")
axis.legend(fontsize=8)
figure.tight_layout()
