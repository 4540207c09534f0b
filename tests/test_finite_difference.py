from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ndgrad
from ndgrad import FiniteDifference
from ndgrad.coloring import Coloring
from ndgrad.testing import estimate


def cubic_error(method: str, eps: float | None, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.tensor([[0.7, -1.3, 2.1]], dtype=dtype)
    v = torch.tensor([[1.4, -0.6, 0.9]], dtype=dtype)
    return estimate(FiniteDifference(method, eps), lambda z: z**3, x, v) - v * 3 * x**2


def test_closed_forms_of_the_cubic() -> None:
    h, x = 0.2, torch.tensor([[0.7, -1.3, 2.1]], dtype=torch.float64)
    v = torch.tensor([[1.4, -0.6, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(cubic_error("central", h), v * h**2)
    torch.testing.assert_close(cubic_error("forward", h), v * (3 * x * h + h**2))


@pytest.mark.parametrize(("method", "order"), [("central", 2), ("forward", 1)])
def test_order_of_the_bias(method: str, order: int) -> None:
    ratio = cubic_error(method, 1e-3) / cubic_error(method, 5e-4)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0**order), rtol=2e-2, atol=0)


def test_central_differences_are_the_default() -> None:
    assert FiniteDifference().method == "central"


@pytest.mark.parametrize(
    ("dtype", "method", "tolerance"),
    [
        (torch.float64, "central", 1e-9),
        (torch.float64, "forward", 1e-6),
        (torch.float32, "central", 2e-4),
        (torch.float32, "forward", 5e-3),
    ],
)
def test_default_step_suits_the_dtype(dtype: torch.dtype, method: str, tolerance: float) -> None:
    assert cubic_error(method, None, dtype).abs().max() < tolerance


def test_default_step_grows_with_the_input() -> None:
    x, v = torch.tensor([[3e4, -2e-3]]), torch.tensor([[0.5, 0.5]])
    grad = estimate(FiniteDifference(), torch.square, x, v)
    torch.testing.assert_close(grad, x, rtol=1e-3, atol=1e-5)


def test_the_realised_step_is_divided_by() -> None:
    """With h = 1e-3 beside 1000 float32 realises a step 2 % off; a linear function must not notice."""
    x, v = torch.tensor([[1000.1, -3000.3]]), torch.tensor([[0.5, 1.5]])
    grad = estimate(FiniteDifference(eps=1e-3), lambda z: z, x, v)
    torch.testing.assert_close(grad, v)


def test_a_step_that_vanishes_is_refused() -> None:
    with pytest.raises(ValueError, match="vanishes"):
        estimate(FiniteDifference(eps=1e-3), lambda z: z, torch.tensor([[1e6]]), torch.tensor([[0.5]]))


def error_of_sine(
    estimator: FiniteDifference, dtype: torch.dtype, returned: torch.dtype, inner: torch.dtype = torch.float64
) -> Tensor:
    """Return the largest error of a gradient, with v = 0.7, where rows of ``dtype`` give outputs of ``returned``."""
    x = torch.tensor([[0.9, 0.3, 2.7]], dtype=dtype, requires_grad=True)
    y = estimator(lambda z: z.to(inner).sin().sum(1).to(returned), x)
    (grad,) = torch.autograd.grad(y, x, torch.full((1,), 0.7, dtype=returned))
    assert grad.dtype == dtype
    return (grad.double() - 0.7 * x.detach().double().cos()).abs().max()


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"method": "forward"}, 5e-4),
        ({}, 1e-4),
        ({"order": 4}, 2e-5),
        ({"eps": "auto"}, 1e-4),
        ({"bounds": (0.3, 2.7)}, 1e-4),
        ({"eps": 1e-5}, 1e-4),
    ],
)
def test_points_are_those_of_the_inputs_dtype(settings: dict[str, object], tolerance: float) -> None:
    """A function that returns float64 sees float32 rows: it is probed, and divided by, at what these can hold."""
    error = error_of_sine(FiniteDifference(**settings), torch.float32, torch.float64)
    assert error < tolerance


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({"method": "forward"}, 2e-3), ({}, 1e-4), ({"eps": "auto"}, 1e-4)],
)
def test_steps_suit_the_outputs_dtype(settings: dict[str, object], tolerance: float) -> None:
    error = error_of_sine(FiniteDifference(**settings), torch.float64, torch.float32, torch.float32)
    assert error < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_steps_of_half_precision(dtype: torch.dtype) -> None:
    for settings, tolerance in (({"method": "forward"}, 0.04), ({}, 0.04), ({"eps": "auto"}, 0.01)):
        error = error_of_sine(FiniteDifference(**settings), dtype, torch.float32)
        assert error < tolerance


