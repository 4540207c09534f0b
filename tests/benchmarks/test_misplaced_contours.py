from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from applications.lv_dp.data.phantom import PhantomConfig, load_phantom
from benchmarks import misplaced_contours
from benchmarks.misplaced_contours import Config, main, patient_shifts, read_scores, summarise


def phantom_slices(**moved):
    """Slices of three patients, the masks of those named rolled by (x, y) pixels."""
    slices = load_phantom(PhantomConfig(patients=3, levels=4, size=96)).slices
    return [
        dataclasses.replace(s, mask=s.mask.roll(moved.get(s.patient, (0, 0))[::-1], (0, 1)))
        for s in slices
        if s.mask.any()
    ]


def test_the_moved_patient_is_found_where_it_came_from():
    names = sorted({s.patient for s in phantom_slices()})
    moved = {names[1]: (6, -4)}
    shifts = patient_shifts(phantom_slices(**moved), reach=12, ring=4)
    assert shifts[names[1]] == pytest.approx((-6, 4), abs=1)
    for name in (names[0], names[2]):
        assert shifts[name] == pytest.approx((0, 0), abs=1)


def table(folder, patients):
    """A table of one method, size and seed, with the Dice of each patient's slices."""
    images = [
        {"patient": name, "edpcnn": {"dice_whole": value}}
        for name, values in patients.items()
        for value in values
    ]
    config = {"num_train": 10, "seed": 0}
    cell = {"identity": {"config": config}, "result": {"held_out": {"edpcnn": {}}, "images": images}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "table-5-1.json"
    path.write_text(json.dumps({"cells": [cell]}))
    return path


def test_means_are_over_the_slices_of_the_patients_kept(tmp_path):
    scores = read_scores(table(tmp_path, {"a": [0.5, 0.7], "b": [0.9]}))
    assert summarise(scores, {"a", "b"})["edpcnn, 10 slices"]["mean"] == pytest.approx(0.7)
    assert summarise(scores, {"b"})["edpcnn, 10 slices"]["mean"] == pytest.approx(0.9)
    assert summarise(scores, {"a"})["edpcnn, 10 slices"]["mean"] == pytest.approx(0.6)
    assert summarise(scores, set()) == {}


def test_the_report_leaves_out_whom_it_found(tmp_path, monkeypatch, capsys):
    slices = phantom_slices(**{phantom_slices()[0].patient: (9, 0)})
    names = sorted({s.patient for s in slices})
    monkeypatch.setattr(misplaced_contours, "load_even", lambda data: type("Set", (), {"slices": slices}))
    path = table(tmp_path / "tuned", {names[0]: [0.2], names[1]: [0.8], names[2]: [1.0]})
    results = main(Config(data="phantom", tables=(path,), ring=4, out=tmp_path))
    assert results["misplaced"] == names[:1]
    row = {part: rows["edpcnn, 10 slices"]["mean"] for part, rows in results["tables"]["tuned"].items()}
    assert row == pytest.approx({"with": 2 / 3, "without": 0.9, "misplaced": 0.2})
    assert "| edpcnn, 10 slices | 0.667 | 0.900 | 0.200 |" in capsys.readouterr().out
    stored = json.loads((tmp_path / "misplaced_contours.json").read_text())
    assert stored["configuration"]["tables"] == ["tuned"]
    assert stored["misplaced"] == names[:1]


def test_what_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "table-5-1.json").write_text("{}")
    command = [sys.executable, "-m", "benchmarks.misplaced_contours", "--data", "phantom"]
    done = subprocess.run(
        [*command, "--tables", tmp_path / "table-5-1.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "holds no cells" in done.stderr
