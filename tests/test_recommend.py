from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ndgrad
from ndgrad import EvolutionStrategy, FiniteDifference, recommend
from ndgrad.diagnostics import CANDIDATES, Candidate, Recommendation, Trial

ES = CANDIDATES["evolution_strategy_pairs"]
FD = CANDIDATES["finite_difference"]
PAIR = {"fd": FD, "es": ES}


def point(B: int = 3, n: int = 4) -> Tensor:
    return torch.linspace(-0.8, 1.1, B * n).reshape(B, n)


def bowl(z: Tensor) -> Tensor:
    return (z - 0.3).square().sum(-1, keepdim=True)


def total(y: Tensor) -> Tensor:
    return y.sum(-1)


@pytest.mark.parametrize(
    ("name", "evaluations", "n", "expected"),
    [
        ("finite_difference", 9, 4, 0),
        ("finite_difference", 8, 4, None),
        ("finite_difference_forward", 5, 4, 0),
        ("finite_difference_forward", 4, 4, None),
        ("evolution_strategy_pairs", 10, 4, 4),
        ("evolution_strategy_pairs", 2, 4, None),
        ("evolution_strategy_single", 3, 4, 2),
        ("evolution_strategy_single", 2, 4, None),
        ("control_variate", 3, 4, 2),
        ("control_variate", 2, 4, None),
        ("guided_evolution_strategy", 6, 4, 2),
        ("guided_evolution_strategy", 4, 4, None),
        ("diff_bypass_difference", 2, 4, 1),
    ],
)
def test_budget_of_candidates(name: str, evaluations: int, n: int, expected: int | None) -> None:
    assert CANDIDATES[name].num_samples(evaluations, n) == expected


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_spend_their_budget_and_no_more(name: str) -> None:
    candidate, n, budget = CANDIDATES[name], 4, 12
    S = candidate.num_samples(budget, n)
    assert S is not None
    box = ndgrad.wrap(bowl, estimator=candidate.make(S, 0.3))
    box(point().requires_grad_()).sum().backward()
    (trial,) = recommend(
        bowl, point(), budget, loss=total, candidates={name: candidate}, sigmas=[0.3], steps=1
    ).ranking
    assert box.num_evaluations == 3 * trial.evaluations
    assert trial.evaluations <= budget
    assert trial.sigma == (0.3 if candidate.scaled else None)
    if candidate.scaled:
        assert 0.3 in (getattr(box.estimator, "sigma", None), getattr(box.estimator, "eps", None))


def test_smooth_function_with_enough_evaluations_takes_exact_differences() -> None:
    """Two pairs in four inputs see half of the squared gradient, four forward differences all of it."""
    kept = {"fd": CANDIDATES["finite_difference_forward"], "es": ES}
    result = recommend(bowl, point(), 5, loss=total, candidates=kept, steps=10, sigmas=[0.1])
    assert result.best.name == "fd"
    assert isinstance(result.estimator, FiniteDifference)
    assert result.best.evaluations == 5
    assert result.objective == pytest.approx(float(bowl(point()).sum()))
    text = str(result)
    assert text.startswith("take FiniteDifference(")
    assert "the next other kind, es, by" in text
    assert f"{result.spent} evaluations per row" in text


def test_reductions_are_those_of_the_descent() -> None:
    """Exact differences and plain gradient descent on a bowl: x - 0.3 shrinks by 1 - 2 lr in each step."""
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    result = recommend(
        bowl, point(), 9, loss=lambda y: y.mean(), optimizer=optimizer, candidates={"fd": FD}, steps=5
    )
    start = float(bowl(point()).mean())
    shrunk = (1 - 0.1 * 2 / 3) ** 10  # the gradient of the mean of 3 rows
    assert result.best.reduction == pytest.approx(start * (1 - shrunk), rel=1e-3)
    assert result.objective == pytest.approx(start, rel=1e-6)
    assert result.best.reductions == pytest.approx([result.best.reduction] * 8)
    assert result.best.standard_error == pytest.approx(0, abs=1e-9)


