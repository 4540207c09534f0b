from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.preprocess import Batch, prepare
from applications.lv_dp.data.slices import centroid
from applications.lv_dp.errors import UsageError
from applications.lv_dp.gradients import build_gradient, contour, index_loss
from applications.lv_dp.jitter import draw_rotation, fixed_centers, jitter_centers, uniform_centers
from applications.lv_dp.metrics import dice, scores, square
from applications.lv_dp.model import METHODS, build, circle_masks, mean_radius
from applications.lv_dp.settings import PROFILES
from applications.lv_dp.star_pattern import StarPattern
from applications.lv_dp.unet import BypassNetwork, UNet

SMOKE = PROFILES["smoke"]
ESTIMATORS = ["diff_bypass", "evolution_strategy", "score_function", "finite_difference"]


@pytest.fixture(scope="module")
def batch(phantom: SliceSet) -> Batch:
    return prepare(phantom.slices[:5], SMOKE.crop)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- networks


@pytest.mark.parametrize("size", [(16, 16), (21, 30), (8, 33)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_unet_keeps_the_size(size: tuple[int, int], norm: str) -> None:
    network = UNet(levels=4, base_channels=3, norm=norm)  # type: ignore[arg-type]
    assert network(torch.randn(2, *size, generator=generator())).shape == (2, *size)


def test_unet_sees_its_surroundings_through_every_level() -> None:
    network = UNet(levels=3, base_channels=4).eval()
    image = torch.randn(1, 40, 40, generator=generator()).requires_grad_()
    network(image)[0, 20, 20].backward()
    assert image.grad is not None
    reach = image.grad[0].abs().sum(0).nonzero()[:, 0]
    assert reach.min() <= 8
    assert reach.max() >= 32


def test_unet_needs_a_level_and_a_channel() -> None:
    with pytest.raises(ValueError, match="levels >= 1"):
        UNet(levels=0)


def test_bypass_network_scores_every_radius() -> None:
    network = BypassNetwork(levels=3, base_channels=2)
    logits = network(torch.randn(4, 12, 15, generator=generator()))
    assert logits.shape == (4, 14, 12)  # (R, M, N)


def test_bypass_network_reads_an_index_midway_between_its_points() -> None:
    network = BypassNetwork(levels=1, base_channels=1)
    network.unet = nn.Identity()  # type: ignore[assignment]
    ramp = torch.arange(15.0).expand(2, 12, 15)  # the position of each point
    places = network(ramp)
    torch.testing.assert_close(places, (torch.arange(14) + 0.5)[:, None].expand(2, 14, 12))


# --- gradients


FORMS = [(name, form) for name in ESTIMATORS for form in ("vjp", "composed")]
FORMS.remove(("diff_bypass", "composed"))


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_estimator_gives_the_warped_map_a_gradient(name: str, form: str) -> None:
    torch.manual_seed(0)
    gradient = build_gradient(name, form, SMOKE, generator())  # type: ignore[arg-type]
    warped = torch.randn(5, 12, 15, generator=generator(1)).requires_grad_()
    target = torch.rand(5, 12, generator=generator(2)) * 13
    gradient.loss(gradient.box, warped, target).backward()
    assert warped.grad is not None
    assert warped.grad.shape == warped.shape
    if name != "finite_difference":  # a step of one may leave every index of a row where it was
        assert (warped.grad.abs().amax((1, 2)) > 0).all()
    assert warped.grad.abs().max() > 0


def test_the_composed_form_is_refused_for_the_bypass() -> None:
    with pytest.raises(UsageError, match="evolution_strategy or score_function"):
        build_gradient("diff_bypass", "composed", SMOKE, generator())


@pytest.mark.parametrize("form", ["vjp", "composed"])
def test_both_forms_have_the_value_of_the_index_loss(form: str) -> None:
    gradient = build_gradient("evolution_strategy", form, SMOKE, generator())  # type: ignore[arg-type]
    warped = torch.randn(5, 12, 15, generator=generator(1)).requires_grad_()
    target = torch.rand(5, 12, generator=generator(2)) * 13
    value = gradient.loss(gradient.box, warped, target)
    expected = index_loss(contour(SMOKE, warped.detach()), target).mean()
    torch.testing.assert_close(value.detach(), expected)


@pytest.mark.parametrize(
    ("name", "probes"), [("diff_bypass", 3), ("evolution_strategy", 5), ("score_function", 5)]
)
def test_evaluations_are_counted_per_row(name: str, probes: int) -> None:
    gradient = build_gradient(name, "vjp", SMOKE, generator())  # type: ignore[arg-type]
    warped = torch.randn(5, 12, 15, generator=generator(1)).requires_grad_()
    gradient.loss(gradient.box, warped, torch.full((5, 12), 6.0)).backward()
    assert gradient.box.num_evaluations == 5 * probes


@pytest.mark.parametrize("method", list(METHODS))
def test_only_the_unet_is_left_to_the_optimiser(method: str, tmp_path, batch: Batch) -> None:  # type: ignore[no-untyped-def]
    model = build(TrainConfig(out=tmp_path, method=method, profile="smoke"), generator())  # type: ignore[arg-type]
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"unet"}
    METHODS[method].loss(model, batch, generator(1)).backward()  # type: ignore[index]
    assert all(p.grad is not None for p in model.unet.parameters())


def test_building_leaves_the_global_generator_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = TrainConfig(out=tmp_path, profile="smoke", seed=3)
    before = torch.get_rng_state()
    first, second = (build(config, generator()).unet.state_dict() for _ in range(2))
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_every_prediction_is_a_mask(tmp_path, batch: Batch) -> None:  # type: ignore[no-untyped-def]
    for method in METHODS:
        model = build(TrainConfig(out=tmp_path, method=method, profile="smoke"), generator()).eval()
        for predict in METHODS[method].predictions.values():
            masks = predict(model, batch)
            assert (masks.dtype, masks.shape) == (torch.bool, batch.masks.shape)


def test_a_perfect_output_map_gives_the_mask_back(tmp_path, phantom: SliceSet) -> None:  # type: ignore[no-untyped-def]
    settings = dataclasses.replace(SMOKE, num_rays=32, num_radii=56, step=0.5, delta=2)
    batch = prepare(phantom.slices[:5], SMOKE.crop)
    model = build(TrainConfig(out=tmp_path, method="unet", profile="smoke"), generator())
    model.settings = settings
    model.unet = torch.nn.Identity()  # type: ignore[assignment]
    perfect = dataclasses.replace(batch, images=batch.masks.float())
    for drawn, mask in zip(METHODS["edpcnn"].predictions["edpcnn"](model, perfect), batch.masks, strict=True):
        assert dice(drawn, mask) > 0.93


# --- placement of the star


def test_jitter_stays_in_the_object_and_spreads(batch: Batch) -> None:
    star = SMOKE.star
    offsets = []
    for seed in range(60):
        centers = jitter_centers(star, batch.masks, batch.centers, generator(seed))
        x, y = centers.round().long().unbind(-1)
        assert batch.masks[torch.arange(5), y, x].all()
        offsets.append(centers - batch.centers)
    moved = torch.stack(offsets)  # (60, B, 2)
    radius = (batch.masks.sum((1, 2)) / torch.pi).sqrt()
    assert (moved.norm(dim=-1) <= radius + 1).all()
    # A normal truncated at one deviation has E r^2 = 2 - e^{-1/2} / (1 - e^{-1/2}) of the squared radius.
    nearest = moved.norm(dim=-1).amax(0)
    ratio = (moved.square().sum(-1).mean(0) / nearest.square()).mean()
    expected = 2 - 0.6065 / (1 - 0.6065)
    assert abs(ratio - expected) < 0.12


def test_uniform_centers_cover_the_mask_and_nothing_else(batch: Batch) -> None:
    star = StarPattern(8, 10)
    draws = torch.stack(
        [uniform_centers(star, batch.masks, batch.centers, generator(seed)) for seed in range(400)]
    )  # (400, B, 2)
    x, y = draws.round().long().unbind(-1)
    assert batch.masks[torch.arange(len(batch)), y, x].all()
    mass = torch.stack([centroid(mask) for mask in batch.masks])
    spread = draws.std(0) / 400**0.5
    assert ((draws.mean(0) - mass).abs() < 5 * spread + 0.05).all()
    empty = torch.zeros_like(batch.masks)
    assert torch.equal(uniform_centers(star, empty, batch.centers, generator()), batch.centers)
    assert fixed_centers(star, batch.masks, batch.centers, generator()) is batch.centers


def test_jitter_leaves_a_center_alone_that_has_no_room() -> None:
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    centers = torch.tensor([[4.0, 4.0]])
    moved = jitter_centers(StarPattern(8, 4), masks, centers, generator())
    torch.testing.assert_close(moved, centers)


def test_rotations_fill_their_range() -> None:
    angles = draw_rotation(500, 0.5, generator())
    assert angles.abs().max() <= 0.5
    assert angles.min() < -0.45
    assert angles.max() > 0.45


# --- mean circle and scores


def test_mean_circle_has_the_mean_radius(batch: Batch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = build(TrainConfig(out=tmp_path, method="unet", profile="smoke"), generator())
    drawn = circle_masks(9.0, model, batch)
    assert abs(mean_radius(drawn) - 9.0) < 0.2
    expected = torch.stack([m.sum() / torch.pi for m in batch.masks]).sqrt().mean().item()
    assert mean_radius(batch.masks) == pytest.approx(expected)


def test_dice_counts_only_the_square_where_asked() -> None:
    truth = torch.zeros(20, 20, dtype=torch.bool)
    truth[8:12, 8:12] = True
    prediction = truth.clone()
    prediction[0:2, 0:8] = True  # a far component of 16 pixels, as many as the truth
    assert scores(prediction, truth, torch.tensor([9.5, 9.5]), 6.0) == {
        "dice_whole": 2 / 3,
        "dice_square": 1.0,
    }
    assert square(torch.ones(20, 20, dtype=torch.bool), torch.tensor([9.5, 4.0]), 2.0).sum() == 4 * 5


def test_dice_of_nothing_and_nothing_is_one() -> None:
    empty = torch.zeros(3, 4, dtype=torch.bool)
    assert dice(empty, empty) == 1.0
    assert dice(empty, ~empty) == 0.0
