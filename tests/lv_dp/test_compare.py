from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from applications.lv_dp.__main__ import main as command_line
from applications.lv_dp.compare import CompareConfig, main, median_interval, paired
from applications.lv_dp.errors import UsageError

RNG = np.random.default_rng(3)
BASE = RNG.uniform(0.5, 0.8, (12, 4))  # Dice of 12 patients, 4 images each
GAIN = RNG.normal(0.05, 0.04, (12, 1)) + RNG.normal(0, 0.01, (12, 4))


def write(path: Path, dice: Any, method: str = "edpcnn", **more: Any) -> Path:
    """Write what evaluate writes, as far as comparing goes."""
    images = [
        {"name": f"p{p}-{i}", "patient": f"p{p}", "area_px": 9 * p + i, method: {"dice_whole": float(value)}}
        | {"mean_circle": {"dice_whole": 0.4}}
        for (p, i), value in np.ndenumerate(np.asarray(dice))
    ]
    path.write_text(json.dumps({"images": images} | more))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a.json", BASE, "unet"), write(tmp_path / "b.json", BASE + GAIN)


def test_patients_are_paired_not_images(files: tuple[Path, Path]) -> None:
    (found,) = main(CompareConfig(files))
    difference = GAIN.mean(axis=1)
    assert found.n == 12
    assert found.median_difference == pytest.approx(np.median(difference))
    assert found.mean - found.reference_mean == pytest.approx(difference.mean())
    assert found.p == pytest.approx(wilcoxon(difference).pvalue)
    assert found.low < found.median_difference < found.high
    assert (found.label, found.reference) == (f"{files[1]}: edpcnn", f"{files[0]}: unet")


def test_the_order_of_the_images_does_not_matter(files: tuple[Path, Path]) -> None:
    expected = main(CompareConfig(files))
    content = json.loads(files[1].read_text())
    files[1].write_text(json.dumps({"images": content["images"][::-1]}))
    assert main(CompareConfig(files)) == expected


def test_swapping_the_files_turns_the_sign(files: tuple[Path, Path]) -> None:
    (there,), (back,) = main(CompareConfig(files)), main(CompareConfig(files[::-1]))
    assert back.median_difference == pytest.approx(-there.median_difference)
    assert back.p == pytest.approx(there.p)


def test_the_seed_decides_the_interval(files: tuple[Path, Path]) -> None:
    config = CompareConfig(files, resamples=99)
    (once,), (again,), (other,) = (main(dataclasses.replace(config, seed=seed)) for seed in (1, 1, 2))
    assert once == again
    assert (once.low, once.high) != (other.low, other.high)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    """95 % of 200 intervals from 30 values; the percentile bootstrap of a median covers a little more or less."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = median_interval(rng.normal(0.3, 1.0, 30), seed, 400)
        covered += low <= 0.3 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_interval_is_of_the_median() -> None:
    """One patient far off moves a mean's interval, not a median's."""
    low, high = median_interval(np.array([0.1] * 10 + [9.0]), 0, 400)
    assert (low, high) == (0.1, 0.1)


def test_a_few_patients_cannot_be_significant() -> None:
    values = np.array([0.7, 0.6, 0.8])
    assert paired("b", values + 0.1, "a", values, 0, 99).p == 0.25


def test_equal_files_do_not_differ(files: tuple[Path, Path]) -> None:
    (found,) = main(CompareConfig((files[0], files[0])))
    assert (found.median_difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_other_methods_of_a_file_can_be_chosen(files: tuple[Path, Path]) -> None:
    (found,) = main(CompareConfig((files[1], files[1]), methods=("mean_circle", "edpcnn")))
    assert found.reference_mean == pytest.approx(0.4)


def test_three_files_are_compared_with_the_first(files: tuple[Path, Path], tmp_path: Path) -> None:
    third = write(tmp_path / "c.json", BASE - 0.1)
    found = main(CompareConfig((*files, third)))
    assert [row.label.split("/")[-1] for row in found] == ["b.json: edpcnn", "c.json: edpcnn"]
    assert found[1].median_difference == pytest.approx(-0.1)


def test_the_command_prints_a_table(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["compare", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "12" in printed
    assert "+0.0" in printed


def test_brackets_in_a_file_name_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "[red]a.json", BASE)
    assert command_line(["compare", str(path), str(path)]) == 0
    assert "[red]" in capsys.readouterr().out


def lose_an_image(content: dict[str, Any]) -> str:
    del content["images"][5]
    return "are about different images: p1-1 is in"


def rename_an_image(content: dict[str, Any]) -> str:
    content["images"][0]["name"] = "p0-x"
    return r"p0-0 is in .*a.json only \(2 such\)"


def change_a_truth(content: dict[str, Any]) -> str:
    content["images"][7]["area_px"] += 1
    return "p1-3 has another patient or true mask"


def move_a_truth(content: dict[str, Any]) -> str:
    content["images"][7]["mask_sha256"] = "0" * 16
    return "p1-3 has another patient or true mask"


def change_a_patient(content: dict[str, Any]) -> str:
    content["images"][7]["patient"] = "p2"
    return "p1-3 has another patient or true mask"


def empty(content: dict[str, Any]) -> str:
    content["images"] = []
    return "no scores per image"


def training_results(content: dict[str, Any]) -> str:
    del content["images"]
    return r"is not what evaluate writes with --json \(KeyError\)"


CHANGES = [
    lose_an_image,
    rename_an_image,
    change_a_truth,
    move_a_truth,
    change_a_patient,
    empty,
    training_results,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_files_that_cannot_be_compared(change: Any, files: tuple[Path, Path]) -> None:
    content = json.loads(files[1].read_text())
    words = change(content)
    files[1].write_text(json.dumps(content))
    with pytest.raises(UsageError, match=words) as caught:
        main(CompareConfig(files))
    assert "b.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"images": 3}', '{"images": [3]}', '{"images": [{"name": 1}]}']
)
def test_other_files_are_refused(text: str, files: tuple[Path, Path]) -> None:
    files[1].write_text(text)
    with pytest.raises(UsageError, match=r"b\.json: is not what evaluate writes"):
        main(CompareConfig(files))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["A"], "needs at least 2 files"),
        (["A", "nowhere.json"], "nowhere.json: cannot be read (FileNotFoundError)"),
        (["A", "B", "--methods", "unet"], "needs 2 names"),
        (["A", "B", "--methods", "unet", "unet"], "b.json: has no method unet; it holds edpcnn, mean_circle"),
        (["A", "B", "--resamples", "0"], "--resamples must be at least 1"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], message: str, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"A": str(files[0]), "B": str(files[1])}
    assert command_line(["compare", *(names.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_patient_is_too_few(tmp_path: Path) -> None:
    files = (write(tmp_path / "a.json", BASE[:1]), write(tmp_path / "b.json", BASE[:1]))
    with pytest.raises(UsageError, match="at least 2 patients"):
        main(CompareConfig(files))
