"""A staircase, its smoothed versions and their slopes, in closed form."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

x = torch.linspace(-2.2, 2.2, 1200, dtype=torch.float64)
edges = torch.arange(-6, 6, dtype=torch.float64) + 0.5  # round(x) steps up by 1 at each

figure, (values, slopes) = plt.subplots(1, 2, figsize=(9, 3))
values.plot(x, torch.round(x), color="0.4", label="round(x)")
for sigma, colour in ((0.15, "#0072b2"), (0.5, "#d55e00")):
    z = (x[:, None] - edges) / sigma
    smoothed = -6 + torch.special.ndtr(z).sum(1)
    slope = (torch.exp(-z.square() / 2) / (sigma * math.sqrt(2 * np.pi))).sum(1)
    values.plot(x, smoothed, color=colour, label=f"sigma = {sigma}")
    slopes.plot(x, slope, color=colour, label=f"sigma = {sigma}")
slopes.axhline(0, color="0.4", label="derivative of round")
for axis, title in ((values, "value"), (slopes, "slope")):
    axis.set(title=title, xlabel="x")
    axis.legend(fontsize=8)
