"""Everything that can happen to an evaluation, at once."""

from __future__ import annotations

from pathlib import Path

import black_boxes
import psutil
import pytest
import torch

import ndgrad
from ndgrad.testing import assert_mean

B, n, S, STEPS = 20, 3, 12, 4  # 500 evaluations per step


@pytest.mark.slow
def test_a_training_run_survives_chaos(tmp_path: Path) -> None:
    """About a minute on a busy machine, for the 28 workers that are replaced."""
    torch.manual_seed(0)
    log = tmp_path / "log"
    estimator = ndgrad.EvolutionStrategy(S, 0.3, directions="gaussian")
    box = ndgrad.wrap(
        black_boxes.chaos,
        estimator=estimator,
        interface="numpy",
        executor=2,
        chunk_size=1,
        on_error="skip",
        timeout=2.0,
        retries=5,
    )
    x = torch.randn(B, n, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.SGD([x], lr=0.2)
    errors, losses = [], []
    for _ in range(STEPS):
        loss = box(x, str(log)).sum()
        optimizer.zero_grad()
        loss.backward()
        errors.append((x.grad - 2 * x.detach()) / x.detach().norm())
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    begun = len(log.read_bytes())
    fates = [count % 100 for count in range(1, begun + 1) if count % 300 != 150]
    lost = sum(fate in (3, 21, 45, 68, 90, 33, 62, 77) for fate in fates)
    assert begun >= 2000
    assert (box.num_evaluations, box.num_failures) == (begun, lost)
    assert_mean(torch.cat(errors), 0.0, "gradient without the failures")
    box.close()
    assert not [p for p in psutil.Process().children(recursive=True) if _is_worker(p)]


def _is_worker(process: psutil.Process) -> bool:
    return any("popen_loky" in word for word in process.cmdline())
