from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from applications.lv_dp import train
from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data import SliceSet
from applications.lv_dp.experiments import data as experiments_data
from applications.lv_dp.experiments import runner
from applications.lv_dp.experiments.approximation import FitCell
from applications.lv_dp.experiments.cells import Cell, Result, Store, Watch
from applications.lv_dp.experiments.claim import BusyError, claim
from applications.lv_dp.experiments.summaries import Entry, paired, patient_means
from applications.lv_dp.experiments.training import TrainCell

CALLS: list[str] = []


@dataclass(frozen=True)
class Square(Cell):
    """Counts its computations in CALLS; a number below 0 fails once the file ``heal`` is missing."""

    number: int

    @property
    def name(self) -> str:
        return f"square{self.number}"

    def identity(self) -> dict[str, Any]:
        return {"number": self.number}

    def run(self, folder: Path, store: Store, watch: Watch) -> Result:
        CALLS.append(self.name)
        if self.number < 0 and not (store.root / "heal").is_file():
            raise KeyboardInterrupt
        return {"square": self.number**2}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    CALLS.clear()
    return Store(tmp_path / "cells")


def test_a_finished_cell_is_not_computed_again(store: Store) -> None:
    cells = [Square(2), Square(3), Square(2)]
    runner.compute(cells, store, runner.Plan())
    runner.compute(cells, store, runner.Plan())
    assert CALLS == ["square2", "square3"]
    assert [store.read(cell) for cell in cells] == [{"square": 4}, {"square": 9}, {"square": 4}]


def test_an_interrupt_keeps_what_was_finished(store: Store) -> None:
    cells = [Square(2), Square(-3), Square(4)]
    with pytest.raises(KeyboardInterrupt):
        runner.compute(cells, store, runner.Plan())
    assert [store.read(cell) for cell in cells] == [{"square": 4}, None, None]
    (store.root / "heal").touch()
    runner.compute(cells, store, runner.Plan())
    assert CALLS == ["square2", "square-3", "square-3", "square4"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"identity": {"kind"', "cannot be read"),
        ("[]", "cannot be read"),
        ('{"result": {}}', "cannot be read"),
        ('{"identity": {"kind": "Square", "format": 1, "number": 3}, "result": {}}', "another cell's"),
    ],
)
def test_a_torn_or_foreign_result_is_computed_again(store: Store, text: str, problem: str) -> None:
    store.obtain(Square(2))
    (store.folder(Square(2)) / "cell.json").write_text(text)
    with pytest.warns(UserWarning, match=problem):
        runner.compute([Square(2)], store, runner.Plan())
    assert CALLS == ["square2", "square2"]
    assert store.read(Square(2)) == {"square": 4}


def test_keys_tell_configurations_apart() -> None:
    config = TrainConfig(out=Path("somewhere"), profile="smoke", num_train=4)
    cell = TrainCell.of(config, "data")
    assert cell.key.startswith("diff_bypass-n4-seed0-")

    def key(**changes: Any) -> str:
        return TrainCell.of(dataclasses.replace(config, **changes), "data").key

    same = ({"out": Path("b")}, {"threads": 2}, {"change": ("sigma=1",)}, {"iterations": 8})
    assert {key(**changes) for changes in same} == {cell.key}
    assert key(change=("sigma=0.5", "delta=2")) == key(change=("delta=2", "sigma=0.5"))
    other: tuple[dict[str, Any], ...] = (
        {"change": ("sigma=0.5",)}, {"iterations": 9}, {"seed": 1}, {"method": "unet"}, {"num_train": 5},
        {"estimator": "evolution_strategy"}, {"regime": "tuned"}, {"data": "png:x"}, {"inner_seed": 1},
    )  # fmt: skip
    keys = {key(**changes) for changes in other} | {cell.key, TrainCell.of(config, "other data").key}
    assert len(keys) == len(other) + 2
    assert key(method="unet", estimator="score_function") == key(method="unet")


