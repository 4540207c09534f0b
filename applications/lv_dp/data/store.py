"""A slice set as one file: a zip of plain ``.npy`` arrays, which cannot hold code.

The arrays are ``meta`` (JSON), ``masks`` (one bit a pixel), ``labels`` (of the slices that have some), and the
intensities in a form that the two users choose: `cache` keeps float32, `pack` quantises.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from applications.lv_dp.data.slices import LV, MAX_SIDE, DataError, Dropped, Slice, SliceSet
from applications.lv_dp.errors import UsageError
from applications.lv_dp.files import check_depth, read_bytes

MAX_BYTES = 2**30  # what the arrays of one file may unpack to
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
META = ("name", "patient", "spacing", "phase", "slice_spacing", "position", "group")

Arrays = dict[str, NDArray[Any]]


def write(path: Path, arrays: Arrays, compress: bool) -> None:
    """Write a file that is either complete or not there, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            (np.savez_compressed if compress else np.savez)(file, allow_pickle=False, **arrays)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read(path: Path) -> Arrays:
    """Read every array of a file.

    Raises:
        DataError: no such file, torn, altered, too large, or not of this kind.
    """
    try:
        with zipfile.ZipFile(BytesIO(read_bytes(path))) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise DataError(f"{path}: claims more than {MAX_BYTES} bytes")
            arrays = (entry for entry in entries if entry.filename.endswith(".npy"))
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in arrays}
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # zipfile, zlib and numpy raise anything on foreign bytes
        raise DataError(f"{path}: is no complete file of slices ({type(error).__name__})") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """Read a plain array; ValueError if its header claims another size than it has, or other things than numbers."""
    if entry.compress_type not in PLAIN:
        raise ValueError("only deflated members are read")
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        content = bytearray(file.read())  # to the end, where the checksum stands
    if fortran or dtype.kind not in "iuf" or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError("the header does not fit the content")
    return np.frombuffer(content, dtype).reshape(shape)


def describe(data: SliceSet, extra: Sequence[dict[str, Any]], keep_paths: bool) -> Arrays:
    """Return everything but the intensities; ``extra`` are more values for the record of each slice."""
    records = []
    for item, more in zip(data.slices, extra, strict=True):
        record = {key: getattr(item, key) for key in META} | {"size": list(item.mask.shape)} | more
        record |= {"labels": item.labels is not None}
        records.append(record | ({"path": str(item.path)} if keep_paths and item.path else {}))
    dropped = [asdict(item) for item in data.dropped_slices]
    meta = json.dumps({"source": data.source, "slices": records, "dropped": dropped})
    labels = [item.labels for item in data.slices if item.labels is not None]
    return {
        "meta": np.frombuffer(meta.encode(), np.uint8),
        "masks": np.packbits(join([item.mask for item in data.slices])),
        "labels": join(labels) if labels else np.zeros(0, np.uint8),
    }


def join(images: Sequence[Tensor]) -> NDArray[Any]:
    """Return the pixels of all images in one row."""
    joined: NDArray[Any] = torch.cat([image.flatten() for image in images]).numpy()
    return joined


def read_meta(arrays: Arrays) -> dict[str, Any]:
    """Return what `describe` wrote as JSON."""
    meta: dict[str, Any] = json.loads(arrays["meta"].tobytes())
    check_depth(meta)
    return meta


def assemble(meta: dict[str, Any], arrays: Arrays, images: Sequence[Tensor]) -> SliceSet:
    """Return the slice set; any exception where the parts do not fit."""
    records = meta["slices"]
    sizes = [_size(record) for record in records]
    if not arrays["masks"].dtype == arrays["labels"].dtype == np.uint8:
        raise ValueError("masks and labels must be bytes")
    if arrays["masks"].size != -(-sum(map(math.prod, sizes)) // 8) or (arrays["labels"] > LV).any():
        raise ValueError("masks or labels do not fit")
    bits = np.unpackbits(arrays["masks"], count=sum(map(math.prod, sizes))).astype(np.bool_)
    masks = split(bits, sizes)
    labels = iter(split(arrays["labels"], [s for s, r in zip(sizes, records, strict=True) if r["labels"]]))
    slices = tuple(
        _slice(record, image, mask, next(labels) if record["labels"] else None)
        for record, image, mask in zip(records, images, masks, strict=True)
    )
    if not slices:
        raise ValueError("no slices")
    dropped = [Dropped(**record) for record in meta["dropped"]]
    words = [meta["source"], *(word for item in dropped for word in (item.name, item.patient, item.reason))]
    if not all(map(_is_word, words)):
        raise ValueError("what was dropped, or the source, is not what this program writes")
    return SliceSet(slices, tuple(dropped), meta["source"])


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 4096


def _size(record: dict[str, Any]) -> tuple[int, int]:
    H, W = record["size"]
    if not (type(H) is type(W) is int and 0 < min(H, W) <= max(H, W) <= MAX_SIDE):
        raise ValueError(f"a size must be two whole numbers in 1 .. {MAX_SIDE}")
    return H, W


def sizes_of(meta: dict[str, Any]) -> list[tuple[int, int]]:
    """Return (H, W) of every slice."""
    return [_size(record) for record in meta["slices"]]


def _slice(record: dict[str, Any], image: Tensor, mask: Tensor, labels: Tensor | None) -> Slice:
    values = {key: record[key] for key in META}
    values["spacing"] = None if record["spacing"] is None else tuple(map(float, record["spacing"]))
    words = [record["name"], record["patient"], record["group"] or "", record.get("path", "")]
    if not all(map(_is_word, words)) or values["phase"] not in ("ED", "ES", None):
        raise ValueError("a name or phase is not what this program writes")
    if type(values["position"]) not in (int, type(None)):
        raise ValueError("a position is a whole number")
    if values["slice_spacing"] is not None:
        values["slice_spacing"] = float(values["slice_spacing"])
    if values["spacing"] is not None and len(values["spacing"]) != 2:
        raise ValueError("a spacing is that of rows and columns")
    path = Path(record["path"]) if "path" in record else None
    return Slice(image=image, mask=mask, labels=labels, path=path, **values)


def split(pixels: NDArray[Any], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Cut a row of pixels into images (H, W); ValueError if there are more or fewer."""
    if pixels.shape != (sum(map(math.prod, sizes)),):
        raise ValueError("the number of pixels does not fit the sizes")
    parts = np.split(pixels, np.cumsum([math.prod(size) for size in sizes])[:-1]) if sizes else []
    return [torch.from_numpy(part.reshape(size)) for part, size in zip(parts, sizes, strict=True)]
