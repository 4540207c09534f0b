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
Borders = Literal["padded", "unpadded", "low"]
Upsampling = Literal["bilinear", "transposed"]

NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(8, channels), channels),
}


class ConvBlock(nn.Sequential):
    """Twice a 3x3 convolution, normalisation and ReLU: (B, in, H, W) -> (B, out, H, W), or 4 pixels less."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, padded: bool = True) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=int(padded), bias=False)]
            layers += [NORMS[norm](out_channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UpBlock(nn.Module):
    """Enlarge the coarse features, halve their channels, join them with their fine neighbour.

    ``bilinear`` resizes and convolves (the thesis' text); ``transposed`` is a 4x4 transposed convolution of
    stride 2 (its published code). Padded convolutions resize to the neighbour's size; unpadded ones double the
    size and take the neighbour's middle.
    """

    def __init__(
        self, channels: int, norm: Norm, padded: bool = True, upsampling: Upsampling = "bilinear"
    ) -> None:
        super().__init__()
        self.padded = padded
        self.transposed = upsampling == "transposed"
        self.halve: nn.Module = (
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1)
            if self.transposed
            else nn.Conv2d(2 * channels, channels, 3, padding=1)
        )
        self.join = ConvBlock(2 * channels, channels, norm, padded)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Join coarse (B, 2C, h, w) and fine (B, C, H, W) features: (B, C, H, W), or less if unpadded."""
        size = fine.shape[2:] if self.padded else torch.Size(2 * side for side in coarse.shape[2:])
        enlarged = self.halve(coarse) if self.transposed else self.halve(_resize(coarse, size))
        enlarged = _resize(enlarged, size)  # transposed convolutions of odd sizes miss a row or column
        joined: Tensor = self.join(torch.cat([_middle(fine, size), enlarged], dim=1))
        return joined


class UNet(nn.Module):
    """U-Net with one input and one output channel; any image of at least ``2**(levels-1)`` pixels a side.

    Args:
        levels: resolutions, the original one included, >= 1.
        base_channels: channels at the finest level; each coarser level doubles them.
        norm: ``"batch"`` or ``"group"`` normalisation.
        borders: ``"padded"``: every convolution keeps the size. ``"unpadded"``: convolutions lose their border,
            and the image is padded once, in front (5 levels: 92 pixels for 212 x 212, as in the thesis).
            ``"low"``: unpadded with nothing in front; the small output map is resized up.
        upsampling: see `UpBlock`.

    Raises:
        ValueError: levels or base_channels below 1, or an image too small for ``"low"``.

    Example:
        >>> UNet(levels=3, base_channels=4)(torch.zeros(2, 21, 30)).shape
        torch.Size([2, 21, 30])
        >>> front_padding(212, levels=5)
        92
    """

    def __init__(
        self,
        levels: int = 5,
        base_channels: int = 64,
        norm: Norm = "batch",
        borders: Borders = "padded",
        upsampling: Upsampling = "bilinear",
    ) -> None:
        super().__init__()
        if levels < 1 or base_channels < 1:
            raise ValueError(
                f"a U-Net needs levels >= 1 and base_channels >= 1, got {levels} and {base_channels}"
            )
        self.levels, self.borders = levels, borders
        padded = borders == "padded"
        channels = [base_channels * 2**level for level in range(levels)]
        inputs = [1, *channels[:-1]]
        self.down = nn.ModuleList(
            ConvBlock(i, o, norm, padded) for i, o in zip(inputs, channels, strict=True)
        )
        self.up = nn.ModuleList(UpBlock(c, norm, padded, upsampling) for c in reversed(channels[:-1]))
        self.head = nn.Conv2d(base_channels, 1, 1)
        # The same function, a third to a half faster on a CPU; torch's annotations omit the argument.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, H, W) to output maps (B, H, W), logits that are high inside the LV."""
        size = images.shape[1:]
        features = self._at_borders(images[:, None])
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            features = block(F.max_pool2d(features, 2) if level else features)
            skips.append(features)
        for block, fine in zip(self.up, reversed(skips[:-1]), strict=True):
            features = block(features, fine)
        output = self.head(features)
        output = _resize(output, size) if self.borders == "low" else _middle(output, size)
        return output[:, 0]

    def _at_borders(self, images: Tensor) -> Tensor:
        """Pad images (B, 1, H, W) in front, or see that they are large enough without."""
        H, W = images.shape[2:]
        if self.borders == "unpadded":
            y, x = front_padding(H, self.levels), front_padding(W, self.levels)
            return F.pad(images, (x, x, y, y), mode="constant")
        if self.borders == "low" and min(output_side(H, self.levels), output_side(W, self.levels)) < 1:
            raise ValueError(
                f"a U-Net of {self.levels} levels without padding leaves nothing of {H} x {W} pixels; use larger "
                "images, fewer levels, or borders='unpadded'"
            )
        return images


def output_side(side: int, levels: int) -> int:
    """Return the side of the output map that unpadded convolutions leave of a side; 0 or less if nothing."""
    for _ in range(levels - 1):
        side = (side - 4) // 2
    side -= 4
    for _ in range(levels - 1):
        side = 2 * side - 4
    return side


def front_padding(side: int, levels: int) -> int:
    """Return the least padding on both ends after which unpadded convolutions leave at least ``side`` pixels."""
    return next(pad for pad in range(2**levels * 8) if output_side(side + 2 * pad, levels) >= side)


class BypassNetwork(nn.Module):
    """F: warped maps (R, N, M+1) to logits (R, M, N), one class per radius on each ray.

    The thesis resizes F's output to (N, M). Here index v is the drop between points v and v + 1, so its logit is the
    mean of these two points'. Resizing would read it at ``v + (v + 1/2) / M``, up to half an index beside that place.

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
        scores = self.unet(warped)  # (R, N, M+1), at the points of the rays
        between = (
            scores[..., :-1] + scores[..., 1:]
        ) / 2  # (R, N, M): index v lies between points v and v + 1
        return between.transpose(1, 2)


def _resize(features: Tensor, size: torch.Size) -> Tensor:
    if features.shape[2:] == size:
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def _middle(features: Tensor, size: torch.Size) -> Tensor:
    """Cut the middle (H, W) out of features (B, C, h >= H, w >= W)."""
    top, left = ((have - want) // 2 for have, want in zip(features.shape[2:], size, strict=True))
    return features[:, :, top : top + size[0], left : left + size[1]]
