from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from laws_of_networks import assert_state_continues
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ndgrad
from ndgrad import DiffBypass
from ndgrad.fitting import Fit
from ndgrad.surrogates import MapSurrogate, VectorSurrogate
from ndgrad.testing import estimate


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def sines(z: Tensor) -> Tensor:
    return torch.stack([torch.sin(2 * z).sum(1), z[:, 0] * z[:, 1]], 1)  # (R, 2)


def linear(n: int = 3, m: int = 2) -> nn.Module:
    return nn.Linear(n, m)


def test_probes_spread_by_sigma_and_counted_once() -> None:
    """S rows per input, mean x, standard deviation sigma: a doubled S or a squared sigma shows here."""
    seen = []
    S, B, sigma = 40, 50, 0.3
    x = torch.linspace(-1, 1, B * 3).reshape(B, 3)

    def f(z: Tensor) -> Tensor:
        seen.append(z)
        return sines(z)

    estimate(DiffBypass(linear(), sigma=sigma, num_samples=S), f, x, torch.full((B, 2), 0.7))
    value, probes = seen
    assert len(value) == B
    assert len(probes) == S * B
    deviation = probes.reshape(S, B, 3) - x
    count = deviation.numel()
    assert abs(deviation.mean()) < 5 * sigma / count**0.5
    assert abs(deviation.std() - sigma) < 5 * sigma / (2 * count) ** 0.5


def test_gradient_is_that_of_the_fitted_network_in_eval_mode() -> None:
    """Dropout and batch normalisation must be off, and on the fitted parameters: the rows do not leak."""
    network = nn.Sequential(
        nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 2)
    )
    estimator = DiffBypass(network, sigma=0.3, num_samples=6, fit_steps=4)
    x, v = torch.randn(5, 3), torch.randn(5, 2)
    grad = estimate(estimator, sines, x, v)
    fitted = estimator.network.eval()
    z = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(fitted(z), z, v)
    torch.testing.assert_close(grad, expected)
    moved = [
        a for a, b in zip(fitted.parameters(), network.parameters(), strict=True) if not torch.equal(a, b)
    ]
    assert len(moved) == len(list(network.parameters())), (
        "the fit must train every parameter of the copy, and only it"
    )
    assert fitted[1].num_batches_tracked == 4, "normalisation must be in train mode while fitting"


def test_fit_precedes_the_gradient() -> None:
    """Enough descent to solve a least-squares problem: the first gradient already knows its samples."""
    descent = functools.partial(torch.optim.SGD, lr=0.5)
    network = nn.Linear(3, 1, bias=False)
    estimator = DiffBypass(network, sigma=0.7, num_samples=50, fit_steps=400, optimizer=descent)
    slope = torch.tensor([[1.5], [-0.4], [0.9]])
    v = torch.tensor([[0.6]])
    grad = estimate(estimator, lambda z: z @ slope, torch.tensor([[0.1, 0.2, -0.3]]), v)
    torch.testing.assert_close(grad, 0.6 * slope.T, rtol=0, atol=1e-3)


def test_converges_to_the_gradient_of_a_smooth_function() -> None:
    estimator = DiffBypass(sigma=0.2, num_samples=30, fit_steps=20, replay=5)
    x, v = torch.randn(16, 3) * 0.5, torch.randn(16, 2)
    for _ in range(40):
        grad = estimate(estimator, sines, x, v)
    z = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(sines(z), z, v)
    assert (grad - exact).norm() < 0.15 * exact.norm()
    assert estimator.quality.value_error < 0.1
    assert estimator.quality.gradient_error < 0.2


def test_quality_is_measured_before_the_fit() -> None:
    """A constant network has value error 1 (after centring) and gradient error 1 before its first step."""
    network = nn.Linear(3, 2)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    estimator = DiffBypass(network, sigma=0.3, num_samples=200)
    estimate(estimator, lambda z: z[:, :2] * 3.0, torch.zeros(4, 3), torch.full((4, 2), 0.7))
    assert estimator.quality.value_error == pytest.approx(1.0, abs=0.02)
    assert estimator.quality.gradient_error == pytest.approx(1.0, abs=1e-5)
    single = DiffBypass(linear(), num_samples=1, forward="bypass")
    single(sines, torch.randn(4, 3, requires_grad=True))
    assert single.quality.gradient_error is None


