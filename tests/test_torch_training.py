"""Mixed precision, checkpointing, threads, and what else surrounds a module in a training loop."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from loader_worker import Gradients, seed_numpy
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import ndgrad

B, n, m, S = 6, 4, 3, 5

MAKERS: dict[str, Callable[[torch.Generator], ndgrad.Estimator]] = {
    "fd": lambda g: ndgrad.FiniteDifference(eps=0.3),
    "es": lambda g: ndgrad.EvolutionStrategy(S, 0.3, generator=g),
    "score": lambda g: ndgrad.ScoreFunction(num_samples=S, sigma=0.3, generator=g),
    "bypass": lambda g: ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2, generator=g),
}


def stairs(x: Tensor) -> Tensor:
    return torch.round(3 * x) / 3


def box(name: str, seed: int = 0, **options: Any) -> ndgrad.BlackBox:
    return ndgrad.wrap(stairs, estimator=MAKERS[name](torch.Generator().manual_seed(seed)), **options)


def rows(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, n, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_under_autocast(name: str, dtype: torch.dtype) -> None:
    """The box computes in float32 between layers of half precision, which its gradient reaches."""
    torch.manual_seed(1)
    seen = []

    def recorded(x: Tensor) -> Tensor:
        seen.append((x.dtype, (x @ x.T).dtype))
        return stairs(x)

    layer = ndgrad.wrap(recorded, estimator=MAKERS[name](torch.Generator().manual_seed(0)))
    before, behind = nn.Linear(n, m), nn.Linear(m, 1)
    with torch.autocast("cpu", dtype=dtype):
        hidden = before(rows())
        y = layer(hidden)
        loss = behind(y).square().sum()
    loss.backward()  # outside of autocast, as torch asks for
    assert hidden.dtype == dtype
    assert y.dtype == torch.float32
    assert set(seen) == {(torch.float32, torch.float32)}
    for p in (*before.parameters(), *behind.parameters()):
        assert p.grad is not None
        assert p.grad.dtype == torch.float32
        assert p.grad.isfinite().all()
        assert p.grad.abs().max() > 0


@pytest.mark.parametrize("name", MAKERS)
def test_gradient_scaling_passes_through(name: str) -> None:
    """GradScaler multiplies the cotangent; dividing by the scale gives the gradient back exactly, a power of two."""
    gradients = []
    for scale in (1.0, 65536.0):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(n, m), box(name), nn.Linear(m, 1))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaler.scale(net(rows()).square().sum()).backward()
        scaler.unscale_(optimizer)
        gradients.append([p.grad.clone() for p in net.parameters()])
        before = net[0].weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert (net[0].weight - before).abs().max() > 0
    assert_close(*gradients, rtol=1e-6, atol=0)


def test_a_gradient_that_overflows_is_skipped_by_the_scaler() -> None:
    net = nn.Sequential(nn.Linear(n, m), box("fd"))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net[0].weight.detach().clone()
    scaler.scale(1e30 * net(rows()).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_close(net[0].weight.detach(), before, rtol=0, atol=0)
    assert scaler.get_scale() < 2.0**127


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("evaluate_in", ["backward", "forward"])
def test_activation_checkpointing(name: str, use_reentrant: bool, evaluate_in: str) -> None:
    """The same gradient from the same noise; recomputing costs the value again, and probes only where they belong."""

    def gradient(wrapper: Callable[..., Tensor]) -> tuple[Tensor, int]:
        torch.manual_seed(5)
        estimator = MAKERS[name](None)  # the global generator, whose state checkpointing puts back
        layer = ndgrad.wrap(stairs, estimator=estimator, evaluate_in=evaluate_in)
        x = rows().requires_grad_()
        torch.manual_seed(6)
        y = wrapper(lambda z: layer(z * 1.5), x)
        return torch.autograd.grad(y.sin().sum(), x)[0] if not use_reentrant else by_backward(y, x), (
            layer.num_evaluations
        )

    def by_backward(y: Tensor, x: Tensor) -> Tensor:  # autograd.grad does not work with reentrant checkpoints
        y.sin().sum().backward()
        assert x.grad is not None
        return x.grad

    plain, spent = gradient(lambda f, x: f(x))
    found, spent_again = gradient(lambda f, x: checkpoint(f, x, use_reentrant=use_reentrant))
    assert_close(found, plain, rtol=0, atol=0)
    assert spent_again == spent + B


def test_an_offloaded_or_hooked_graph() -> None:
    """Saved tensors go through save_for_backward only, so that hooks can pack them."""
    packed = []

    def pack(x: Tensor) -> Tensor:
        packed.append(x.shape)
        return x.clone()

    gradients = []
    for hooks in (False, True):
        x = rows().requires_grad_()
        layer = box("es")
        if hooks:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                y = layer(x)
        else:
            y = layer(x)
        gradients.append(torch.autograd.grad(y.sum(), x)[0])
    assert_close(*gradients)
    assert packed == [(B, n), (B, n)]  # the input and the output


def test_a_graph_is_freed_by_its_backward_pass() -> None:
    x = rows().requires_grad_()
    y = box("es")(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


@pytest.mark.parametrize("which", ["input", "output"])
def test_changes_in_place_are_noticed(which: str) -> None:
    x = rows().requires_grad_()
    z = x * 2
    y = box("fd")(z)
    kept = y * 1
    with torch.no_grad():
        (z if which == "input" else y).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def test_outputs_may_be_changed_in_place_by_operations_that_autograd_sees() -> None:
    x = rows().requires_grad_()
    first = ndgrad.wrap(lambda x: x**2, estimator=ndgrad.FiniteDifference("forward", eps=0.25))
    y = first(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.mul_(3).sum().backward()  # the forward quotient needs y as it was
    (first(x) * 1).mul_(3).sum().backward()
    assert_close(x.grad, 3 * (2 * x.detach() + 0.25), rtol=1e-4, atol=1e-4)


def test_inference_tensors() -> None:
    with torch.inference_mode():
        x = rows()
        y = box("es")(x)
    assert y.is_inference()
    assert not box("es")(x).requires_grad  # outside again, with a tensor from inside
    layer = nn.Linear(n, m)
    boxed = box("es")
    with pytest.raises(RuntimeError, match="Inference tensors"):
        layer(x)  # torch's own rule, before the box has a part in it
    boxed(layer(x.clone())).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("name", MAKERS)
def test_two_backward_threads_with_boxes_of_their_own(name: str) -> None:
    """Equal to one after the other, bit for bit: no state is shared and private noise is not mixed."""
    torch.manual_seed(4)
    first = box(name)
    first(rows().requires_grad_()).sum().backward()  # builds a default network, from the global generator

    def run(layer: ndgrad.BlackBox, seed: int) -> Tensor:
        x = rows(seed).requires_grad_()
        for _ in range(10):
            layer(x).sin().sum().backward()
        assert x.grad is not None
        return x.grad

    serial = [run(copy.deepcopy(first), seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        parallel = list(pool.map(run, [copy.deepcopy(first), copy.deepcopy(first)], (0, 1)))
    assert_close(parallel, serial, rtol=0, atol=0)


def test_two_backward_threads_through_one_box() -> None:
    layer = ndgrad.wrap(lambda x: x**2, estimator=ndgrad.FiniteDifference(eps=0.25))

    def run(seed: int) -> tuple[Tensor, Tensor]:
        x = rows(seed, torch.float64).requires_grad_()
        for _ in range(10):
            layer(x).sum().backward()
        assert x.grad is not None
        return x.grad, 20 * x.detach()

    with ThreadPoolExecutor(2) as pool:
        for found, expected in pool.map(run, range(4)):
            assert_close(found, expected)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms(name: str) -> None:
    gradients = []
    for _ in range(2):
        torch.manual_seed(3)
        x = rows().requires_grad_()
        gradients.append(torch.autograd.grad(box(name)(x).sin().sum(), x)[0])
    assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.usefixtures("deterministic")
def test_a_default_network_for_maps_is_deterministic() -> None:
    layer = ndgrad.wrap(stairs, estimator=ndgrad.DiffBypass(sigma=0.3, num_samples=2, fit_steps=1, replay=1))
    x = torch.randn(2, 8, 8, requires_grad=True)
    for _ in range(2):
        layer(x).sum().backward()
    assert x.grad is not None


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_detection_names_the_box() -> None:
    x = rows().requires_grad_()

    def fails_later(z: Tensor) -> Tensor:
        if len(z) != B:
            raise ValueError("no probes, please")
        return z

    with (
        torch.autograd.detect_anomaly(check_nan=True),
        pytest.warns(UserWarning, match="Error detected in _AttachBackward"),
        pytest.raises(ndgrad.FunctionError, match="no probes, please"),
    ):
        ndgrad.wrap(fails_later, estimator="finite_difference")(x).sum().backward()


def test_hooks_on_the_module_and_its_output() -> None:
    seen = []
    layer = box("fd")
    layer.register_forward_hook(lambda module, args, y: seen.append("forward"))
    layer.register_full_backward_hook(lambda module, gi, go: seen.append("backward"))
    x = rows().requires_grad_()
    y = layer(x)
    y.register_hook(lambda v: 2 * v)
    y.sum().backward()
    assert seen == ["forward", "backward"]


def test_gradients_accumulate_over_several_passes() -> None:
    layer = ndgrad.wrap(lambda x: x**2, estimator=ndgrad.FiniteDifference(eps=0.25))
    x = rows(dtype=torch.float64).requires_grad_()
    for _ in range(3):
        layer(x).sum().backward()
    assert_close(x.grad, 6 * x.detach())


@pytest.mark.slow
def test_importing_the_library_is_light() -> None:
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import ndgrad\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "heavy = {'matplotlib', 'networkx', 'scipy', 'monai', 'pandas', 'numba', 'optuna'}\n"
        "assert not new & heavy, new & heavy\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_workers_of_a_data_loader_repeat_their_draws() -> None:
    def gradients(seed: int) -> Tensor:
        loader = DataLoader(
            Gradients(),
            num_workers=2,
            worker_init_fn=seed_numpy,
            generator=torch.Generator().manual_seed(seed),
            multiprocessing_context="spawn",
        )
        return torch.cat(list(loader))  # (6, 1, 2)

    first, again, other = gradients(0), gradients(0), gradients(1)
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert not torch.isclose(first[0], first[1]).any()  # of one draw each, in two workers