def test_each_input_has_the_step_of_its_own_dtype() -> None:
    a = torch.tensor([[0.9], [0.3]], requires_grad=True)
    b = torch.tensor([[0.7], [0.2]], dtype=torch.float64, requires_grad=True)
    y = FiniteDifference("forward")(lambda a, b: a**2 + b**2, a, b)
    first, second = torch.autograd.grad(y, (a, b), torch.full_like(b, 0.5))
    torch.testing.assert_close(first, a.detach(), rtol=0, atol=5e-4)
    torch.testing.assert_close(second, b.detach(), rtol=0, atol=5e-8)


def test_integer_outputs_are_exact() -> None:
    x, probes = torch.tensor([[0.4]], dtype=torch.float64), []
    pull = FiniteDifference().linearize(
        lambda z: (probes.append(z), z.round().long())[1], (x,), (torch.zeros(1, 1).long(),)
    )
    assert pull((torch.full((1, 1), 0.7),))[0].item() == 0
    assert (probes[-1] - x).abs().max() < 1e-5, "the step of float64"


def test_a_step_that_vanishes_in_the_inputs_dtype_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"eps=1e-08 vanishes .* as large as 2\.7 in torch\.float32; .* float64"
    ):
        error_of_sine(FiniteDifference(eps=1e-8), torch.float32, torch.float64)
    assert error_of_sine(FiniteDifference(eps=1e-5), torch.float64, torch.float64) < 1e-9


def test_blocks_give_the_same_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    x, v = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    matrix = torch.randn(7, 4, dtype=torch.float64)
    whole = estimate(FiniteDifference(), lambda z: torch.sin(z) @ matrix, x, v)
    monkeypatch.setattr("ndgrad.estimators.finite_difference._MAX_BLOCK", 50)
    torch.testing.assert_close(estimate(FiniteDifference(), lambda z: torch.sin(z) @ matrix, x, v), whole)
    torch.testing.assert_close(whole, torch.cos(x) * (v @ matrix.T), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("method", "order"), [("central", 4), ("central", 6), ("forward", 2), ("forward", 3)]
)
def test_higher_orders(method: str, order: int) -> None:
    x, v = torch.tensor([[0.7, -1.3]], dtype=torch.float64), torch.tensor([[1.4, -0.6]], dtype=torch.float64)
    errors = [
        estimate(FiniteDifference(method, h, order), torch.exp, x, v) - v * torch.exp(x) for h in (0.04, 0.02)
    ]
    ratio = errors[0] / errors[1]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0**order), rtol=0.1, atol=0)


@pytest.mark.parametrize(("method", "order"), [("central", 4), ("central", 6), ("forward", 3)])
def test_default_steps_of_higher_orders(method: str, order: int) -> None:
    x, v = torch.tensor([[0.7, -1.3]], dtype=torch.float64), torch.tensor([[1.4, -0.6]], dtype=torch.float64)
    grad = estimate(FiniteDifference(method, order=order), torch.exp, x, v)
    torch.testing.assert_close(grad, v * torch.exp(x), rtol=1e-10, atol=0)


def test_each_coordinate_has_its_own_step() -> None:
    """The error of the cubic is h^2: that of each coordinate's step."""
    x, v = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    h = torch.tensor([0.1, 0.2, 0.4, 0.7], dtype=torch.float64)
    grad = estimate(FiniteDifference(eps=h), lambda z: z**3, x, v)
    torch.testing.assert_close(grad, v * (3 * x**2 + h**2))
    inputs = [x[:, :1].clone().requires_grad_(), x[:, 1:].clone().requires_grad_()]
    out = FiniteDifference(eps=(0.1, h[1:]))(lambda a, b: torch.cat([a, b], 1) ** 3, *inputs)
    torch.testing.assert_close(torch.cat(torch.autograd.grad(out, inputs, v), 1), grad)


