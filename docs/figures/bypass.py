"""A model with a rounding step: its gradient path is broken, and bypassed where the step is wrapped.

The README's copy is written by ``python docs/figures/bypass.py docs/_static/bypass.svg``.
"""

import sys

import matplotlib.pyplot as plt
import torch

import ndgrad
from ndgrad.diagnostics import draw


class Round(torch.nn.Module):
    def forward(self, x):
        return torch.round(x)


def model(middle):
    return torch.nn.Sequential(torch.nn.Linear(3, 4), middle, torch.nn.Linear(4, 1))


x = torch.ones(2, 3)
figure, axes = plt.subplots(1, 2, figsize=(9, 4.6))
for axis, middle, title in (
    (axes[0], Round(), "torch.round"),
    (
        axes[1],
        ndgrad.wrap(torch.round, estimator="diff_bypass"),
        'ndgrad.wrap(torch.round, estimator="diff_bypass")',
    ),
):
    draw(ndgrad.trace(model(middle), x), axis)
    axis.text(0.5, -0.01, title, transform=axis.transAxes, ha="center", va="top", fontsize=9)

if sys.argv[1:]:
    plt.rcParams["svg.hashsalt"] = "ndgrad"
    figure.savefig(sys.argv[1], facecolor="white", bbox_inches="tight", metadata={"Date": None})
