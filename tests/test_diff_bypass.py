from __future__ import annotations

import copy
import functools
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ndgrad
from ndgrad import DiffBypass
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
    with pytest.raises(RuntimeError, match="straight_through"):
        checkpoint(box, x, use_reentrant=False).sum().backward()


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

    x, v = torch.randn(4, 3), torch.randn(4, 2)
    original = build()
    for _ in range(3):
        estimate(original, sines, x, v)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    restored = build()
    restored.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        torch.testing.assert_close(
            estimate(restored, sines, x, v), estimate(original, sines, x, v), rtol=0, atol=0
        )


def test_state_dict_of_an_unused_estimator_and_of_a_given_network() -> None:
    fresh = DiffBypass(linear(), num_samples=3)
    fresh.load_state_dict(DiffBypass(linear(), num_samples=3).state_dict())
    trained = DiffBypass(linear(), num_samples=3)
    x, v = torch.randn(4, 3), torch.randn(4, 2)
    estimate(trained, sines, x, v)
    fresh.load_state_dict(trained.state_dict())
    torch.testing.assert_close(estimate(fresh.eval(), sines, x, v), estimate(trained.eval(), sines, x, v))


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
