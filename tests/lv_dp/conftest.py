from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.lv_dp.data import Slice, SliceSet
from applications.lv_dp.data.phantom import PhantomConfig, draw_patient, draw_slice, load_phantom

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def phantom() -> SliceSet:
    return load_phantom(PhantomConfig(patients=4, levels=3, size=64), seed=5)


@pytest.fixture(scope="session")
def png_folder(tmp_path_factory: pytest.TempPathFactory, phantom: SliceSet) -> Path:
    """16 slices of four patients, and one slice without an LV, as PNG files."""
    root = tmp_path_factory.mktemp("png")
    for item in phantom.slices:
        write_pair(root, item)
    rng = np.random.default_rng(0)
    drawn = draw_slice(draw_patient(rng, 64), 1.1, False, rng, 64, 0.05)
    image = torch.from_numpy(drawn.image.astype(np.float32))
    write_pair(root, Slice("phantom-000-IM-empty", "phantom-000", image, torch.from_numpy(drawn.lv)))
    return root


def write_pair(root: Path, item: Slice) -> None:
    for folder, values in (("images", (item.image * 150).clamp(0, 255)), ("masks", item.mask * 255)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.numpy().astype(np.uint8)).save(root / folder / f"{item.name}.png")


def real_data(name: str) -> Path:
    """Return a folder of the development data, which the project does not hold, or skip the test."""
    base = Path(os.environ.get("NDGRAD_DATA", PROJECT.parent / "shared" / "data"))
    if not (base / name).is_dir():
        pytest.skip(f"{base / name} is missing: set NDGRAD_DATA to the folder that holds {name}")
    return base / name


@pytest.fixture(scope="session")
def sunnybrook() -> Path:
    return real_data("sunnybrook_png")


@pytest.fixture(scope="session")
def sunnybrook_dicom() -> Path:
    return real_data("sunnybrook_dicom")


@pytest.fixture(scope="session")
def acdc() -> Path:
    return real_data("acdc")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NDGRAD_CACHE", str(folder))
    return folder