def test_parameters_are_hidden() -> None:
    box = ndgrad.wrap(sines, estimator=DiffBypass(linear(), num_samples=3))
    x = torch.randn(4, 3, requires_grad=True)
    box(x).square().sum().backward()
    assert list(box.parameters()) == []
    box.requires_grad_(False)
    before = copy.deepcopy(box.estimator.network.state_dict())
    box(x).square().sum().backward()
    assert any(not torch.equal(before[k], p) for k, p in box.estimator.network.state_dict().items())
    assert all(p.grad is None for p in box.estimator.network.parameters())


def test_eval_mode_fits_nothing_and_differentiates_the_network_as_it_stands() -> None:
    box = ndgrad.wrap(sines, estimator=DiffBypass(linear(), num_samples=3, sigma=0.3))
    x = torch.randn(4, 3, requires_grad=True)
    box(x).sum().backward()
    box.eval()
    count, weight = box.num_evaluations, box.estimator.network.weight.clone()
    v = torch.randn(4, 2)
    (grad,) = torch.autograd.grad(box(x), x, v)
    torch.testing.assert_close(grad, v @ weight)
    torch.testing.assert_close(box.estimator.network.weight, weight, rtol=0, atol=0)
    assert box.num_evaluations == count + 4


def test_a_gradient_before_any_fit_is_refused() -> None:
    box = ndgrad.wrap(sines, estimator="diff_bypass").eval()
    with pytest.raises(RuntimeError, match="never fitted"):
        box(torch.randn(4, 3, requires_grad=True)).sum().backward()


def logits(C: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2 * C), nn.Unflatten(1, (C, 2)))  # (R, C, 2)


def indices(z: Tensor) -> Tensor:
    return z[:, :2].abs().round().clamp(max=4).long()


def test_bypass_continues_from_the_network() -> None:
    estimator = DiffBypass(logits(), num_samples=6, sigma=0.4, forward="bypass")
    box = ndgrad.wrap(indices, estimator=estimator)
    x = torch.randn(4, 3, requires_grad=True)
    y = box(x)
    assert y.shape == (4, 5, 2)
    assert box.num_evaluations == 24, "the value comes from the network: nothing is spent on it"
    torch.testing.assert_close(y.detach(), estimator.network(x.detach()))
    loss = nn.functional.cross_entropy(y, indices(x))
    loss.backward()
    z = x.detach().clone().requires_grad_()
    nn.functional.cross_entropy(estimator.network(z), indices(z)).backward()
    torch.testing.assert_close(x.grad, z.grad)
    with torch.no_grad():
        assert box(x).shape == (4, 5, 2)
    assert box.num_evaluations == 24
    box.eval()
    torch.testing.assert_close(box(x), indices(x).float())


@pytest.mark.parametrize("fit_at_input", [False, True])
def test_fit_at_input_corrects_a_network_that_is_right_around_x_only(fit_at_input: bool) -> None:
    """Batch normalisation after a magnitude: samples have one of sqrt(n) sigma, x itself has none."""

    class Spread(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.square().mean(dim=1, keepdim=True)

    torch.manual_seed(1)
    network = nn.Sequential(
        Spread(), nn.BatchNorm1d(1, affine=False), nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1)
    )
    estimator = DiffBypass(
        network, sigma=0.7, num_samples=5, fit_steps=5, forward="bypass", fit_at_input=fit_at_input,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
    )  # fmt: skip
    rows: list[int] = []

    def touches_zero(z: Tensor) -> Tensor:
        rows.append(len(z))
        return (
            (z.norm(dim=1, keepdim=True) < 0.5).double().to(z.dtype)
        )  # 1 at x = 0, 0 at nearly every sample

    x = torch.zeros(8, 40, requires_grad=True)
    for _ in range(60):
        value = estimator(touches_zero, x)
    assert set(rows) == {8 * (5 + fit_at_input)}
    error = (value - 1).abs().max().item()
    assert error < 0.2 if fit_at_input else error > 0.8


def test_fit_at_input_takes_a_failed_value_as_a_missing_sample() -> None:
    failing = lambda z: torch.where((z == 0).all(1, keepdim=True), torch.nan, z[:, :1])  # noqa: E731
    x = torch.zeros(4, 3, requires_grad=True)
    make = lambda S: DiffBypass(linear(3, 1), 0.3, S, forward="bypass", fit_at_input=True)  # noqa: E731
    box = ndgrad.wrap(failing, estimator=make(3), on_error="skip")
    assert box(x).isfinite().all()
    assert box.num_failures == 4
    with pytest.raises(ndgrad.TooManyFailuresError):  # one sample is left, and two are needed
        ndgrad.wrap(failing, estimator=make(1), on_error="skip")(x)