def test_a_killed_training_goes_on_from_its_checkpoint(
    store: Store, png_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = TrainConfig(out=Path(), data=f"png:{png_folder}", num_train=4, profile="smoke")
    cell, take_step, steps = TrainCell.of(config, ""), train.step, []

    def dying_step(training: train.Training, iteration: int) -> train.Row:
        steps.append(iteration)
        if steps == [1, 2, 3, 4, 5, 6]:
            raise KeyboardInterrupt
        return take_step(training, iteration)

    monkeypatch.setattr(train, "step", dying_step)
    with pytest.raises(KeyboardInterrupt):
        store.obtain(cell)
    assert store.read(cell) is None
    interrupted = store.obtain(cell)
    assert steps == [1, 2, 3, 4, 5, 6, 5, 5, 6, 7, 8]  # the first 5 after the break is on trial
    undisturbed = Store(tmp_path / "other").obtain(cell)
    assert interrupted["images"] == undisturbed["images"]
    assert interrupted["curve"] == undisturbed["curve"]


def test_no_cell_begins_when_time_is_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.compute([Square(2)], store, runner.Plan(stop=0.0))
    assert CALLS == []
    now = [10.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    runner.compute(
        [Square(2), Square(3)], store, runner.Plan(stop=11.0), done=lambda cell: now.__setitem__(0, 12.0)
    )
    assert CALLS == ["square2"]


@pytest.mark.slow
def test_worker_processes_compute_the_same(store: Store, tmp_path: Path) -> None:
    cells: list[Cell] = [FitCell(hidden, 20, 0) for hidden in (4, 5, 6)]
    ended: list[str] = []
    runner.compute(cells, store, runner.Plan(jobs=2), done=lambda cell: ended.append(cell.name))
    assert sorted(ended) == [cell.name for cell in cells]
    alone = Store(tmp_path / "alone")
    runner.compute(cells, alone, runner.Plan())
    assert [store.read(cell) for cell in cells] == [alone.read(cell) for cell in cells]


def test_a_claimed_cell_is_left_alone_and_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = claim(store.folder(Square(2)))
    holder.__enter__()
    with pytest.raises(BusyError, match="in use"):
        store.obtain(Square(2))

    def release(seconds: float) -> None:
        assert CALLS == ["square3"]
        holder.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", release)
    runner.compute([Square(2), Square(3)], store, runner.Plan())
    assert CALLS == ["square3", "square2"]


HOLD = """
import sys, time
from pathlib import Path
from applications.lv_dp.experiments.claim import claim
with claim(Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_the_claim_of_a_killed_process_is_free(store: Store) -> None:
    folder = store.folder(Square(2))
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"claimed\n"
        with pytest.raises(BusyError):
            store.obtain(Square(2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert store.obtain(Square(2)) == {"square": 4}


WORK = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from applications.lv_dp.experiments import runner
pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=runner._prepare_worker, initargs=(1,))
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 60)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_workers_end_with_a_killed_process() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        try:
            process.communicate(timeout=20)  # ends when the last process that could write has ended
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            raise


def test_results_are_written_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="disk full"):
        store.obtain(Square(2))
    assert store.read(Square(2)) is None
    monkeypatch.undo()
    assert json.dumps(store.obtain(Square(2))) == '{"square": 4}'


# --- numbers over seeds and patients


def test_entries_hold_mean_and_sample_deviation() -> None:
    entry = Entry("a", 10, (0.5, 0.7, 0.9), planned=3)
    assert (entry.mean, entry.deviation, entry.status) == (
        pytest.approx(0.7),
        pytest.approx(0.2),  # sqrt((0.04 + 0 + 0.04) / 2)
        "measured",
    )
    assert Entry("a", 10, (0.5,), planned=3).status == "1 of 3 measured"
    assert Entry("a", 10, (0.5,)).deviation is None
    assert Entry("a", 10, ()).to_json()["mean"] is None
    assert Entry("a", 10, ()).status == "not measured"


def image(patient: str, dice: float) -> dict[str, Any]:
    return {"patient": patient, "edpcnn": {"dice": dice}}


def test_patients_count_once_whatever_their_slices() -> None:
    runs = [
        [image("p", 0.2), image("p", 0.4), image("q", 1.0)],
        [image("p", 0.6), image("p", 0.8), image("q", 0.5)],
    ]
    assert patient_means(runs, "edpcnn", "dice") == pytest.approx({"p": 0.5, "q": 0.75})


def test_paired_is_the_exact_signed_rank_test() -> None:
    a = dict(zip("pqrstu", (0.9, 0.8, 0.7, 0.9, 0.6, 0.8), strict=True))
    b = {patient: dice - 0.01 * (i + 1) for i, (patient, dice) in enumerate(a.items())}
    better = paired(a, b | {"other": 0.0})
    assert (better["patients"], better["better"]) == (6, 6)
    assert better["mean_difference"] == pytest.approx(0.035)
    assert better["p_value"] == pytest.approx(2 / 2**6)  # both tails of 2^6 equally likely signs
    b["p"] = a["p"] + 0.01  # the least difference turned round: ranks 1 against 20
    assert paired(a, b)["p_value"] == pytest.approx(4 / 2**6)
    assert paired(b, a)["mean_difference"] == pytest.approx(-paired(a, b)["mean_difference"])


def test_equal_methods_do_not_differ() -> None:
    same = {"p": 0.5, "q": 0.25}
    assert paired(same, same)["p_value"] == 1.0
    with pytest.raises(ValueError, match="needs patients"):
        paired(same, {"r": 0.5})


def test_the_data_is_told_by_all_that_a_training_sees(
    phantom: SliceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = phantom.slices[0]
    changed = {
        "as it is": item,
        "flipped": dataclasses.replace(item, image=item.image.flip(1)),
        "moved": dataclasses.replace(item, mask=item.mask.roll(3, 0)),
        "of another": dataclasses.replace(item, patient="somebody"),
        "larger": dataclasses.replace(item, spacing=(1.0, 1.0)),
    }
    found = set()
    for first in changed.values():
        data = dataclasses.replace(phantom, slices=(first, *phantom.slices[1:]))
        monkeypatch.setattr(experiments_data, "shared_data", lambda _, data=data: data)
        found.add(experiments_data.fingerprint.__wrapped__("phantom"))
    assert len(found) == len(changed)
