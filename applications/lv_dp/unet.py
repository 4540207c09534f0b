"""The U-Net that maps images to output maps, and the network F that stands in for the dynamic program.

Sources: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015; N. M. Nguyen, University of Alberta 2019, sections
4.1.1 and 5.4 (F: three encoder and three decoder blocks, 8 base channels, padded convolutions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "group"]

NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(8, channels), channels),
}


class ConvBlock(nn.Sequential):
    """Twice a padded 3x3 convolution, normalisation and ReLU: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)]
            layers += [NORMS[norm](out_channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UpBlock(nn.Module):
    """Resize the coarse features to their fine neighbour, halve the channels, join the two."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.halve = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.join = ConvBlock(2 * channels, channels, norm)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Join coarse (B, 2C, h, w) and fine (B, C, H, W) features: (B, C, H, W)."""
        resized = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        joined: Tensor = self.join(torch.cat([fine, self.halve(resized)], dim=1))
        return joined


class UNet(nn.Module):
    """Padded U-Net with one input and one output channel; any image size of at least ``2**(levels-1)``.

    Args:
        levels: resolutions, the original one included, >= 1.
        base_channels: channels at the finest level; each coarser level doubles them.
        norm: ``"batch"`` or ``"group"`` normalisation.

    Raises:
        ValueError: levels or base_channels below 1.

    Example:
        >>> UNet(levels=3, base_channels=4)(torch.zeros(2, 21, 30)).shape
        torch.Size([2, 21, 30])
    """

    def __init__(self, levels: int = 5, base_channels: int = 64, norm: Norm = "batch") -> None:
        super().__init__()
        if levels < 1 or base_channels < 1:
            raise ValueError(
                f"a U-Net needs levels >= 1 and base_channels >= 1, got {levels} and {base_channels}"
            )
        channels = [base_channels * 2**level for level in range(levels)]
        inputs = [1, *channels[:-1]]
        self.down = nn.ModuleList(ConvBlock(i, o, norm) for i, o in zip(inputs, channels, strict=True))
        self.up = nn.ModuleList(UpBlock(c, norm) for c in reversed(channels[:-1]))
        self.head = nn.Conv2d(base_channels, 1, 1)
        # The same function, a third to a half faster on a CPU; torch's annotations omit the argument.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, H, W) to output maps (B, H, W), logits that are high inside the LV."""
        features = images[:, None]
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            features = block(F.max_pool2d(features, 2) if level else features)
            skips.append(features)
        for block, fine in zip(self.up, reversed(skips[:-1]), strict=True):
            features = block(features, fine)
        output: Tensor = self.head(features)[:, 0]
        return output


class BypassNetwork(nn.Module):
    """F: warped maps (R, N, M+1) to logits (R, M, N), one class per radius on each ray.

    Args:
        levels: resolutions; 4 gives three encoder steps and three decoder blocks.
        base_channels: capacity of the fit.
        norm: normalisation.

    Example:
        >>> BypassNetwork(levels=2, base_channels=2)(torch.zeros(6, 10, 13)).shape
        torch.Size([6, 12, 10])
    """

    def __init__(self, levels: int = 4, base_channels: int = 8, norm: Norm = "batch") -> None:
        super().__init__()
        self.unet = UNet(levels, base_channels, norm)

    def forward(self, warped: Tensor) -> Tensor:
        """Score every radius of every ray: (R, N, M+1) -> (R, M, N)."""
        _, N, points = warped.shape
        scores = self.unet(warped)[:, None]  # (R, 1, N, M+1)
        scores = F.interpolate(scores, size=(N, points - 1), mode="bilinear", align_corners=False)
        return scores[:, 0].transpose(1, 2)  # (R, M, N)