def test_fit_at_input_is_of_the_bypass_form() -> None:
    with pytest.raises(ValueError, match="always fits to f"):
        DiffBypass(linear(), fit_at_input=True)
    assert "fit_at_input=True" in repr(DiffBypass(linear(), forward="bypass", fit_at_input=True))


def test_the_value_is_declared_inexact_while_it_is_the_network_s() -> None:
    straight, bypass = DiffBypass(linear()), DiffBypass(linear(), forward="bypass")
    assert [straight.exact_value, straight.eval().exact_value] == [True, True]
    assert [bypass.exact_value, bypass.eval().exact_value] == [False, True]
    solver = ndgrad.wrap(torch.sign, estimator=bypass.train())
    with pytest.raises(ValueError, match="DiffBypass returns a mean over noise, or a network's"):
        ndgrad.FenchelYoungLoss(solver, "min")


def test_class_logits_are_fitted_by_cross_entropy_and_decoded_to_the_expected_index() -> None:
    estimator = DiffBypass(logits(), num_samples=6, sigma=0.4)
    x = torch.randn(4, 3, requires_grad=True)
    y = estimator(lambda z: indices(z).float(), x)
    v = torch.randn(4, 2)
    (grad,) = torch.autograd.grad(y, x, v)
    z = x.detach().clone().requires_grad_()
    expected = (estimator.network(z).softmax(1) * torch.arange(5.0).view(1, 5, 1)).sum(1)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, z, v)[0])


def test_own_loss_and_decode() -> None:
    calls = []

    def loss(g: Tensor, f: Tensor) -> Tensor:
        calls.append(g.shape)
        return (g.exp() - f).abs().mean()

    estimator = DiffBypass(linear(), num_samples=3, loss=loss, decode=torch.exp, fit_steps=4)
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    grad = estimate(estimator, sines, x, v)
    assert calls == [(4 * 3 + 4, 2)] * 4
    z = x.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(estimator.network(z).exp(), z, v)[0])


