"""A few kills of the toy; 20 of each training by ``python -m benchmarks.kill_and_resume``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import kill_and_resume
from benchmarks.kill_and_resume import Config, Moment, draw, fingerprint


@pytest.mark.slow
def test_a_killed_toy_ends_as_if_undisturbed(tmp_path: Path) -> None:
    results = kill_and_resume.main(Config(kills=2, jobs=("toy",), seed=1, out=tmp_path))
    assert results["jobs"]["toy"]["same"] == results["jobs"]["toy"]["count"] == 2
    assert (tmp_path / "kill_and_resume.json").exists()


def test_moments_lie_within_an_occurrence_of_their_phase() -> None:
    timeline = [(0.0, "start-up"), (2.0, "training"), (2.5, "evaluation"), (2.75, "training"), (4.0, "end")]
    rng = np.random.default_rng(0)
    found = [draw("training", timeline, rng) for _ in range(200)]
    assert {moment.occurrence for moment in found} == {0, 1}
    assert all(0 <= moment.delay <= (0.5, 1.25)[moment.occurrence] for moment in found)
    assert max(moment.delay for moment in found) > 1
    assert isinstance(found[0], Moment)


@pytest.mark.parametrize("change", ["weight", "loss", "file", "seconds"])
def test_the_fingerprint_sees_all_but_times(change: str, tmp_path: Path) -> None:
    state = {"model": {"weight": torch.ones(3)}, "rows": [{"loss": 0.5, "seconds": 1.0}]}
    torch.save(state, tmp_path / "checkpoint.pt")
    before = fingerprint(tmp_path)
    if change == "weight":
        state["model"]["weight"][1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))  # type: ignore[index,call-overload]
    elif change == "file":
        (tmp_path / "checkpoint.pt.1.partial").touch()
    else:
        state["rows"][0][change] = 0.25  # type: ignore[index]
    torch.save(state, tmp_path / "checkpoint.pt")
    assert (fingerprint(tmp_path) == before) == (change == "seconds")
