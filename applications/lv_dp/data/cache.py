"""Resampled data sets, kept on disk: the second run does not read and interpolate a thousand files again.

A file's name is a hash of everything that its content depends on: the source and its files (path, size, time
of change), the pixels asked for, and the code that loads and resamples.  What changes gets another file.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from applications.lv_dp.data import store
from applications.lv_dp.data.resample import Grid, covering, holds, resample
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
    return _cached(source, grid, folder, lambda _: grid)


def load_even(source: str, like: float | None = None) -> SliceSet:
    """Load a source with pixels of one size: resampled where they are not, else as it is.

    Args:
        source: as for `sources.load`.
        like: the distance of pixels in mm that a model was trained on, and that the data is brought to where its own
            is known and differs; None for training, which takes the data's own, or the thesis' if that is mixed. Two
            distances differ from 1 % on.

    Raises:
        DataError: as `sources.load`; or only some of the slices have a known spacing.
    """
    return _cached(source, f"even, like {like}", None, lambda data: _even_grid(data, like))


def _even_grid(data: SliceSet, like: float | None) -> Grid | None:
    """Return the pixels that the data must be brought to, None where it may stay as it is."""
    spacings, own = {item.spacing for item in data.slices}, data.spacing
    if like is None:
        return None if len(spacings) < 2 or own is not None else Grid()
    if spacings == {None} or (own is not None and same_spacing(own, like)):
        return None
    grid = Grid(like)
    if all(holds(grid, item) for item in data.slices if item.spacing):
        return grid
    return covering(like, [(item.spacing, item.image.shape) for item in data.slices if item.spacing])


def _cached(
    source: str, pixels: Grid | str, folder: Path | None, choose: Callable[[SliceSet], Grid | None]
) -> SliceSet:
    """Return the source on the grid that is chosen for it, from the cache where that was done before."""
    if source == "phantom":
        return _on_grid(load(source), choose)
    path = (folder or cache_folder()) / f"{parse(source)[0]}-{key(source, pixels)}.npz"
    cached = _read(path) if path.is_file() else None
    if cached is not None:
        return cached
    data = load(source)
    even = _on_grid(data, choose)
    if even is not data:
        _keep(even, path)
    return even


def _on_grid(data: SliceSet, choose: Callable[[SliceSet], Grid | None]) -> SliceSet:
    grid = choose(data)
    return data if grid is None else resample(data, grid)


def key(source: str, pixels: Grid | str) -> str:
    """Return the hash of what the result depends on."""
    kind, location = parse(source)
    root = png_location(location or "")[0] if kind == "png" else Path(location or "")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in CODE]
    return hashlib.sha256(json.dumps([source, str(pixels), stats, code]).encode()).hexdigest()[:32]


def _read(path: Path) -> SliceSet | None:
    try:
        arrays = store.read(path)
        meta = store.read_meta(arrays)
        if arrays["images"].dtype != np.float32:
            raise ValueError("intensities are of another type")
        return store.assemble(meta, arrays, store.split(arrays["images"], store.sizes_of(meta)))
    except Exception as error:  # DataError, or whatever a foreign file's JSON and arrays lead to
        warnings.warn(f"{path}: is damaged and made anew ({error})", stacklevel=4)
        return None


def _keep(data: SliceSet, path: Path) -> None:
    arrays = store.describe(data, [{}] * len(data), keep_paths=True)
    arrays["images"] = store.join([item.image for item in data.slices])
    try:
        store.write(path, arrays, compress=False)
    except OSError as error:
        warnings.warn(f"{path}: cannot be written ({error.strerror}); nothing is cached", stacklevel=4)