@pytest.mark.parametrize("forward", ["straight_through", "bypass"])
def test_second_derivatives_are_refused(forward: str) -> None:
    estimator = DiffBypass(linear(), num_samples=3, forward=forward)
    x = torch.randn(4, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(estimator(sines, x).sin().sum(), x, create_graph=True)
    with pytest.raises(ndgrad.SecondDerivativeError):
        grad.sum().backward()


def test_bypass_refuses_checkpointing() -> None:
    box = ndgrad.wrap(sines, estimator=DiffBypass(linear(), num_samples=3, forward="bypass"))
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(ndgrad.UnsupportedTransformError, match="straight_through"):
        checkpoint(box, x, use_reentrant=False).sum().backward()


def test_bypass_refuses_transforms() -> None:
    box = ndgrad.wrap(sines, estimator=DiffBypass(linear(), num_samples=3, forward="bypass"))
    with pytest.raises(ndgrad.UnsupportedTransformError, match="straight_through"):
        torch.func.grad(lambda x: box(x).sum())(torch.randn(4, 3))


def test_straight_through_survives_checkpointing() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    grads, counts = [], []
    for use in (False, True):
        torch.manual_seed(3)
        box = ndgrad.wrap(sines, estimator=DiffBypass(linear(), num_samples=3))
        box.estimator.bypass.template.load_state_dict(
            {"weight": torch.full((2, 3), 0.2), "bias": torch.zeros(2)}
        )
        torch.manual_seed(4)
        y = checkpoint(box, x, use_reentrant=False) if use else box(x)
        grads.append(torch.autograd.grad(y.sin().sum(), x)[0])
        counts.append(box.num_evaluations)
    torch.testing.assert_close(*grads)
    assert counts == [4 + 12, 4 + 4 + 12], "recomputing costs the value again, the fit must not run twice"


def test_replay_keeps_that_many_calls() -> None:
    sizes = []

    def loss(g: Tensor, f: Tensor) -> Tensor:
        sizes.append(len(g))
        return (g - f).square().mean()

    estimator = DiffBypass(linear(), num_samples=3, fit_steps=1, replay=2, loss=loss)
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    for _ in range(4):
        estimate(estimator, sines, x, v)
    assert sizes == [16, 32, 48, 48]


def test_state_dict_continues_identically_even_in_a_default_network_not_yet_built() -> None:
    def build() -> DiffBypass:
        return DiffBypass(num_samples=3, replay=2, generator=torch.Generator().manual_seed(5))

    assert_state_continues(build, sines, torch.randn(4, 3), torch.randn(4, 2))


def test_state_dict_of_an_unused_estimator_and_of_a_given_network() -> None:
    fresh = DiffBypass(linear(), num_samples=3)
    fresh.load_state_dict(DiffBypass(linear(), num_samples=3).state_dict())
    trained = DiffBypass(linear(), num_samples=3)
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    estimate(trained, sines, x, v)
    fresh.load_state_dict(trained.state_dict())
    torch.testing.assert_close(estimate(fresh.eval(), sines, x, v), estimate(trained.eval(), sines, x, v))


def test_a_state_dict_cannot_claim_a_network_larger_than_its_tensors() -> None:
    trained, fresh = (DiffBypass(num_samples=3) for _ in range(2))
    estimate(trained, sines, torch.randn(4, 3), torch.randn(4, 2))
    state = trained.state_dict()
    (extra,) = (value for value in state.values() if isinstance(value, dict))
    extra["shapes"] = ([(10**12,)], [(2,)])
    with pytest.raises(ValueError, match="does not have the layers that its inputs and outputs need"):
        fresh.load_state_dict(state)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_go_on_alike_and_apart(clone: object) -> None:
    original = DiffBypass(linear(), num_samples=3, replay=1)
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    estimate(original, sines, x, v)
    twin = clone(original)
    grads = []
    for estimator in (original, twin):
        torch.manual_seed(9)
        grads.append(estimate(estimator, sines, x, v))
    torch.testing.assert_close(*grads)
    assert twin.network is not original.network


def test_to_moves_network_optimiser_and_replay() -> None:
    estimator = DiffBypass(linear(), num_samples=3, replay=1)
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    estimate(estimator, sines, x, v)
    estimator.double()
    fit = estimator.bypass.fit
    assert {t.dtype for s in fit.optimizer.state.values() for t in s.values() if t.ndim} == {torch.float64}
    assert fit.replay[0].inputs[0].dtype == torch.float64
    assert estimate(estimator, sines, x.double(), v.double()).dtype == torch.float64
    assert estimate(estimator, sines, x, v).dtype == torch.float32, "the network follows its inputs"


def test_default_networks_follow_the_shapes() -> None:
    def built(f: object, *shapes: tuple[int, ...]) -> nn.Module:
        estimator = DiffBypass(num_samples=2, fit_steps=1)
        inputs = [torch.randn(3, *shape, requires_grad=True) for shape in shapes]
        y = ndgrad.wrap(f, estimator=estimator)(*inputs)
        ys = y if isinstance(y, tuple) else (y,)
        torch.autograd.grad([t.sin().sum() for t in ys], inputs)
        return estimator.network

    assert isinstance(built(sines, (5,)), VectorSurrogate)
    assert isinstance(built(lambda a, b: (a.sum(1), b * 2), (5,), (2, 3)), VectorSurrogate)
    assert built(torch.sign, (9, 10)).same_map
    assert built(lambda z: torch.cat([z, -z], 1), (2, 9, 10)).same_map
    assert not built(lambda z: z.sum((1, 2)), (9, 10)).same_map
    assert isinstance(built(lambda z: z.argmax(2), (9, 10)), MapSurrogate)


def test_empty_batch() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(DiffBypass(linear())(sines, x).sum(), x)
    assert grad.shape == (0, 3)
    bypass = DiffBypass(linear(), forward="bypass")
    bypass(sines, torch.randn(2, 3, requires_grad=True))
    (grad,) = torch.autograd.grad(bypass(sines, x).sum(), x)
    assert grad.shape == (0, 3)


@pytest.mark.parametrize("forward", ["straight_through", "bypass"])
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_differentiate_before_the_first_fit(forward: str, shape: tuple[int, int]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    estimator = DiffBypass(forward=forward, num_samples=3)
    y = estimator(lambda z: z.sum(1) + 2.0, x)
    torch.testing.assert_close(y.detach(), torch.full(shape[:1], 2.0))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.shape == shape
    estimator.observe((x.detach(),), (x.detach(),), (y.detach(),))
    assert estimator.network is None


def test_one_of_two_inputs_without_coordinates() -> None:
    x, empty = torch.randn(4, 3, requires_grad=True), torch.zeros(4, 0, requires_grad=True)
    y = DiffBypass(num_samples=3)(lambda x, e: x.sum(1) + e.sum(1), x, empty)
    grads = torch.autograd.grad(y.sum(), (x, empty))
    assert [g.shape for g in grads] == [(4, 3), (4, 0)]


@pytest.mark.parametrize("flip", [False, True])
def test_a_default_network_takes_inputs_of_two_dtypes(flip: bool) -> None:
    x = (torch.randn(4, 3), torch.randn(4, 2, dtype=torch.float64))
    x = tuple(t.requires_grad_() for t in (x[::-1] if flip else x))
    y = DiffBypass(num_samples=3)(lambda a, b: a.sum(1) + b.sum(1), *x)
    grads = torch.autograd.grad(y, x, torch.full((4,), 0.7, dtype=y.dtype))
    assert [(g.shape, g.dtype) for g in grads] == [(t.shape, t.dtype) for t in x]
    assert all(g.abs().min() > 0 for g in grads)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_a_single_class_is_no_classification(scale: float) -> None:
    """(R, 1) for outputs (R,) was meant as a value; as logits it would be fitted by nothing, with gradient 0."""
    x = torch.randn(4, 3, requires_grad=True)
    y = DiffBypass(linear(3, 1), num_samples=3)(lambda z: scale * z.sum(1), x)
    with pytest.raises(ValueError, match=r"the shape .*\(16,\), or class .* C >= 2 .* returned \(16, 1\)"):
        y.sum().backward()


def test_two_classes_are_a_classification() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    DiffBypass(linear(3, 2), num_samples=3)(lambda z: (z[:, 0] > 0).float(), x).sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda g: DiffBypass(num_samples=3, generator=g),
        lambda g: ndgrad.ControlVariate(num_samples=3, generator=g),
        lambda g: ndgrad.GuidedEvolutionStrategy(num_samples=3, generator=g),
    ],
)
def test_a_generator_isolates_a_default_network(build: Any) -> None:
    """Its weights too: nothing is drawn from the global generator, nor does it decide anything."""
    grads, x = [], torch.linspace(-1, 1, 12).reshape(4, 3)
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        estimator = build(torch.Generator().manual_seed(3))
        grads.append([estimate(estimator, sines, x, torch.full((4, 2), 0.7)) for _ in range(2)])
        build(torch.Generator()).load_state_dict(estimator.state_dict())
        torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.testing.assert_close(*grads, rtol=0, atol=0)
    other = build(torch.Generator().manual_seed(4))
    assert not torch.equal(estimate(other, sines, x, torch.full((4, 2), 0.7)), grads[0][0])


