"""Splits by patient, and nested (telescopic) training subsets."""

from __future__ import annotations

import torch

from applications.lv_dp.data.slices import DataError, SliceSet


def held_out_patients(data: SliceSet, fraction: float, seed: int) -> list[str]:
    """Draw the patients that no training sees: a fraction of them, at least one, sorted.

    Raises:
        DataError: there are fewer than two patients.
    """
    patients = data.patients
    if len(patients) < 2:
        raise DataError(f"{data.source}: a split by patient needs at least 2 patients, got {len(patients)}")
    count = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(patients), generator=generator)[:count]
    return sorted(patients[i] for i in order.tolist())


def held_out_fifth(data: SliceSet) -> list[str]:
    """Return every fifth patient of the sorted names: the same ones at any time, without a seed.

    For ACDC, whose patients are numbered by pathology, every group gives its fifth.

    Raises:
        DataError: there are fewer than five patients.

    Example:
        >>> from applications.lv_dp.data.phantom import load_phantom
        >>> held_out_fifth(load_phantom())
        ['phantom-004', 'phantom-009']
    """
    patients = data.patients
    if len(patients) < 5:
        raise DataError(
            f"{data.source}: to hold out every fifth patient needs 5 patients, got {len(patients)}"
        )
    return patients[4::5]


def held_out_third(data: SliceSet, fold: int) -> list[str]:
    """Return every third patient of the sorted names, from number ``fold`` modulo 3: folds 0, 1, 2 are all of them.

    With a fold for each seed every patient is held out once, and a paired test has all of them.

    Raises:
        DataError: there are fewer than three patients.

    Example:
        >>> from applications.lv_dp.data.phantom import load_phantom
        >>> held_out_third(load_phantom(), fold=4)
        ['phantom-001', 'phantom-004', 'phantom-007', 'phantom-010']
    """
    patients = data.patients
    if len(patients) < 3:
        raise DataError(
            f"{data.source}: to hold out thirds of the patients needs 3 patients, got {len(patients)}"
        )
    return patients[fold % 3 :: 3]


def training_subset(data: SliceSet, held_out: list[str], num_train: int, seed: int) -> SliceSet:
    """Return the first ``num_train`` slices of one shuffle of all other patients' slices.

    With the same seed a smaller subset is contained in every larger one (thesis, section 5.1).

    Raises:
        DataError: fewer slices than asked for, or num_train below 1.
    """
    pool = data.of_patients(set(data.patients) - set(held_out))
    if not 1 <= num_train <= len(pool):
        raise DataError(
            f"{data.source}: --num-train must be in 1 .. {len(pool)} "
            f"(slices of the {len(pool.patients)} training patients; {len(held_out)} put aside by --held-out or "
            f"--hold-out), got {num_train}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pool), generator=generator)[:num_train]
    return SliceSet(tuple(pool.slices[i] for i in order.tolist()), pool.dropped_slices, data.source)
