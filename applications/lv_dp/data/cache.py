"""Resampled data sets, kept on disk: the second run does not read and interpolate a thousand files again.

A file's name is a hash of everything that its content depends on: the source and its files (path, size, time
of change), the grid, and the code that loads and resamples.  What changes gets another file.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from applications.lv_dp.data import store
from applications.lv_dp.data.resample import Grid, resample
from applications.lv_dp.data.slices import SliceSet, same_spacing
from applications.lv_dp.data.sources import load, parse, png_location

CODE = sorted(Path(__file__).parent.glob("*.py"))


def cache_folder() -> Path:
    """Return ``$NDGRAD_CACHE``, else ``~/.cache/ndgrad``."""
    return Path(os.environ.get("NDGRAD_CACHE") or Path.home() / ".cache" / "ndgrad")


def load_resampled(source: str, grid: Grid | None = None, folder: Path | None = None) -> SliceSet:
    """Load a source and bring it to the grid, or read the result of the last time.

    The phantom is drawn anew each time.  A file that cannot be read is warned of and replaced; a folder that
    cannot be written is warned of.

    Raises:
        DataError: as `sources.load` and `resample`.
    """
    grid = grid or Grid()
    if source == "phantom":
        return resample(load(source), grid)
    path = (folder or cache_folder()) / f"{parse(source)[0]}-{key(source, grid)}.npz"
    cached = _read(path) if path.is_file() else None
    return _make(source, grid, path) if cached is None else cached


def load_even(source: str, like: float | None = None) -> SliceSet:
    """Load a source with pixels of one size: resampled where they are not, else as it is.

    Args:
        source: as for `sources.load`.
        like: the distance of pixels in mm that a model was trained on, and that the data is brought to where its own
            is known and differs; None for training, which takes the data's own, or the thesis' if that is mixed.

    Raises:
        DataError: as `sources.load`; or only some of the slices have a known spacing.
    """
    data = load(source)
    spacings = {item.spacing for item in data.slices}
    if like is None:
        return data if len(spacings) < 2 else load_resampled(source)
    if spacings == {None} or (data.spacing is not None and same_spacing(data.spacing, like)):
        return data
    return load_resampled(source, Grid(spacing=like))


def key(source: str, grid: Grid) -> str:
    """Return the hash of what the result depends on."""
    kind, location = parse(source)
    root = png_location(location or "")[0] if kind == "png" else Path(location or "")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in CODE]
    return hashlib.sha256(json.dumps([source, asdict(grid), stats, code]).encode()).hexdigest()[:32]


def _read(path: Path) -> SliceSet | None:
    try:
        arrays = store.read(path)
        meta = store.read_meta(arrays)
        if arrays["images"].dtype != np.float32:
            raise ValueError("intensities are of another type")
        return store.assemble(meta, arrays, store.split(arrays["images"], store.sizes_of(meta)))
    except Exception as error:  # DataError, or whatever a foreign file's JSON and arrays lead to
        warnings.warn(f"{path}: is damaged and made anew ({error})", stacklevel=3)
        return None


def _make(source: str, grid: Grid, path: Path) -> SliceSet:
    data = resample(load(source), grid)
    arrays = store.describe(data, [{}] * len(data), keep_paths=True)
    arrays["images"] = store.join([item.image for item in data.slices])
    try:
        store.write(path, arrays, compress=False)
    except OSError as error:
        warnings.warn(f"{path}: cannot be written ({error.strerror}); nothing is cached", stacklevel=3)
    return data