def test_weights_follow_the_generator_s_seed() -> None:
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    weights = []
    for seed in (3, 4):
        estimator = DiffBypass(num_samples=1, fit_steps=1, generator=torch.Generator().manual_seed(seed))
        estimate(estimator, sines, x, v)
        weights.append(estimator.network.layers[0].weight)
    assert (weights[0] - weights[1]).abs().mean() > 0.1  # one step of Adam moves them by 0.001


def test_mismatched_surrogates_are_told_apart() -> None:
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    with pytest.raises(ValueError, match=r"must return the shape .*\(16, 2\).* returned \(16, 7\)"):
        estimate(DiffBypass(linear(3, 7), num_samples=3), sines, x, v)
    two = ndgrad.wrap(lambda z: (z, z), estimator=DiffBypass(linear(3, 3), num_samples=3))
    with pytest.raises(ValueError, match="one tensor for each of the 2 outputs"):
        two(x.requires_grad_())[0].sum().backward()


def test_quality_without_a_common_language_is_none() -> None:
    estimator = DiffBypass(
        linear(3, 7), num_samples=3, forward="bypass", loss=lambda g, f: g.square().mean() + 0 * f.sum()
    )
    estimator(sines, torch.randn(4, 3, requires_grad=True))
    assert estimator.quality is None


