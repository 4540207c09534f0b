"""DistributedDataParallel with two processes on CPU: what is equal on all ranks, and what each keeps for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ddp_worker import STEPS, B, S, batch, estimators, loss_of, model, run, stairs
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.testing import assert_close

import ndgrad

RANKS = 2


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What both ranks return, with the rows of the batch divided, and with all rows on each."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(run, args=(RANKS, str(folder)), nprocs=RANKS)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    return {rows: [rank[rows] for rank in ranks] for rows in ("split", "same")}


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["split", "same"])
@pytest.mark.parametrize("name", ["es", "adaptive", "bypass"])
def test_replicas_stay_equal(results: dict[str, list[Any]], rows: str, name: str) -> None:
    first, second = (rank[name] for rank in results[rows])
    assert_close(first["parameters"], second["parameters"], rtol=0, atol=0)
    assert_close(first["gradients"], second["gradients"], rtol=0, atol=0)
    moved = first["gradients"][0][0].abs().max()
    assert moved > 1e-4, "a gradient reached the layer before the black box"


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["split", "same"])
def test_ddp_averages_the_estimates_of_the_ranks(results: dict[str, list[Any]], rows: str) -> None:
    """The first step, done by hand: with S / W samples on each rank and equal rows it is an estimate with S samples."""
    by_hand = []
    for rank in range(RANKS):
        net = model(estimators(rank, RANKS)["es"])
        x = batch(0)
        loss_of(net, x.chunk(RANKS)[rank] if rows == "split" else x).backward()
        by_hand.append([p.grad for p in net.parameters()])
    mean = [sum(each) / RANKS for each in zip(*by_hand, strict=True)]
    assert_close(results[rows][0]["es"]["gradients"][0], mean)
    assert (by_hand[0][0] - by_hand[1][0]).abs().max() > 1e-4, "the ranks' noise differs"


@pytest.mark.slow
def test_samples_are_divided_over_the_ranks(results: dict[str, list[Any]]) -> None:
    pairs = S // RANKS
    for rank in results["same"]:
        assert rank["es"]["num_evaluations"] == STEPS * B * (1 + 2 * pairs)
    for rank in results["split"]:
        assert rank["es"]["num_evaluations"] == STEPS * B // RANKS * (1 + 2 * pairs)


@pytest.mark.slow
def test_each_rank_keeps_its_surrogate_and_noise(results: dict[str, list[Any]]) -> None:
    states = [rank["bypass"]["state"] for rank in results["split"]]
    networks = [state["1.estimator._extra_state"]["fit"]["network"] for state in states]
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(*(n.values() for n in networks), strict=True))
    assert not torch.equal(*(state["1.estimator.generator"] for state in states))


@pytest.mark.slow
def test_a_checkpoint_of_a_rank_continues_on_it(results: dict[str, list[Any]]) -> None:
    saved = results["split"][1]["bypass"]["state"]
    net, again = (model(estimators(0, RANKS)["bypass"]) for _ in range(2))
    gradients = []
    for each in (net, again):
        each.load_state_dict(saved)
        loss_of(each, batch(9)).backward()
        gradients.append([p.grad for p in each.parameters()])
    assert_close(*gradients, rtol=0, atol=0)
    assert_close(again.state_dict(), net.state_dict(), rtol=0, atol=0)


def test_ddp_sees_trained_parameters_and_no_surrogate() -> None:
    estimator = ndgrad.DiffBypass(sigma=0.3, num_samples=4, fit_steps=1)
    box = ndgrad.wrap(stairs, estimator=estimator)
    net = nn.Sequential(nn.Linear(4, 3), box)
    net(torch.randn(5, 4)).sum().backward()
    assert estimator.network is not None
    assert len(list(net.parameters())) == 2
    assert list(net.buffers()) == []
    assert all(p.grad is not None for p in net.parameters())