class Inside:
    """exp, with a check that every probe is in the box."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high, self.rows = low, high, 0

    def __call__(self, z: Tensor) -> Tensor:
        assert z.min() >= self.low
        assert z.max() <= self.high
        self.rows += len(z)
        return torch.exp(z)


@pytest.mark.parametrize(
    ("method", "order"), [("central", 2), ("central", 4), ("forward", 1), ("forward", 2)]
)
def test_bounds_keep_the_order_and_the_cost(method: str, order: int) -> None:
    """On both bounds, so near that only one side fits, and in the middle."""
    x = torch.tensor([[-1.0, 2.0, 1.995, -0.97, 0.3]], dtype=torch.float64)
    v = torch.tensor([[1.4, -0.6, 0.9, 2.0, 0.5]], dtype=torch.float64)
    errors = []
    for h in (0.02, 0.01):
        f = Inside(-1.0, 2.0)
        errors.append(estimate(FiniteDifference(method, h, order, (-1.0, 2.0)), f, x, v) - v * torch.exp(x))
        assert f.rows == 1 + order * 5
    ratio = (errors[0] / errors[1])[:, [0, 1, 4]]  # the others change sides between the two steps
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0**order), rtol=0.1, atol=0)
    assert errors[1].abs().max() < 20 * 0.02**order


def test_where_central_differences_fit_bounds_change_nothing() -> None:
    x, v = torch.rand(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    for settings in ({}, {"order": 4}, {"eps": 0.03}, {"eps": "auto"}, {"method": "forward"}):
        free = estimate(FiniteDifference(**settings), torch.exp, x, v)
        bounded = estimate(FiniteDifference(**settings, bounds=(-0.5, 1.5)), torch.exp, x, v)
        torch.testing.assert_close(bounded, free, rtol=0, atol=0)


def test_a_box_too_narrow_for_the_step_shortens_it() -> None:
    for method, order in (("central", 2), ("central", 4), ("forward", 1), ("forward", 3)):
        x = torch.tensor([[0.1, 0.16]], dtype=torch.float64)
        f = Inside(0.1, 0.2)
        grad = estimate(FiniteDifference(method, 0.5, order, (0.1, 0.2)), f, x, torch.full_like(x, 0.7))
        torch.testing.assert_close(grad, 0.7 * torch.exp(x), rtol=0.1**order, atol=0)


def test_rounding_does_not_carry_a_probe_across_a_bound() -> None:
    x = torch.rand(50, 20, generator=torch.Generator().manual_seed(1)) * 0.7 + 0.1
    for order in (3, 5, 7):
        estimator = FiniteDifference("forward", 0.9, order, (0.1, float(torch.tensor(0.8))))
        estimate(estimator, Inside(0.1, float(torch.tensor(0.8))), x, torch.full_like(x, 0.7))


def test_forward_differences_at_the_upper_bound_go_backward() -> None:
    """x^2 at its upper bound: 2 x - h backward, where 2 x + h would be forward."""
    x, v = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    grad = estimate(FiniteDifference("forward", 0.1, bounds=(-math.inf, 1.0)), torch.square, x, v)
    torch.testing.assert_close(grad, 0.5 * torch.tensor([[1.9, 0.1]], dtype=torch.float64))


@pytest.mark.parametrize(
    "settings", [{}, {"order": 4}, {"method": "forward", "order": 2}, {"bounds": (0.3, 40.0)}]
)
def test_automatic_step_finds_the_scale(settings: dict[str, object]) -> None:
    """Functions with scales from 1/500 to 500, and the error estimate above the error at every point."""
    x = torch.tensor([[0.3, 1.1, 2.7], [0.9, 5.0, 30.0]], dtype=torch.float64)
    v = torch.tensor([[0.7, -1.2, 0.4], [1.1, 0.8, -0.5]], dtype=torch.float64)
    for scale in (0.002, 1.0, 500.0):
        estimator = FiniteDifference(eps="auto", **settings)
        grad = estimate(estimator, lambda z, scale=scale: torch.sin(z / scale), x, v)
        error = ((grad - v * torch.cos(x / scale) / scale) / v).abs()
        assert (error <= estimator.quality.error).all()
        assert (estimator.quality.error[0] * scale < (1e-3 if scale < 1 else 1e-8)).all()


def test_automatic_step_is_wide_where_values_are_rough() -> None:
    """A function rounded to 6 digits needs a step far wider than float64's: the fixed one is off by all of it."""
    x, v = torch.tensor([[0.4, 1.3]], dtype=torch.float64), torch.tensor([[0.9, -0.4]], dtype=torch.float64)
    f = lambda z: (torch.sin(z) * 1e6).round() / 1e6  # noqa: E731
    estimator = FiniteDifference(eps="auto")
    error = ((estimate(estimator, f, x, v) - v * torch.cos(x)) / v).abs()
    assert (error < 1e-3).all()
    assert (estimator.quality.error < 1e-2).all()
    assert (estimator.quality.step > 5e-4).all()
    fixed = ((estimate(FiniteDifference(), f, x, v) - v * torch.cos(x)) / v).abs()
    assert (fixed > 1e-2).all()