@pytest.mark.parametrize(
    "bad", [{"sigma": 0}, {"num_samples": -1}, {"fit_steps": 0}, {"replay": -1}, {"forward": "around"}]
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        DiffBypass(**bad)


def test_repr() -> None:
    assert "surrogate=Linear, sigma=0.3" in repr(DiffBypass(linear(), sigma=0.3))
    assert "surrogate=default" in repr(DiffBypass())


class Recorded:
    """A loss that keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, g: Tensor, f: Tensor) -> Tensor:
        self.calls.append((g.detach(), f))
        return (g - f).square().mean()


def test_trust_region_keeps_inputs_near_the_current_ones() -> None:
    """Distances per coordinate in units of sigma, to the nearest current input; with all samples of an input."""
    sigma, n, loss = 0.3, 4, Recorded()
    estimator = DiffBypass(
        linear(n), sigma, 3, fit_steps=1, replay=5, trust_region=1.5, loss=loss, forward="bypass"
    )
    old = torch.stack([torch.zeros(n), torch.full((n,), 10.0), torch.full((n,), 20.0)])
    current = torch.stack([old[1] + 1.49 * sigma, old[0] - 1.51 * sigma])  # within reach of the second only
    for x in (old, current):
        estimator(lambda z: z[:, :2], x.requires_grad_())
    (_, first), (_, second) = loss.calls
    assert len(first) == 3 * 3
    assert len(second) == 3 + 3 * 2
    torch.testing.assert_close(second[:3], first.reshape(3, 3, 2)[:, 1])
    assert len(estimator.bypass.fit.replay) == 2, "what is out of reach now may come into reach again"
    estimator(lambda z: z[:, :2], (old[2:] + 0.1).detach().requires_grad_())
    assert len(loss.calls[2][1]) == 3 + 3
    torch.testing.assert_close(loss.calls[2][1][:3], first.reshape(3, 3, 2)[:, 2])
    estimator(lambda z: z[:, :2], torch.full((1, n), -50.0, requires_grad=True))
    assert len(loss.calls[3][1]) == 3


def test_matching_differences_ignores_the_value() -> None:
    """An offset of its own for each input changes nothing; around an input, samples less their mean are compared."""
    grads = []
    x, v = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    for offset in (0.0, 30.0):
        torch.manual_seed(2)
        shift = offset * torch.arange(4.0, dtype=torch.float64).unsqueeze(1)
        estimator = DiffBypass(linear().double(), num_samples=5, sigma=0.3, replay=2, match="difference")
        estimator.bypass.template.load_state_dict(
            {"weight": torch.full((2, 3), 0.2), "bias": torch.full((2,), 7.0)}
        )
        for _ in range(3):
            grad = estimate(estimator, lambda z, shift=shift: sines(z) + shift.repeat(len(z) // 4, 1), x, v)
        grads.append(grad)
        torch.testing.assert_close(estimator.network.bias, torch.full((2,), 7.0, dtype=torch.float64))
    torch.testing.assert_close(*grads)


def test_differences_where_no_replayed_input_is_in_reach() -> None:
    loss = Recorded()
    estimator = DiffBypass(
        linear(), 0.3, 3, fit_steps=1, replay=2, trust_region=1.0, match="difference", loss=loss
    )
    for shift in (0.0, 50.0):
        estimate(estimator, sines, torch.randn(4, 3) + shift, torch.randn(4, 2))
    assert [len(g) for g, _ in loss.calls] == [16, 16]


def test_differences_are_centred_around_each_input_of_each_call() -> None:
    loss = Recorded()
    estimator = DiffBypass(
        linear(), num_samples=3, fit_steps=1, replay=1, match="difference", loss=loss, decode=torch.exp
    )
    seen = []

    def f(z: Tensor) -> Tensor:
        seen.append(z)
        return sines(z)

    for B in (4, 5):
        network = copy.deepcopy(estimator.network)
        estimate(estimator, f, torch.randn(B, 3), torch.randn(B, 2))
    groups = []
    for B, value, probes in ((4, seen[0], seen[1]), (5, seen[2], seen[3])):
        groups.append((B, torch.cat([probes, value])))
    for which, function in enumerate((lambda z: network(z).exp(), sines)):
        parts = [function(z).reshape(4, B, 2) for B, z in groups]
        expected = torch.cat([(p - p.mean(0)).reshape(-1, 2) for p in parts])
        torch.testing.assert_close(loss.calls[1][which], expected.detach())


def test_differences_of_calls_with_different_numbers_of_samples() -> None:
    loss, expected = Recorded(), []
    estimator = DiffBypass(linear(), num_samples=0, fit_steps=1, replay=1, match="difference", loss=loss)
    for S in (5, 3):
        z = torch.randn(S * 4, 3)
        estimator.observe((z[:4],), (z,), (sines(z),))
        values = sines(z).reshape(S, 4, 2)
        expected.append((values - values.mean(0)).flatten(0, 1))
    torch.testing.assert_close(loss.calls[1][1], torch.cat(expected))


def test_differences_of_class_logits_are_those_of_the_expected_index() -> None:
    estimator = DiffBypass(logits(), num_samples=6, sigma=0.4, match="difference")
    grad = estimate(estimator, lambda z: indices(z).float(), torch.randn(4, 3), torch.randn(4, 2))
    assert grad.shape == (4, 3)
    single = DiffBypass(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), num_samples=4, match="difference")
    assert estimate(single, lambda z: z.sum(1), torch.randn(4, 3), torch.randn(4)).shape == (4, 3)
    two = ndgrad.wrap(lambda z: (z, z), estimator=DiffBypass(linear(3, 3), num_samples=3, match="difference"))
    with pytest.raises(ValueError, match="one tensor for each of the 2 outputs"):
        two(torch.randn(4, 3, requires_grad=True))[0].sum().backward()


def test_early_stopping_returns_to_the_best_state_on_held_out_samples() -> None:
    """Ascent instead of descent: every step is worse, so patience ends the fit where it began."""
    ascent = functools.partial(torch.optim.SGD, lr=0.05, maximize=True)
    estimator = DiffBypass(linear(), num_samples=10, sigma=0.3, fit_steps=50, patience=3, optimizer=ascent)
    before = copy.deepcopy(estimator.network.state_dict())
    estimate(estimator, sines, torch.randn(4, 3), torch.randn(4, 2))
    assert estimator.bypass.fit.steps == 3
    torch.testing.assert_close(dict(estimator.network.state_dict()), dict(before), rtol=0, atol=0)


def test_early_stopping_lets_a_useful_fit_run_and_holds_out_a_fifth() -> None:
    loss = Recorded()
    descent = functools.partial(torch.optim.SGD, lr=0.02)
    estimator = DiffBypass(
        linear(), num_samples=15, sigma=0.7, fit_steps=6, patience=2, optimizer=descent, loss=loss, replay=1
    )
    estimate(estimator, lambda z: z @ torch.ones(3, 2), torch.randn(4, 3), torch.randn(4, 2))
    sizes = [len(g) for g, _ in loss.calls]
    held_out, training = 3 * 4, 12 * 4 + 4  # of 15 samples and the value
    assert sizes == [held_out, *[training, held_out] * 6]
    errors = [float((g - f).square().mean()) for g, f in loss.calls if len(g) == held_out]
    assert errors == sorted(errors, reverse=True)
    assert estimator.bypass.fit.steps == 6
    with torch.no_grad():
        g = estimator.network(estimator.bypass.fit.replay[0].inputs[0][:held_out])
    torch.testing.assert_close(g, loss.calls[-1][0])
    assert len(estimator.bypass.fit.replay[0].inputs[0]) == held_out + training
    assert estimator.quality.gradient_error is not None


def test_quality_is_that_of_all_samples_also_where_some_are_held_out() -> None:
    x, v, qualities = torch.randn(4, 3), torch.randn(4, 2), []
    template = linear()
    for patience in (None, 2):
        torch.manual_seed(4)
        estimator = DiffBypass(template, sigma=0.3, num_samples=9, fit_steps=3, replay=2, patience=patience)
        estimator.observe((x,), (x.repeat(3, 1) + 0.1 * torch.randn(12, 3),), (torch.zeros(12, 2),))
        estimator.bypass.fit.network.load_state_dict(template.state_dict())
        estimate(estimator, sines, x, v)
        qualities.append((estimator.quality.value_error, estimator.quality.gradient_error))
    assert qualities[0] == pytest.approx(qualities[1], rel=1e-5)


def test_early_stopping_counts_steps_since_the_best() -> None:
    """Held-out errors 9, then 8, 8.5, 7, 7, 7.1: patience 2 ends after the fifth step, at the third one's state."""
    errors = iter([9.0, 8.0, 8.5, 7.0, 7.0, 7.1, 1.0])

    def loss(g: Tensor, f: Tensor) -> Tensor:
        return torch.tensor(next(errors)) if len(g) == 8 else (g - f).square().mean()

    estimator = DiffBypass(linear(), num_samples=5, fit_steps=50, patience=2, loss=loss)
    weights = []
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Optimizer) -> None:
        step(self)
        weights.append(self.param_groups[0]["params"][0].detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", watched)
        estimate(estimator, sines, torch.randn(4, 3), torch.randn(4, 2))
    assert len(weights) == 5
    torch.testing.assert_close(estimator.network.weight.detach(), weights[2], rtol=0, atol=0)


def test_held_out_samples_are_measured_in_eval_mode_without_training_statistics() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    estimator = DiffBypass(network, num_samples=10, fit_steps=4, patience=10)
    estimate(estimator, sines, torch.randn(4, 3), torch.randn(4, 2))
    assert estimator.network[1].num_batches_tracked <= 4
    assert not estimator.network.training


def test_observed_evaluations_are_all_that_is_fitted_without_samples_of_its_own() -> None:
    box = ndgrad.wrap(sines, estimator=DiffBypass(linear(), num_samples=0, fit_steps=7, replay=2))
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="after observe"):
        box(x).sum().backward()
    probes = torch.randn(12, 3)
    box.estimator.observe((x.detach(),), (probes,), (sines(probes),))
    fit, count = box.estimator.bypass.fit, box.num_evaluations
    assert fit.steps == 7
    torch.testing.assert_close(fit.replay[0].inputs[0], probes)
    v = torch.randn(4, 2)
    (grad,) = torch.autograd.grad(box(x), x, v)
    torch.testing.assert_close(grad, v @ box.estimator.network.weight)
    assert (fit.steps, box.num_evaluations) == (7, count + 4)
    box.eval()
    box.estimator.observe((x.detach(),), (probes,), (sines(probes),))
    box.train()
    box.estimator.observe((x.detach()[:0],), (probes[:0],), (sines(probes)[:0],))
    assert fit.steps == 7


