"""Every kind of file that is read: a valid sample, the damage done to it, its loader, and what a right result is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from applications.lv_dp import compare, segment, train
from applications.lv_dp.data import SliceSet, cache
from applications.lv_dp.data.acdc import load_acdc
from applications.lv_dp.data.pack import load_packed
from applications.lv_dp.data.png import load_png
from applications.lv_dp.data.sources import load_centers
from applications.lv_dp.data.sunnybrook import load_sunnybrook
from applications.lv_dp.errors import UsageError
from applications.lv_dp.image_file import Picture, read_picture
from applications.lv_dp.release import open_model
from applications.lv_dp.runs import Run
from benchmarks.fuzzing import binary, samples
from benchmarks.fuzzing.damage import BYTES, JSON, TEXT, Damage, Rng, pick

MAX_SIDE = 4096


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        sample: fills a folder with valid files.
        files: those of them, as patterns below the folder, that are damaged, one at a time.
        read: loads the folder.
        check: raises AssertionError for a result that cannot be right.
        command: words of a command line that reads the same folder.
        damage: what is done to the file.
        bombs: damage that makes large files or takes long; done to one input in fifty.
        release: the file's checksum stands in model.json, and is mended half of the time.
        bounded: to run out of memory is a finding; not where torch.load reads, which allocates what a pickle asks for.
        errors: what the loader may raise; its messages are one line each where it is `UsageError`.
    """

    sample: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    check: Callable[[Path, Any], None]
    command: Callable[[Path], list[str]] | None
    damage: tuple[Damage, ...]
    bombs: tuple[Damage, ...] = ()
    release: bool = False
    errors: tuple[type[Exception], ...] = (UsageError,)
    bounded: bool = True


# --- what a right result is


def check_slices(folder: Path, data: SliceSet) -> None:
    """See that every slice has a finite image, a mask of its size and a spacing one can believe."""
    assert len(data) > 0
    for item in data.slices:
        _check_image(item.image)
        assert item.mask.shape == item.image.shape
        assert item.mask.dtype == torch.bool
        assert item.labels is None or (item.labels.dtype == torch.uint8 and bool((item.labels <= 3).all()))
        assert item.group is None or item.group.isprintable()
        _check_lengths((*(item.spacing or ()), item.slice_spacing or 1.0))


def _check_image(image: torch.Tensor) -> None:
    assert image.dtype == torch.float32
    assert image.ndim == 2
    assert 0 < image.numel() <= MAX_SIDE**2
    assert bool(image.isfinite().all())


def _check_lengths(values: tuple[float, ...]) -> None:
    assert all(1e-3 <= value <= 1e3 for value in values), values


def check_picture(folder: Path, found: Picture) -> None:
    """Check as a slice; what is known of a NIfTI file without nibabel agrees."""
    _check_image(found.image)
    _check_lengths(found.spacing or ())
    if (folder / "volume.nii").is_file():
        check_volume((folder / "volume.nii").read_bytes(), found)


def check_volume(data: bytes, found: Picture) -> None:
    """Read the second plane by the fields of the header, as the NIfTI-1 standard says."""
    order = "<" if np.frombuffer(data, "<i4", 1)[0] == 348 else ">"
    dim = np.frombuffer(data, f"{order}i2", 8, 40)
    pixdim = np.frombuffer(data, f"{order}f4", 8, 76)
    codes = {
        2: "u1",
        4: "i2",
        8: "i4",
        16: "f4",
        64: "f8",
        256: "i1",
        512: "u2",
        768: "u4",
        1024: "i8",
        1280: "u8",
    }
    kind = np.dtype(order + codes[int(np.frombuffer(data, f"{order}i2", 1, 70)[0])])
    begin, slope, shift = np.frombuffer(data, f"{order}f4", 3, 108)
    shape = tuple(dim[1 : 1 + dim[0]].tolist())
    x, y = shape[:2]
    plane = np.frombuffer(
        data, kind, x * y, int(max(begin, 352)) + x * y * kind.itemsize * (1 if len(shape) > 2 else 0)
    )
    scaled = plane.astype(np.float64).reshape(y, x)
    if slope != 0 and np.isfinite(slope):
        scaled = scaled * float(slope) + (float(shift) if np.isfinite(shift) else 0.0)
    np.testing.assert_allclose(found.image.numpy(), scaled, rtol=1e-5, atol=1e-3 * (1 + abs(scaled).max()))
    np.testing.assert_allclose(found.spacing or (), (pixdim[2], pixdim[1]), rtol=1e-6)