def test_rounds_spend_what_they_say() -> None:
    rows = 0

    def counting(z: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return bowl(z)

    result = recommend(counting, point(), 9, loss=total, steps=3, sigmas=[0.1, 0.3])
    assert rows == 3 * result.spent
    runs = sorted((len(trial.reductions) for trial in result.ranking), reverse=True)
    C = len(runs)
    assert C == 16
    assert runs == [8] * 2 + [4] * 2 + [2] * 4 + [1] * 8
    order = [(len(trial.reductions), trial.reduction) for trial in result.ranking]
    assert order == sorted(order, reverse=True)


def test_one_lucky_descent_does_not_win() -> None:
    """Each descent makes one step of random length; what was left behind after a round must not come back."""

    class Dice(ndgrad.FlatEstimator):
        def linearize_flat(self, f: Any, x: Tensor, y: Tensor) -> Any:
            return lambda v: -torch.randn(1).exp() * torch.ones_like(x)

    optimizer = functools.partial(torch.optim.SGD, lr=1.0)
    kept = {f"dice {k}": Candidate(lambda S, sigma: Dice(), scaled=False) for k in range(16)}
    for seed in range(3):
        ranking = recommend(
            lambda z: -z.sum(-1, keepdim=True), point(1), 2, candidates=kept, cotangent=torch.ones(1, 1), steps=1,
            optimizer=optimizer, seed=seed,
        ).ranking  # fmt: skip
        assert [len(trial.reductions) for trial in ranking] == [8] * 2 + [4] * 2 + [2] * 4 + [1] * 8


def test_steps_of_a_staircase_need_a_width() -> None:
    x = 3 * point() + 0.03
    result = recommend(torch.round, x, 17, loss=lambda y: y.square().sum(-1), steps=10, sigmas=[0.01, 0.5])
    wide = sum(trial.sigma == 0.5 for trial in result.ranking)
    assert {trial.sigma for trial in result.ranking[:wide]} == {0.5}
    flat = next(trial for trial in result.ranking if trial.name == "finite_difference")
    assert flat.reduction == 0


def test_noise_is_averaged_in_the_score() -> None:
    def noisy(z: Tensor) -> Tensor:
        return bowl(z) + 3.0 * torch.randn(len(z), 1)

    kept = {"fd": FD, "es": ES}
    optimizer = functools.partial(torch.optim.Adam, lr=0.05)
    result = recommend(
        noisy, point(), 9, loss=total, candidates=kept, steps=20, sigmas=[0.5], optimizer=optimizer
    )
    assert result.best.name == "es"
    seeds = [
        recommend(noisy, point(), 3, candidates={"es": ES}, loss=total, steps=1, seed=seed)
        for seed in range(8)
    ]
    errors = torch.tensor([r.objective - float(bowl(point()).sum()) for r in seeds])
    assert errors.square().mean().sqrt() < 2 * 3.0 * math.sqrt(
        3 / 16
    )  # 16 values of 3 rows; one would give 5.2


def test_default_objective_is_a_fixed_random_direction_and_a_cotangent_replaces_it() -> None:
    by_seed = [recommend(torch.tanh, point(), 9, candidates=PAIR, steps=3, seed=4) for _ in range(2)]
    assert by_seed[0].objective == by_seed[1].objective
    assert [t.reductions for t in by_seed[0].ranking] == [t.reductions for t in by_seed[1].ranking]
    v = torch.linspace(-1, 2, 12).reshape(3, 4)
    given = recommend(torch.tanh, point(), 9, candidates=PAIR, steps=3, cotangent=v)
    assert given.objective == pytest.approx(float((v * point().tanh()).sum()), rel=1e-5)


def test_keywords_of_wrap_and_several_arguments() -> None:
    def f(a: Any, b: Any) -> Any:
        return np.float64((np.asarray(a) * b["w"]).sum() ** 2)

    a, w = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.5, -0.5])
    result = recommend(
        f,
        (a, {"w": w}),
        9,
        loss=lambda y: y,
        interface="numpy",
        batched=False,
        argnums=0,
        candidates=PAIR,
        steps=4,
    )
    assert result.best.reduction > 0
    assert result.objective == pytest.approx(float((a * w).sum() ** 2))


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_default_rate_and_widths_follow_the_scale_of_the_input(scale: float) -> None:
    es = {"es": ES}
    scaled = recommend(lambda z: bowl(z / scale), point() * scale, 9, loss=total, candidates=es, steps=8)
    plain = recommend(bowl, point(), 9, loss=total, candidates=es, steps=8)
    widths = sorted(t.sigma for t in plain.ranking)
    assert sorted(t.sigma for t in scaled.ranking) == pytest.approx([width * scale for width in widths])
    assert scaled.best.reduction == pytest.approx(plain.best.reduction, rel=1e-2)


def test_all_equal_or_zero_inputs_have_a_scale() -> None:
    for x, size in ((torch.full((2, 3), 5.0), 5.0), (torch.zeros(2, 3), 1.0)):
        ranking = recommend(bowl, x, 7, loss=total, candidates={"es": ES}, steps=1).ranking
        assert sorted(t.sigma for t in ranking) == pytest.approx([0.03 * size, 0.1 * size, 0.3 * size, size])