@pytest.mark.parametrize(("mode", "evaluate_in"), [("straight_through", "forward"), ("bypass", "backward")])
def test_two_calls_before_one_backward_pass(mode: str, evaluate_in: str) -> None:
    """Each call's gradient is that of the network as it was fitted by then."""
    estimator = DiffBypass(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), num_samples=3, forward=mode
    )
    x, v, expected, outputs = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2), 0.0, []
    for _ in range(2):
        outputs.append(estimator(sines, x, evaluate_in=evaluate_in))
        network, z = copy.deepcopy(estimator.network), x.detach().clone().requires_grad_()
        expected = expected + torch.autograd.grad(network(z), z, v)[0]
    torch.testing.assert_close(torch.autograd.grad(sum(outputs), x, v)[0], expected)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"trust_region": 0.0}, "trust_region must be"),
        ({"match": "slope"}, "match must be"),
        ({"patience": 0}, "patience must be"),
        ({"patience": 5, "num_samples": 3}, "num_samples >= 4, got 3"),
        ({"match": "difference", "forward": "bypass"}, "match='value'"),
        ({"num_samples": 0, "forward": "bypass"}, "num_samples >= 1; got 0"),
    ],
)
def test_bad_options(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffBypass(**bad)
    DiffBypass(num_samples=0, patience=5)


def test_a_fit_reads_no_number_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each such reading waits for all work before it; SGD, as Adam reads its own count of steps.

    One number is read before the fit: whether an evaluation failed.
    """
    reads: list[str] = []
    readers = {name: getattr(Tensor, name) for name in ("item", "tolist", "__float__", "__int__", "__bool__")}

    def recorded(name: str) -> Any:
        return lambda tensor, *args: (reads.append(name), readers[name](tensor, *args))[1]

    original = Fit.run

    def run(*args: Any) -> Any:
        reads.append("fit")
        return original(*args)

    estimator = ndgrad.DiffBypass(
        nn.Linear(4, 3), sigma=0.2, num_samples=5, replay=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.01)
    )
    x = torch.linspace(-1, 1, 24).reshape(6, 4).requires_grad_()
    for _ in range(2):
        y = estimator(lambda z: torch.sin(z[:, :3]), x)
        with monkeypatch.context() as patch:
            patch.setattr(Fit, "run", run)
            for name in readers:
                patch.setattr(Tensor, name, recorded(name))
            y.sum().backward()
    assert reads == ["__float__", "fit"] * 2
    assert 0 < estimator.quality.gradient_error < float("inf")
    assert "loss=" in repr(estimator.quality)