def check_run(folder: Path, run: Run) -> None:
    """See that the network draws a mask, and that what was said about it can be written down again."""
    assert all(name.isprintable() for name in run.held_out)
    image = samples.hearts().slices[0].image
    mask = segment.segment(run, Picture(image, (7.5, 7.5)), (12.0, 12.0))
    assert (mask.shape, mask.dtype) == (image.shape, torch.bool)
    json.dumps(run.config, allow_nan=False)


def check_training(folder: Path, training: train.Training) -> None:
    """See that the training can go on."""
    train.step(training, len(training.rows) + 1)


def check_cached(folder: Path, data: SliceSet) -> None:
    """Check as slices of the source."""
    check_slices(folder, data)
    assert len(data) <= 4


def check_centers(folder: Path, points: list[torch.Tensor]) -> None:
    """Look for one finite point (x, y) for each slice."""
    assert len(points) == 4
    assert all(point.shape == (2,) and bool(point.isfinite().all()) for point in points)


def check_comparison(folder: Path, found: list[compare.Comparison]) -> None:
    """Look for a probability, and means that Dice scores can have."""
    assert all(0 <= item.p <= 1 and 0 <= item.mean <= 1 for item in found)


def check_evaluations(folder: Path, found: torch.Tensor) -> None:
    """Compare with the function itself, whatever was kept."""
    assert torch.equal(found, samples.rows().round()), found


def check_box(folder: Path, box: Any) -> None:
    """See that the wrapped function has its value."""
    x = torch.randn(2, 3, requires_grad=True)
    assert torch.equal(box(x), x.round())


# --- loaders


def read_cached(folder: Path) -> SliceSet:
    """Read the kept file under the name that its source has now; warnings of a damaged one are welcome."""
    source = f"png:{folder / 'data'}@7.5"
    name = f"png-{cache.key(source, samples.GRID)}.npz"
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / "cache" / "kept.npz", folder / "cache" / name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(is damaged and made anew|cannot be written)")
        return cache.load_resampled(source, samples.GRID, folder / "cache")


def read_training(folder: Path) -> train.Training:
    """Go on with a training."""
    return train.start(samples.job(folder))