def test_quality_is_per_row_and_input_and_of_the_last_call() -> None:
    estimator = FiniteDifference(eps="auto")
    assert estimator.quality is None
    x, v = torch.rand(3, 2, dtype=torch.float64), torch.full((3, 2), 0.5, dtype=torch.float64)
    fast = torch.tensor([1.0, 800.0], dtype=torch.float64)
    estimate(estimator, lambda z: torch.sin(fast * z), x, v)
    assert estimator.quality.step.shape == estimator.quality.error.shape == (3, 2)
    assert (estimator.quality.step[:, 1] < estimator.quality.step[:, 0]).all()
    assert (estimator.quality.error[:, 1] > estimator.quality.error[:, 0]).all()
    plain = FiniteDifference()
    estimate(plain, torch.sin, x, v)
    assert plain.quality is None


def banded(n: int, m: int, width: int) -> Tensor:
    i, k = torch.arange(n).unsqueeze(1), torch.arange(m)
    return (i - k >= 0) & (i - k < width)


@pytest.mark.parametrize(
    "settings", [{}, {"method": "forward"}, {"order": 4}, {"eps": "auto"}, {"bounds": (-9.0, 9.0)}]
)
@pytest.mark.parametrize("block", [2**24, 50])
def test_sparsity_gives_the_same_derivative_for_fewer_evaluations(
    settings: dict[str, object], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndgrad.estimators.finite_difference._MAX_BLOCK", block)
    n, m, width, B = 12, 10, 3, 2
    pattern = banded(n, m, width)
    torch.manual_seed(0)
    matrix = torch.randn(n, m, dtype=torch.float64) * pattern
    x, v = torch.randn(B, n, dtype=torch.float64), torch.randn(B, m, dtype=torch.float64)
    rows = []

    def f(z: Tensor) -> Tensor:
        rows.append(len(z))
        return torch.sin(z) @ matrix

    grad = estimate(FiniteDifference(sparsity=pattern, **settings), f, x, v)
    sparse_rows = sum(rows)
    rows.clear()
    dense = estimate(FiniteDifference(**settings), f, x, v)
    torch.testing.assert_close(grad, dense, rtol=1e-6, atol=1e-7)
    assert (sparse_rows - B) * n == (sum(rows) - B) * width


def test_inputs_without_outputs_have_gradient_0() -> None:
    pattern = torch.tensor([[True, False], [False, False], [False, True]])
    x, v = torch.randn(2, 3, dtype=torch.float64), torch.tensor([[0.3, -0.8]] * 2, dtype=torch.float64)
    grad = estimate(FiniteDifference(sparsity=pattern), lambda z: z[:, [0, 2]] ** 2, x, v)
    expected = torch.stack([v[:, 0], 0 * v[:, 0], v[:, 1]], 1) * 2 * x
    torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-9)


def test_groups_share_no_output() -> None:
    torch.manual_seed(0)
    for n, m, density in ((20, 15, 0.1), (7, 30, 0.05), (9, 4, 0.6), (5, 3, 0.0), (0, 3, 0.5), (4, 0, 0.5)):
        pattern = torch.rand(n, m) < density
        coloring = Coloring(pattern)
        for color in range(coloring.num_colors):
            assert (pattern[coloring.colors == color].sum(0) <= 1).all()
        assert coloring.num_colors <= n
    assert Coloring(banded(50, 48, 3)).num_colors == 3
    assert Coloring(torch.eye(50, dtype=torch.bool)).num_colors == 1
    arrow = torch.eye(6, dtype=torch.bool)
    arrow[:, 0] = True  # all inputs share output 0
    assert Coloring(arrow).num_colors == 6


