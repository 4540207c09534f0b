"""Every loader against damaged and hostile files; 10 000 of them by ``python -m benchmarks.fuzz_loaders``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz_loaders
from benchmarks.fuzzing import damage
from benchmarks.fuzzing.formats import FORMATS, Format
from benchmarks.fuzzing.guard import Guard


@pytest.mark.slow
def test_some_hundreds_of_inputs_are_each_an_error_or_a_right_result(tmp_path: Path) -> None:
    config = fuzz_loaders.Config(inputs=20 * len(FORMATS), seed=1, seconds=60.0, out=tmp_path)
    results = fuzz_loaders.main(config)
    assert results["findings"] == 0
    assert results["inputs"] == 20 * len(FORMATS)
    assert all(row["errors"] + row["results"] == 20 for row in results["formats"].values())
    assert sum(row["errors"] for row in results["formats"].values()) > 100
    assert sum(row["results"] for row in results["formats"].values()) > 50
    assert json.loads((tmp_path / "fuzz_loaders.json").read_text())["inputs"] == results["inputs"]


@pytest.mark.parametrize("function", dict.fromkeys((*damage.BYTES, *damage.TEXT)), ids=lambda f: f.__name__)
def test_damage_repeats_and_changes_something(function: damage.Damage) -> None:
    data = b"name,x,y\na,1.0,2.0\nb,3.5,4.25\n" * 20
    first, second = ([function(data, np.random.default_rng([seed])) for seed in range(20)] for _ in range(2))
    assert first == second
    assert any(changed != data for changed in first)


def test_every_format_has_a_loader_and_more_than_one_damage() -> None:
    assert len(FORMATS) >= 19
    assert all(isinstance(kind, Format) and len(kind.damage) > 10 for kind in FORMATS.values())


def test_the_guard_sees_what_is_written_outside_and_what_is_executed(tmp_path: Path) -> None:
    guard = Guard()
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    with guard.watch(inside) as seen:
        (inside / "a").write_text("allowed")
        (inside / "a").read_text()
        for forbidden in (
            lambda: outside.mkdir(),
            lambda: outside.write_text("x"),
            lambda: (inside / ".." / "b").write_text("x"),
            lambda: (inside / "a").rename(tmp_path / "moved"),
            lambda: eval("'executed'"),
        ):
            with pytest.raises(PermissionError, match="refused"):
                forbidden()
    assert [event.split()[0] for event in seen] == ["os.mkdir", "open", "open", "os.rename", "compile"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    outside.mkdir()  # nobody watches