def test_random_state_is_put_back() -> None:
    torch.manual_seed(8)
    state = torch.get_rng_state()
    recommend(torch.tanh, point(), 9, steps=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_recommended_estimator_is_fresh() -> None:
    result = recommend(
        bowl, point(), 7, loss=total, candidates={"b": CANDIDATES["diff_bypass_difference"]}, steps=1
    )
    assert isinstance(result.estimator, ndgrad.DiffBypass)
    assert result.estimator.network is None
    assert ndgrad.wrap(bowl, estimator=result.estimator)(point()).shape == (3, 1)


def test_a_candidate_that_fails_is_ranked_last_with_its_error() -> None:
    def domain(z: Tensor) -> Tensor:
        return torch.where(z.abs() < 3, z.square(), torch.nan).sum(-1, keepdim=True)

    result = recommend(domain, point(), 9, loss=total, candidates={"es": ES}, sigmas=[0.1, 30.0], steps=3)
    best, failed = result.ranking
    assert best.sigma == 0.1
    assert failed.failure is not None
    assert "finite" in failed.failure
    assert failed.reduction == -math.inf
    assert "failed" in str(result)
    with pytest.raises(ValueError, match=r"every candidate failed, es with: .*finite"):
        recommend(domain, point(), 9, loss=total, candidates={"es": ES}, sigmas=[30.0], steps=3)


def test_a_descent_that_diverges_counts_as_worst() -> None:
    optimizer = functools.partial(torch.optim.SGD, lr=3.0)
    result = recommend(bowl, point(), 9, loss=total, candidates={"fd": FD}, steps=4, optimizer=optimizer)
    assert result.best.reduction < 0
    assert "no candidate lowered the objective" in result.reason
    inf = recommend(
        lambda z: z.sum(-1, keepdim=True), 1e-3 * point(), 9, loss=lambda y: -y.exp().sum(), candidates={"fd": FD},
        steps=1, optimizer=functools.partial(torch.optim.SGD, lr=1e6),
    )  # fmt: skip
    assert inf.best.reduction == -math.inf


def test_a_new_candidate_is_one_line() -> None:
    mine = Candidate(lambda S, sigma: EvolutionStrategy(S, sigma, directions="sphere"), probes_per_sample=2)
    result = recommend(
        bowl, point(), 9, loss=total, candidates={**CANDIDATES, "sphere": mine}, sigmas=[0.2], steps=1
    )
    assert "sphere" in {trial.name for trial in result.ranking}


def test_words_of_a_single_descent() -> None:
    trial = Trial("es", 0.25, 9, functools.partial(EvolutionStrategy, 4, 0.25), (1.5,))
    text = str(Recommendation((trial,), trial.make(), 4.0, 9, 20, 180))
    assert "1 descents" not in text.replace("\n", " ").split("on average")[1]
    assert "by 1.5 on average" in text
    assert "es, sigma = 0.25" in text
    assert math.isnan(trial.standard_error)


def test_errors() -> None:
    with pytest.raises(TypeError, match="leave estimator= out"):
        recommend(bowl, point(), 9, estimator="diff_bypass")
    with pytest.raises(ValueError, match="evaluations must be an integer >= 2"):
        recommend(bowl, point(), 1)
    with pytest.raises(ValueError, match="steps must be an integer >= 1"):
        recommend(bowl, point(), 9, steps=0)
    with pytest.raises(ValueError, match="sigma must be a positive"):
        recommend(bowl, point(), 9, sigmas=[0.0])
    with pytest.raises(ValueError, match="no candidate can work with 3 evaluations per row for 4 inputs"):
        recommend(bowl, point(), 3, candidates={"fd": FD})


def test_with_failures_to_skip_only_what_can_do_without_them_is_tried() -> None:
    options: Any = {"on_error": "skip", "retries": 20}
    result = recommend(bowl, point(), 9, loss=total, candidates=PAIR, sigmas=[0.1], steps=2, **options)
    assert [trial.name for trial in result.ranking] == ["es"]
    ndgrad.wrap(bowl, estimator=result.estimator, **options)
    with pytest.raises(ValueError, match="can do without those that fail"):
        recommend(bowl, point(), 9, loss=total, candidates={"fd": FD}, steps=2, **options)


def test_inputs_that_descend_are_the_ones_that_failures_lie_around() -> None:
    """Failures at random around one row do not look as if they lay where that row has moved to."""
    generator = torch.Generator().manual_seed(3)

    def fn(z: Tensor) -> Tensor:
        lost = (z[:, :1] > 0.2) & (torch.rand(len(z), 1, generator=generator) < 0.2)
        return torch.where(lost, torch.nan, -z.square().sum(1, keepdim=True))

    x = torch.tensor([[-0.4, 0.1], [0.0, -0.2], [0.4, 0.3]])
    recommend(
        fn, x, 41, loss=total, candidates={"es": ES}, sigmas=[0.02], steps=10, on_error="skip", retries=20,
        min_success=0.0, optimizer=lambda x: torch.optim.SGD(x, lr=0.1),
    )  # fmt: skip


def test_a_budget_that_is_spent_is_no_failure_of_the_candidate() -> None:
    with pytest.raises(ndgrad.BudgetExceededError, match="budget=300"):
        recommend(bowl, point(), 9, loss=total, candidates=PAIR, sigmas=[0.1], steps=20, budget=300)


def test_a_network_keeps_its_statistics() -> None:
    network = torch.nn.BatchNorm1d(4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recommend(network, point(), 9, loss=total, candidates={"es": ES}, sigmas=[0.1], steps=2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
