"""A run that is killed goes on where it was, from its cache, and ends as one that was not."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ndgrad

SCRIPT = """
import sys, time
import numpy as np, torch, ndgrad

def simulate(x, seed):
    time.sleep(0.01)
    return np.sin(x).sum() + 0.1 * np.random.default_rng(seed).normal()

torch.manual_seed(0)
box = ndgrad.wrap(
    simulate, estimator=ndgrad.EvolutionStrategy(5, 0.3), batched=False, vectorize=True, interface="numpy",
    cache=sys.argv[1],
)
x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([x], lr=0.1)
for _ in range(8):
    optimizer.zero_grad()
    box(x).sum().backward()
    optimizer.step()
print(x.detach().numpy().tobytes().hex(), box.num_evaluations, box.num_cached)
"""
ROWS = 8 * 2 * 11


def begin(folder: Path) -> subprocess.Popen[str]:
    root = Path(ndgrad.__file__).parents[1]
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


def count(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    with begin(tmp_path / "undisturbed") as run:
        expected, evaluated, cached = run.communicate()[0].split()
    assert (int(evaluated), int(cached)) == (ROWS, 0)
    folder = tmp_path / "disturbed"
    chance = random.Random(0)
    for kills in range(1, 3):
        with begin(folder) as run:
            while count(folder) < kills * ROWS // 3:
                assert run.poll() is None
                time.sleep(0.005 * chance.random())
            run.kill()
    done = count(folder)
    with begin(folder) as run:
        result, evaluated, cached = run.communicate()[0].split()
    assert result == expected
    assert (int(evaluated), int(cached)) == (ROWS - done, done)
    assert 0 < done < ROWS
