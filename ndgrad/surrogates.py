"""Networks that `DiffBypass` builds when it is given none, from the shapes of the first call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Shapes = list[tuple[int, ...]]
_MAX_CONSTANT_CHANNELS = 16


class VectorSurrogate(nn.Module):
    """A multilayer perceptron of all inputs (R, ...), laid side by side, to all outputs (R, ...).

    Smooth activations: the gradient of the network is what it is fitted for. ``center`` and ``scale`` of inputs and
    outputs are constants taken from the first samples, so that learning rates mean the same in any unit.
    """

    input_center: Tensor
    input_scale: Tensor
    output_center: Tensor
    output_scale: Tensor

    def __init__(self, input_shapes: Shapes, output_shapes: Shapes, hidden: int = 128) -> None:
        super().__init__()
        self.input_shapes, self.output_shapes = input_shapes, output_shapes
        n, m = _width(input_shapes), _width(output_shapes)
        self.layers = nn.Sequential(
            nn.Linear(n, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, m)
        )
        _add_scales(self, n, m)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return one tensor for each output, (R, ...)."""
        x = _side_by_side(inputs, self.input_shapes).to(self.input_center.dtype)  # (R, n)
        y = (
            self.layers((x - self.input_center) / self.input_scale) * self.output_scale + self.output_center
        )  # (R, m)
        return _cut(y, self.output_shapes)


class MapSurrogate(nn.Module):
    """A small U-Net of one map (R, H, W) or (R, C, H, W) to the outputs, through a linear layer where shapes differ.

    Numbers beside the map, (R,) or (R, k), such as a threshold, become channels that are constant over it.
    """

    input_center: Tensor
    input_scale: Tensor
    output_center: Tensor
    output_scale: Tensor

    def __init__(self, input_shapes: Shapes, output_shapes: Shapes, channels: int = 16) -> None:
        super().__init__()
        self.input_shapes, self.output_shapes = input_shapes, output_shapes
        shape = next(filter(_is_map, input_shapes))
        self.same_map = (
            len(output_shapes) == 1 and output_shapes[0][-2:] == shape[-2:] and len(output_shapes[0]) >= 2
        )
        n, m = _width(input_shapes), _width(output_shapes)
        pixels = shape[-2] * shape[-1]
        C = _width([shape]) // pixels + n - _width([shape])
        self.down = _block(C, channels)
        self.deep = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), _block(channels, 2 * channels))
        self.up = _block(3 * channels, channels)
        self.head = nn.Conv2d(channels, m // pixels if self.same_map else 2, 1)
        self.readout = nn.Identity() if self.same_map else nn.Linear(2 * pixels, m)
        _add_scales(self, n, m)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return one tensor for each output, (R, ...)."""
        x = _side_by_side(inputs, self.input_shapes).to(self.input_center.dtype)  # (R, n)
        x = (x - self.input_center) / self.input_scale
        parts = x.split([_width([shape]) for shape in self.input_shapes], dim=1)
        H, W = next(filter(_is_map, self.input_shapes))[-2:]
        channels = [
            part.unflatten(1, (-1, H, W)) if _is_map(shape) else part[..., None, None].expand(-1, -1, H, W)
            for part, shape in zip(parts, self.input_shapes, strict=True)
        ]
        fine = self.down(torch.cat(channels, dim=1))  # (R, C, H, W) in
        deep = nn.functional.interpolate(self.deep(fine), size=(H, W), mode="bilinear", align_corners=False)
        y = self.readout(self.head(self.up(torch.cat([fine, deep], dim=1))).flatten(1))  # (R, m)
        return _cut(y * self.output_scale + self.output_center, self.output_shapes)


def build_surrogate(input_shapes: Shapes, output_shapes: Shapes) -> nn.Module:
    """Return an untrained network for row shapes.

    A small U-Net for one map of at least 8 x 8, alone or with up to 16 numbers beside it; else a perceptron.
    """
    maps, others = [[s for s in input_shapes if _is_map(s) is wanted] for wanted in (True, False)]
    few_numbers = all(len(shape) <= 1 for shape in others) and _width(others) <= _MAX_CONSTANT_CHANNELS
    return (MapSurrogate if len(maps) == 1 and few_numbers else VectorSurrogate)(input_shapes, output_shapes)


def build_seeded(seed: int, input_shapes: Shapes, output_shapes: Shapes) -> nn.Module:
    """Return that network with weights which depend on the seed alone; the global generators stay as they are."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach those of other devices, too
        return build_surrogate(input_shapes, output_shapes)


def calibrate(network: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Set the constants of a default network from samples (R, ...)."""
    for name, tensors in (("input", inputs), ("output", outputs)):
        # each tensor by itself: a parameter and a map of grey levels have units of their own
        centers, scales = zip(*(_location(t.reshape(t.shape[0], -1)) for t in tensors), strict=True)
        getattr(network, f"{name}_center").copy_(torch.cat(centers))
        getattr(network, f"{name}_scale").copy_(torch.cat(scales))


def _location(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return center and spread of the columns of (R, n)."""
    if flat.shape[1] == 0:
        return flat.sum(0), flat.sum(0)
    center, spread = flat.mean(0), flat.std(0, correction=0)
    # a coordinate that does not vary is given the typical spread of the others, or none
    typical = spread.square().mean().sqrt()
    floor = torch.where(typical > 0, 1e-3 * typical, torch.ones_like(typical))
    return center, spread.maximum(floor)


def _add_scales(network: nn.Module, n: int, m: int) -> None:
    for name, size in (("input", n), ("output", m)):
        network.register_buffer(f"{name}_center", torch.zeros(size))
        network.register_buffer(f"{name}_scale", torch.ones(size))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.SiLU(),
    )


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3) and min(shape[-2:]) >= 8


def _side_by_side(inputs: tuple[Tensor, ...], shapes: Shapes) -> Tensor:
    """Lay the rows of the inputs side by side, (R, n)."""
    arrived = [tuple(t.shape[1:]) for t in inputs]
    if arrived != shapes:
        raise ValueError(
            f"the bypass network was built for inputs of the row shapes {shapes}, but is given {arrived}; freezing a "
            "parameter, or an input that no longer requires a gradient, changes them. Use a new DiffBypass, or "
            "a surrogate of your own"
        )
    return torch.cat([t.reshape(t.shape[0], t.shape[1:].numel()) for t in inputs], dim=1)


def _width(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def _cut(flat: Tensor, shapes: Shapes) -> Tensor | tuple[Tensor, ...]:
    parts = flat.split([torch.Size(shape).numel() for shape in shapes], dim=1)
    outputs = tuple(part.reshape(flat.shape[0], *shape) for part, shape in zip(parts, shapes, strict=True))
    return outputs[0] if len(outputs) == 1 else outputs
