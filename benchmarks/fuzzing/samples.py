"""Small valid files of every format that is read, made from drawn hearts: what the damage starts from."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import ndgrad
from applications.lv_dp import evaluate, train
from applications.lv_dp.config import EvaluateConfig, TrainConfig
from applications.lv_dp.data import Slice, SliceSet, cache
from applications.lv_dp.data.pack import write_pack
from applications.lv_dp.data.phantom import PhantomConfig, load_phantom
from applications.lv_dp.data.resample import Grid
from applications.lv_dp.data.slices import centroid
from applications.lv_dp.release import ExportConfig, export

SIDE = 24
GRID = Grid(7.5, 24)
CONTOUR = Path("contourfiles/SC-HF-I-1/i-contours/IM-0001-0048-icontour-manual.txt")


@functools.cache
def hearts() -> SliceSet:
    """Return four slices of two patients, 24 x 24 pixels."""
    return load_phantom(PhantomConfig(patients=2, levels=2, size=SIDE), seed=3)


def picture(item: Slice) -> NDArray[np.int16]:
    """Return the intensities as whole numbers (H, W)."""
    return (item.image * 100).numpy().astype(np.int16)


def write_png(folder: Path) -> None:
    """Write ``images`` and ``masks``."""
    for item in hearts().slices:
        for name, values in (("images", picture(item).clip(0, 255)), ("masks", item.mask.numpy() * 255)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(folder / name / f"{item.name}.png")


def write_acdc(folder: Path) -> None:
    """Write one patient of ACDC: two frames with labels, and Info.cfg."""
    patient = folder / "patient001"
    patient.mkdir(parents=True)
    patient.joinpath("Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n")
    for item, frame in zip(hearts().slices, ("01", "12"), strict=False):
        assert item.labels is not None
        stem = patient / f"patient001_frame{frame}"
        write_nifti(stem.with_name(f"{stem.name}.nii.gz"), _volume(picture(item)))
        write_nifti(stem.with_name(f"{stem.name}_gt.nii.gz"), _volume(item.labels.numpy()))


def write_volume(folder: Path) -> None:
    """Write one uncompressed NIfTI volume of two slices."""
    folder.mkdir(parents=True, exist_ok=True)
    write_nifti(folder / "volume.nii", _volume(picture(hearts().slices[0])))


def _volume(image: NDArray[Any]) -> NDArray[Any]:
    return np.stack([image.T, image.T], axis=-1)  # (x, y, z)


def write_nifti(path: Path, values: NDArray[Any]) -> None:
    """Write voxels of 7.5 x 7.5 x 10 mm."""
    import nibabel

    image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_zooms((7.5, 7.5, 10.0))
    nibabel.save(image, path)


def write_dicom(path: Path) -> None:
    """Write one MR image."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("2.16.124")
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows = data.Columns = SIDE
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.SpacingBetweenSlices = 8
    data.PixelSpacing = [7.5, 7.5]
    data.PixelData = picture(hearts().slices[0]).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_sunnybrook(folder: Path) -> None:
    """Write one image, one contour and the table of names."""
    write_dicom(folder / "dicoms" / "SCD0000101" / "48.dcm")
    contour = folder / CONTOUR
    contour.parent.mkdir(parents=True)
    contour.write_text("8.0 8.5\n15.0 8.0\n15.5 15.0\n8.0 15.0\n")
    folder.joinpath("link.csv").write_text("patient_id,original_id\nSCD0000101,SC-HF-I-1\n")


def write_packed(folder: Path) -> None:
    """Write a packed data set."""
    write_pack(folder / "hearts.npz", hearts())


def write_cache(folder: Path) -> None:
    """Write a folder of PNG files, and keep it, resampled, in ``cache``."""
    write_png(folder / "data")
    cache.load_resampled(f"png:{folder / 'data'}@7.5", GRID, folder / "cache")
    next(folder.joinpath("cache").glob("*.npz")).rename(folder / "cache" / "kept.npz")


def write_centers(folder: Path) -> None:
    """Write the centre of every slice."""
    write_packed(folder)
    points = [(item.name, *centroid(item.mask).tolist()) for item in hearts().slices]
    lines = ["name,x,y", *(f"{name},{x:.2f},{y:.2f}" for name, x, y in points)]
    folder.joinpath("centers.csv").write_text("\n".join(lines) + "\n")


def job(folder: Path) -> TrainConfig:
    """Return the training whose run folder is damaged."""
    changes = (f"crop={SIDE}", "num_rays=6", "num_radii=6", "base_channels=2", "fit_steps=1")
    data = f"packed:{folder.parent / 'hearts.npz'}"
    return TrainConfig(folder, data=data, num_train=2, profile="smoke", iterations=2, change=changes)


def write_run(folder: Path) -> None:
    """Train for two iterations, on data that lie beside the folder."""
    folder.mkdir(parents=True)
    write_packed(folder.parent)
    train.main(job(folder))


def write_release(folder: Path) -> None:
    """Train, and give the weights away."""
    write_run(folder / "run")
    export(ExportConfig(folder / "run", folder))


def write_evaluation(folder: Path) -> None:
    """Evaluate one run, twice."""
    write_run(folder)
    for name in ("a.json", "b.json"):
        evaluate.main(EvaluateConfig(folder, f"packed:{folder.parent / 'hearts.npz'}", folder / name))


def box() -> ndgrad.BlackBox:
    """Return a wrapped function with a network that is built on its first call."""
    return ndgrad.wrap(torch.round, estimator=ndgrad.DiffBypass(num_samples=2, fit_steps=1, replay=1))


def cached_box(folder: Path) -> ndgrad.BlackBox:
    """Return a wrapped function whose evaluations are kept in ``cache``."""
    return ndgrad.wrap(torch.round, estimator="finite_difference", cache=folder / "cache", cache_key="round")


def rows() -> torch.Tensor:
    """Return what the function is evaluated at."""
    return torch.tensor([[0.3, 1.7, -2.2], [5.1, 0.0, 0.9]])


def write_evaluations(folder: Path) -> None:
    """Keep two evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    cached_box(folder)(rows())


def write_state(folder: Path) -> None:
    """Save the state of a wrapped function after one step."""
    wrapped = box()
    torch.manual_seed(0)
    wrapped(torch.randn(2, 3, requires_grad=True)).sum().backward()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(wrapped.state_dict(), folder / "state.pt")


def description(folder: Path) -> dict[str, Any]:
    """Return a release's description."""
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found
