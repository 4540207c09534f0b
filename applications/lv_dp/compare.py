"""Compare evaluations of the same images, patient by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, wilcoxon
from tyro.conf import Positional

from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import read_json
from applications.lv_dp.summary import method_names

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CompareConfig:
    """Compare the mean Dice per patient of two or more evaluations; all others against the first.

    Attributes:
        files: what evaluate wrote with --json, of the same images.
        methods: one name for each file, among those that it holds; by default each file's first, the method's own.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        threads: of torch.
    """

    files: Positional[tuple[Path, ...]]
    methods: tuple[str, ...] = ()
    seed: int = 0
    resamples: int = 9999
    threads: int = 1


@dataclass(frozen=True)
class Comparison:
    """Paired differences of one evaluation to the first.

    Attributes:
        label: file and method.
        reference: file and method of the first evaluation.
        n: patients.
        mean: over the patients, of the mean Dice per patient.
        reference_mean: the same of the first evaluation.
        median_difference: over the patients, this minus the first.
        low: lower end of the 95 % interval of ``median_difference``.
        high: upper end.
        p: two-sided, of Wilcoxon's signed-rank test; 1 when no patient differs.
    """

    label: str
    reference: str
    n: int
    mean: float
    reference_mean: float
    median_difference: float
    low: float
    high: float
    p: float


def main(config: CompareConfig) -> list[Comparison]:
    """Compare every file with the first.

    Raises:
        UsageError: fewer than two files, a file that evaluate did not write, or other images.
    """
    if len(config.files) < 2:
        raise UsageError(f"compare needs at least 2 files that evaluate wrote, got {len(config.files)}")
    if config.resamples < 1:
        raise UsageError(f"--resamples must be at least 1, got {config.resamples}")
    if config.methods and len(config.methods) != len(config.files):
        raise UsageError(
            f"--methods needs {len(config.files)} names, one for each file, got {len(config.methods)}"
        )
    images = [read_images(path) for path in config.files]
    for path, other in zip(config.files[1:], images[1:], strict=True):
        check_same(config.files[0], images[0], path, other)
    names = config.methods or [method_names(records)[0] for records in images]
    means = [
        patient_means(path, records, name)
        for path, records, name in zip(config.files, images, names, strict=True)
    ]
    labels = [f"{path}: {name}" for path, name in zip(config.files, names, strict=True)]
    return [
        paired(label, other, labels[0], means[0], config.seed, config.resamples)
        for label, other in zip(labels[1:], means[1:], strict=True)
    ]


def read_images(path: Path) -> list[dict[str, Any]]:
    """Read the records per image of a file that evaluate wrote.

    Raises:
        UsageError: the file is missing or something else.
    """
    try:
        images = read_json(path)["images"]
        for image in images:
            _check_image(image)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({type(error).__name__})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: is not what evaluate writes with --json ({type(error).__name__})"
        ) from error
    if not images or any(method_names([image]) != method_names(images) for image in images):
        raise UsageError(f"{path}: is not what evaluate writes with --json (no scores per image)")
    return list(images)


def _check_image(image: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for what is no record of an image with scores."""
    scores = [image[name]["dice_whole"] for name in method_names([image])]
    if not scores or not all(isinstance(score, (int, float)) and 0 <= score <= 1 for score in scores):
        raise KeyError("no Dice between 0 and 1")
    names = (image["name"], image["patient"], *method_names([image]))
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise TypeError("names must be printable")


def check_same(
    first: Path, images: Sequence[dict[str, Any]], second: Path, others: Sequence[dict[str, Any]]
) -> None:
    """Refuse files about different images; also the same names with other patients or true masks.

    Raises:
        UsageError: naming the first image that is not in both.
    """
    both = [
        {image["name"]: (image["patient"], image.get("area_px"), image.get("mask_sha256")) for image in part}
        for part in (images, others)
    ]
    missing = sorted(both[0].keys() ^ both[1].keys())
    if missing:
        holder = first if missing[0] in both[0] else second
        raise UsageError(
            f"{first} and {second} are about different images: {missing[0]} is in {holder} only "
            f"({len(missing)} such); evaluate both with the same --data and --subset"
        )
    changed = sorted(name for name in both[0] if both[0][name] != both[1][name])
    if changed:
        raise UsageError(
            f"{first} and {second} are about different images: {changed[0]} has another patient or true mask "
            f"({len(changed)} such); evaluate both with the same --data, and runs trained on pixels of one size"
        )


def patient_means(path: Path, images: Sequence[dict[str, Any]], method: str) -> Array:
    """Return the mean whole-image Dice of every patient, in the order of the patients' names.

    Raises:
        UsageError: the file has no such method.
    """
    if method not in method_names(images):
        raise UsageError(f"{path}: has no method {method}; it holds {', '.join(method_names(images))}")
    scores: dict[str, list[float]] = {}
    for image in images:
        scores.setdefault(image["patient"], []).append(image[method]["dice_whole"])
    return np.array([fmean(scores[patient]) for patient in sorted(scores)])


def paired(
    label: str, values: Array, reference: str, reference_values: Array, seed: int, resamples: int
) -> Comparison:
    """Compare values with those of the reference, paired by patient.

    Example:
        >>> a, b = np.array([0.7, 0.6, 0.8]), np.array([0.8, 0.7, 0.9])
        >>> paired("b", b, "a", a, seed=0, resamples=99).p
        0.25
    """
    # Rounded, as means of equal scores in another order differ in their last bits.
    difference = np.round(values - reference_values, 12)
    low, high = median_interval(difference, seed, resamples)
    return Comparison(
        label,
        reference,
        len(difference),
        float(values.mean()),
        float(reference_values.mean()),
        float(np.median(difference)),
        low,
        high,
        float(wilcoxon(difference).pvalue) if difference.any() else 1.0,
    )


def median_interval(difference: Array, seed: int, resamples: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median; patients are what is resampled."""
    if len(difference) < 2:
        raise UsageError("a comparison needs at least 2 patients; evaluate a larger data set")
    interval = bootstrap(
        (difference,),
        np.median,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
