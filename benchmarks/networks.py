"""Surrogate networks of the bypass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(num_inputs: int, num_outputs: int, width: int = 128) -> nn.Sequential:
    """Make a perceptron ``(R, n) -> (R, m)`` with two hidden layers of ``width`` tanh units.

    A smooth activation: the bypass uses the network's derivative, not only its value.
    """
    return nn.Sequential(
        nn.Linear(num_inputs, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, num_outputs),
    )


class OutputScale(nn.Module):
    """``offset + scale z`` with fixed constants: lets a network work in numbers of size one.

    Without it most of a fit goes into reaching the size of the outputs.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        spread = values.std(0, keepdim=True)  # over the rows (B, m) -> (1, m)
        self.register_buffer("offset", values.mean(0, keepdim=True))
        self.register_buffer("scale", torch.where(spread > 0, spread, 1.0))

    def forward(self, z: Tensor) -> Tensor:
        return self.get_buffer("offset") + self.get_buffer("scale") * z


class MapScores(nn.Module):
    """Three 3x3 convolutions from maps (R, N, M+1) to logits (R, M, N), one class per radius on each ray."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 3, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.layers(maps[:, None])[:, 0, :, 1:]  # (R, N, M)
        return scores.transpose(1, 2)


class MapAndNumber(nn.Module):
    """Three dilated convolutions of a map (R, H, W) and a number (R,): logits (R, H, W), which row in each column.

    The number is a channel that is constant over the map; both are divided by their scale.
    """

    def __init__(self, map_scale: float, number_scale: float, channels: int = 12) -> None:
        super().__init__()
        self.map_scale, self.number_scale = map_scale, number_scale
        layers: list[nn.Module] = []
        for dilation, width in ((1, 2), (2, channels), (4, channels)):
            layers += [nn.Conv2d(width, channels, 3, padding=dilation, dilation=dilation), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        constant = (number / self.number_scale)[:, None, None].expand_as(x)
        return self.layers(torch.stack([x / self.map_scale, constant], dim=1)).squeeze(1)