def test_a_wrong_pattern_is_refused_where_it_shows() -> None:
    """Inputs 0 and 2 are a group, 1 and 3 another; that output 2 depends on input 0, too, is not declared."""
    pattern = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1]]).bool()
    x, v = torch.zeros(2, 4, dtype=torch.float64), torch.full((2, 3), 0.5, dtype=torch.float64)
    f = lambda z: torch.stack([z[:, 0] + z[:, 1], z[:, 0] - z[:, 3], z[:, 3] - 0.1 * z[:, 0]], 1)  # noqa: E731
    with pytest.raises(ValueError, match=r"output 2 depends on none of the inputs \[0, 2\], but in row 0 it"):
        estimate(FiniteDifference(sparsity=pattern), f, x, v)


def test_rounding_is_no_dependence() -> None:
    """A function of rows may round differently for another number of rows."""
    pattern = torch.eye(3, dtype=torch.bool)
    pattern[0, 1] = True
    f = lambda z: z**2 * (1.0 + 2**-51 if len(z) > 2 else 1.0)  # noqa: E731
    x, v = torch.rand(2, 3, dtype=torch.float64) + 1, torch.full((2, 3), 0.5, dtype=torch.float64)
    grad = estimate(FiniteDifference(sparsity=pattern), f, x, v)
    torch.testing.assert_close(grad, x, rtol=1e-8, atol=0)


def test_sparsity_must_fit() -> None:
    for bad in (torch.ones(3, 2), torch.ones(3, dtype=torch.bool), [[True]]):
        with pytest.raises(ValueError, match="sparsity must be a bool tensor"):
            FiniteDifference(sparsity=bad)
    estimator = FiniteDifference(sparsity=torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"n=4 inputs .* m=4 outputs, .* shape \(3, 2\)"):
        estimate(estimator, torch.sin, torch.zeros(2, 4), torch.full((2, 4), 0.5))
    assert list(estimator.state_dict()) == []
    assert "num_colors=3" in repr(estimator)


def test_sparsity_of_several_inputs_and_outputs() -> None:
    """Flattened side by side: a (2,), b (2, 1); outputs a b and b^2 of the same coordinate."""
    eye = torch.eye(2, dtype=torch.bool)
    pattern = torch.cat([torch.cat([eye, torch.zeros_like(eye)], 1), torch.cat([eye, eye], 1)])
    box = ndgrad.wrap(
        lambda a, b: (a * b[..., 0], b[..., 0] ** 2), estimator=FiniteDifference(sparsity=pattern)
    )
    a = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 2, 1, dtype=torch.float64, requires_grad=True)
    first, second = box(a, b)
    (0.7 * first + 0.2 * second).sum().backward()
    torch.testing.assert_close(a.grad, 0.7 * b[..., 0].detach(), rtol=1e-7, atol=1e-9)
    expected = (0.7 * a + 0.4 * b[..., 0]).detach().unsqueeze(-1)
    torch.testing.assert_close(b.grad, expected, rtol=1e-7, atol=1e-9)
    assert box.num_evaluations == 3 + 3 * 2 * 2


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "backward"},
        {"eps": 0.0},
        {"eps": -0.1},
        {"eps": float("inf")},
        {"eps": True},
        {"eps": "best"},
        {"eps": torch.tensor([0.1, 0.0])},
        {"order": 3},
        {"order": 0},
        {"order": True},
        {"bounds": (2, 1)},
    ],
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        FiniteDifference(**bad)


def test_no_inputs_no_columns() -> None:
    assert estimate(
        FiniteDifference(), lambda z: z.sum(1, keepdim=True), torch.zeros(3, 0), torch.full((3, 1), 0.5)
    ).shape == (3, 0)


def test_repr() -> None:
    assert "method='forward', eps=0.1" in repr(FiniteDifference("forward", 0.1))
