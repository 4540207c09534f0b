from __future__ import annotations

import pytest
import torch

from applications.lv_dp.unet import Borders, UNet, Upsampling, front_padding, output_side


@pytest.mark.parametrize("borders", ["padded", "unpadded", "low"])
@pytest.mark.parametrize("upsampling", ["bilinear", "transposed"])
@pytest.mark.parametrize("size", [(44, 61), (64, 64)])
def test_every_kind_keeps_the_size_and_the_gradient(
    borders: Borders, upsampling: Upsampling, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = UNet(3, 3, "batch", borders, upsampling)
    images = torch.randn(2, *size, requires_grad=True)
    output = network(images)
    assert output.shape == (2, *size)
    output.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_padding_is_that_of_the_thesis() -> None:
    assert front_padding(212, 5) == 92
    assert output_side(212 + 2 * 92, 5) == 212
    assert output_side(572, 5) == 388  # Ronneberger et al., figure 1


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("side", [29, 32, 37])
def test_output_side_is_what_the_convolutions_leave(levels: int, side: int) -> None:
    network = UNet(levels, 2, borders="low")
    seen = []
    network.head.register_forward_hook(lambda _module, given, _output: seen.append(given[0].shape[2:]))
    if output_side(side, levels) >= 1:
        network(torch.zeros(1, side, side))
        assert seen == [(output_side(side, levels),) * 2]
    else:
        with pytest.raises(ValueError, match="leaves nothing of"):
            network(torch.zeros(1, side, side))


@pytest.mark.parametrize("upsampling", ["bilinear", "transposed"])
def test_an_unpadded_output_lies_over_its_input(upsampling: Upsampling) -> None:
    """The pixel that an output pixel depends on most is the one below it: nothing is shifted."""
    torch.manual_seed(1)
    size, at = 44, (20, 25)
    total = torch.zeros(size, size)
    for _ in range(20):
        network = UNet(3, 4, "group", "unpadded", upsampling)
        image = torch.randn(1, size, size, requires_grad=True)
        network(image)[0, at[0], at[1]].backward()
        assert image.grad is not None
        total += image.grad[0].abs()
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = [float((total * axis).sum() / total.sum()) for axis in (y, x)]
    assert abs(centre[0] - at[0]) < 0.8
    assert abs(centre[1] - at[1]) < 0.8