def read_evaluations(folder: Path) -> torch.Tensor:
    """Evaluate where evaluations are kept; a file that is none is warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is no cached evaluation")
        return samples.cached_box(folder)(samples.rows())


def read_state(folder: Path) -> Any:
    """Load what a wrapped function saved, as its documentation says."""
    box = samples.box()
    box.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return box


def _data(kind: str) -> Callable[[Path], list[str]]:
    return lambda folder: ["data", f"{kind}:{folder}"]


def _segment(name: str, *more: str) -> Callable[[Path], list[str]]:
    """Segment with the weights that lie beside the folders of inputs."""

    def words(folder: Path) -> list[str]:
        weights, out = folder.parent / "weights", folder / "out" / "mask.png"
        return [
            "segment",
            str(folder / name),
            "--run",
            str(weights),
            "--center",
            "12,12",
            "--out",
            str(out),
            *more,
        ]

    return words


def _evaluate(folder: Path, *more: str) -> list[str]:
    data = folder.parent / "hearts.npz"
    out = folder / "out" / "scores.json"
    return ["evaluate", "--run", str(folder), "--data", f"packed:{data}", "--json", str(out), *more]


def _evaluate_centers(folder: Path) -> list[str]:
    out, run = folder / "out" / "scores.json", folder.parent / "weights"
    data, centers = folder / "hearts.npz", folder / "centers.csv"
    return [
        "evaluate",
        "--run",
        str(run),
        "--data",
        f"packed:{data}",
        "--json",
        str(out),
        "--centers",
        str(centers),
    ]


def _train(folder: Path) -> list[str]:
    job = samples.job(folder)
    words = ["train", "--out", str(folder), "--data", job.data, "--num-train", "2", "--profile", "smoke"]
    return [*words, "--iterations", "2", "--change", *job.change]


def _compare(folder: Path) -> compare.Comparison | Any:
    return compare.main(compare.CompareConfig((folder / "a.json", folder / "b.json"), resamples=20))


_NIFTI_GZ = tuple(binary.compressed(damage) for damage in (*binary.NIFTI, *binary.NIFTI))
_ACDC = ("patient001_frame01.nii.gz", "patient001_frame12_gt.nii.gz")
_PNG = ("images/phantom-000-IM-ED-00.png", "masks/phantom-000-IM-ED-00.png")
_CONTOUR = str(samples.CONTOUR)

FORMATS: dict[str, Format] = {
    "NIfTI": Format(
        samples.write_volume, ("volume.nii",), lambda f: read_picture(f / "volume.nii", 1), check_picture,
        _segment("volume.nii", "--slice", "1"), (*BYTES, *binary.NIFTI * 4), (binary.nifti_bomb,),
    ),
    "NIfTI, compressed": Format(
        samples.write_acdc, tuple(f"patient001/{name}" for name in _ACDC), load_acdc, check_slices, _data("acdc"),
        (*BYTES, *_NIFTI_GZ, *_NIFTI_GZ, binary.gzip_twice), (binary.gzip_bomb,),
    ),
    "ACDC Info.cfg": Format(
        samples.write_acdc, ("patient001/Info.cfg",), load_acdc, check_slices, _data("acdc"), (*BYTES, *TEXT * 3)
    ),
    "DICOM": Format(
        samples.write_sunnybrook, ("dicoms/SCD0000101/48.dcm",), lambda f: read_picture(f / "dicoms/SCD0000101/48.dcm"),
        check_picture, _segment("dicoms/SCD0000101/48.dcm"), (*BYTES, *binary.DICOM * 5), (binary.dicom_bomb,),
    ),
    "contour text": Format(
        samples.write_sunnybrook, (_CONTOUR,), load_sunnybrook, check_slices, _data("sunnybrook"), (*BYTES, *TEXT * 3)
    ),
    "table of names": Format(
        samples.write_sunnybrook, ("link.csv",), load_sunnybrook, check_slices, _data("sunnybrook"), (*BYTES, *TEXT * 3)
    ),
    "PNG": Format(
        samples.write_png, _PNG, load_png, check_slices, _data("png"), (*BYTES, *binary.PNG * 4), (binary.png_bomb,)
    ),
    "centres CSV": Format(
        samples.write_centers, ("centers.csv",),
        lambda f: load_centers(f / "centers.csv", load_packed(f / "hearts.npz")), check_centers, _evaluate_centers,
        (*BYTES, *TEXT * 3),
    ),
    "packed data": Format(
        samples.write_packed, ("hearts.npz",), lambda f: load_packed(f / "hearts.npz"), check_slices,
        lambda f: ["data", f"packed:{f / 'hearts.npz'}"], (*BYTES, *binary.NPZ * 3), (binary.zip_bomb,),
    ),
    "cache of data": Format(
        samples.write_cache, ("cache/kept.npz",), read_cached, check_cached, None,
        (*BYTES, *binary.NPZ * 3), (binary.zip_bomb,),
    ),
    "checkpoint, opened": Format(
        samples.write_run, ("checkpoint.pt",), open_model, check_run, _evaluate,
        (*BYTES, *binary.TORCH * 2), (binary.zip_bomb,),
    ),
    "checkpoint, resumed": Format(
        samples.write_run, ("checkpoint.pt",), read_training, check_training, _train,
        (*BYTES, *binary.TORCH * 2), (binary.zip_bomb,),
    ),
    "config.json, opened": Format(
        samples.write_run, ("config.json",), open_model, check_run, _evaluate, (*BYTES, *JSON * 6)
    ),
    "config.json, resumed": Format(
        samples.write_run, ("config.json",), read_training, check_training, _train, (*BYTES, *JSON * 6),
        errors=(UsageError, OSError),
    ),
    "released model.json": Format(
        samples.write_release, ("model.json",), open_model, check_run, _evaluate, (*BYTES, *JSON * 6)
    ),
    "released safetensors": Format(
        samples.write_release, ("model.safetensors",), open_model, check_run, _evaluate,
        (*BYTES, *binary.TENSORS * 4), release=True,
    ),
    "scores JSON": Format(
        samples.write_evaluation, ("a.json", "b.json"), _compare, check_comparison,
        lambda f: ["compare", str(f / "a.json"), str(f / "b.json"), "--resamples", "20"], (*BYTES, *JSON * 6),
    ),
    "cache of evaluations": Format(
        samples.write_evaluations, ("cache/*/*.safetensors",), read_evaluations, check_evaluations, None,
        (*BYTES, *binary.TENSORS * 4), errors=(OSError,),
    ),
    "wrapped function's state": Format(
        samples.write_state, ("state.pt",), read_state, check_box, None,
        (*BYTES, *binary.TORCH * 2), errors=(Exception,), bounded=False,
    ),
}  # fmt: skip


# --- one input


def make_input(kind: Format, template: Path, folder: Path, rng: Rng) -> str:
    """Copy the valid files to ``folder`` and damage one of them; return what was done."""
    shutil.copytree(template, folder)
    path = pick(rng, sorted(path for pattern in kind.files for path in folder.glob(pattern)))
    chance = int(rng.integers(50))
    if chance == 0:
        return replace_by_another_thing(path, rng)
    if chance == 1 and kind.bombs:
        damage = pick(rng, kind.bombs)
        path.write_bytes(damage(path.read_bytes(), rng))
        return str(damage.__name__)
    if chance == 2:
        return mislabel(path, template.parent, rng)
    done, data = [], path.read_bytes()
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        damage = pick(rng, kind.damage)
        try:
            data = damage(data, rng)
        except Exception:  # a second damage may not find what it changes
            continue
        done.append(damage.__name__)
    path.write_bytes(data)
    if kind.release and rng.integers(2):
        changed = samples.description(folder) | {"sha256": binary.checksum(data)}
        (folder / "model.json").write_text(json.dumps(changed))
    return ", ".join(done)


def replace_by_another_thing(path: Path, rng: Rng) -> str:
    """Put something in the place of the file that is no file, or no longer there, or endless."""
    kept = path.with_name("kept-aside")
    path.rename(kept)
    kind = pick(
        rng, ("nothing", "folder", "link", "loop", "dangling", "pipe", "zeros", "random", "sparse", "empty")
    )
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(kept)
        case "loop":
            path.symlink_to(path)
        case "dangling":
            path.symlink_to(path.with_name("not-there"))
        case "pipe":
            os.mkfifo(path)
        case "zeros" | "random":
            path.symlink_to(f"/dev/{'zero' if kind == 'zeros' else 'urandom'}")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(2**38)
        case "empty":
            path.touch()
    return f"in its place: {kind}"


def mislabel(path: Path, templates: Path, rng: Rng) -> str:
    """Put a valid file of another format in the place of this one."""
    others = sorted(file for file in templates.rglob("*") if file.is_file() and file.suffix != path.suffix)
    other = pick(rng, others)
    shutil.copyfile(other, path)
    return f"in its place: {other.name}"
