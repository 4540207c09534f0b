"""Damage that knows the format: wrong fields under right checksums, bombs, and archives with code in them."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from applications.lv_dp.checkpoint import count_values
from benchmarks.fuzzing.damage import BYTES, EDGES, FLOATS, JSON, LEAVES, Damage, Rng, pick

BOMB = 400 * 2**20  # bytes of zeros that come out of a small file
Members = dict[str, bytes]


class Payload:
    """An object that makes a folder when it is unpickled: proof that code was run."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call = call
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def payload(rng: Rng) -> Payload:
    """Return one of several calls that leave a trace."""
    code = "__import__('os').mkdir('executed')"
    calls: tuple[tuple[Callable[..., Any], str], ...] = (
        (os.mkdir, "executed"), (os.system, "mkdir executed"), (exec, code), (eval, code), (os.remove, "bait"),
    )  # fmt: skip
    return Payload(*pick(rng, calls))


def laughs(depth: int = 60) -> Any:
    """Return lists within lists, 2^depth entries in all though few in memory."""
    nested: Any = [0]
    for _ in range(depth):
        nested = [nested, nested]
    return nested


# --- NIfTI

NIFTI_FIELDS: dict[str, tuple[int, str, tuple[Any, ...]]] = {
    "sizeof_hdr": (0, "i", (348, 540, 0, -1, 2**31 - 1)),
    "rank": (40, "h", (0, 1, 2, 3, 4, 5, 7, 8, -1, 32767)),
    **{f"dim{i}": (40 + 2 * i, "h", (0, 1, 2, 24, -1, 32767, -32768)) for i in range(1, 8)},
    "datatype": (
        70,
        "h",
        (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1),
    ),
    "bitpix": (72, "h", (0, 1, 8, 16, 32, 64, 128, -1)),
    **{f"pixdim{i}": (76 + 4 * i, "f", (*FLOATS, 2.0, 1e-9, 1e6)) for i in range(8)},
    "vox_offset": (108, "f", (0, 1, 348, 352, 353, 1e6, 1e9, 4e18, -352, float("nan"), float("inf"))),
    "scl_slope": (112, "f", (*FLOATS, 2.0)),
    "scl_inter": (116, "f", (*FLOATS, 7.0)),
    "xyzt_units": (123, "B", (0, 1, 2, 3, 255)),
    "qform": (252, "h", (0, 1, -1, 99)),
    "quatern": (256, "f", FLOATS),
    "srow": (280, "f", FLOATS),
    "magic": (344, "I", (0, 0x00316E69, 0x00322B6E, 0xFFFFFFFF)),
    "extension": (348, "I", (1, 0x01010101, 0xFFFFFFFF)),
}


def nifti_field(data: bytes, rng: Rng) -> bytes:
    """Set one to three header fields."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place, kind, values = NIFTI_FIELDS[pick(rng, list(NIFTI_FIELDS))]
        changed[place : place + struct.calcsize(kind)] = _packed(kind, pick(rng, values))
    return bytes(changed)


def _packed(kind: str, value: Any) -> bytes:
    if kind != "f":
        return struct.pack(f"<{kind}", value)
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(value).tobytes()


def nifti_extension(data: bytes, rng: Rng) -> bytes:
    """Put an extension between header and voxels that claims more than there is, or is large."""
    size = int(pick(rng, (0, 8, 15, 16, 32, 2**20, 2**31 - 16, -16)))
    body = struct.pack("<ii", size, int(rng.integers(50))) + rng.bytes(8)
    return data[:348] + b"\x01\0\0\0" + body + data[352:]


def nifti_bomb(data: bytes, rng: Rng) -> bytes:
    """Announce a large extension or far-away voxels, and deliver zeros."""
    changed = bytearray(data)
    changed[108:112] = _packed("f", pick(rng, (352, 352 + BOMB - 16)))
    changed[348:352] = pick(rng, (b"\0\0\0\0", b"\x01\0\0\0"))
    return bytes(changed[:352]) + struct.pack("<ii", BOMB - 16, 4)


NIFTI: tuple[Damage, ...] = (nifti_field, nifti_field, nifti_field, nifti_extension)


def compressed(damage: Damage) -> Damage:
    """Return the damage done to what a gzip file holds, compressed again."""

    def damaged(data: bytes, rng: Rng) -> bytes:
        return gzip.compress(damage(gzip.decompress(data), rng), 1)

    return damaged


def gzip_bomb(data: bytes, rng: Rng) -> bytes:
    """Follow the file by hundreds of megabytes of zeros."""
    inside = gzip.decompress(data)
    return gzip.compress(nifti_bomb(inside, rng) if rng.integers(2) else inside, 1) + _zeros(31)


@functools.cache
def _zeros(wbits: int) -> bytes:
    """Return `BOMB` zeros as a gzip member (31), a zlib stream (15) or bare deflate (-15)."""
    packer = zlib.compressobj(6, wbits=wbits)
    return b"".join(packer.compress(bytes(2**24)) for _ in range(BOMB // 2**24)) + packer.flush()


def gzip_twice(data: bytes, rng: Rng) -> bytes:
    """Compress once more, not at all, or in two parts."""
    inside = gzip.decompress(data)
    half = len(inside) // 2
    return pick(
        rng, (gzip.compress(data), inside, gzip.compress(inside[:half]) + gzip.compress(inside[half:]))
    )


# --- DICOM

DICOM_VALUES: dict[str, tuple[Any, ...]] = {
    "Rows": (0, 1, 23, 25, 4096, 4097, 65535),
    "Columns": (0, 1, 23, 25, 4096, 4097, 65535),
    "NumberOfFrames": ("0", "1", "2", "-1", "2147483647", "1000000"),
    "BitsAllocated": (0, 1, 8, 12, 16, 32, 64, 65535),
    "BitsStored": (0, 1, 8, 15, 17, 65535),
    "HighBit": (0, 14, 65535),
    "PixelRepresentation": (0, 1, 2),
    "SamplesPerPixel": (0, 1, 3, 4, 65535),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL", "XYZ"),
    "PixelSpacing": ([0.0, 1.0], [-1.0, -1.0], [1e9, 1e9], [1e-9, 1e-9], [1.0], [1.0, 2.0, 3.0]),
    "SpacingBetweenSlices": (0.0, -8.0, 1e30),
    "RescaleSlope": (0.0, 1e38, -1e300, 1e-300, 2.0),
    "RescaleIntercept": (1e38, -1e300, 2.0),
    "PixelData": (b"", b"\0", bytes(2 * 24 * 24 + 2), bytes(24 * 24)),
    "TransferSyntaxUID": (
        "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.3", "1.2.840.10008.1.2.4.201",
    ),
}  # fmt: skip


def dicom_element(data: bytes, rng: Rng) -> bytes:
    """Give one to three elements values that a header can hold but an image cannot have."""
    import pydicom

    found = pydicom.dcmread(io.BytesIO(data))
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, list(DICOM_VALUES))
        if name == "TransferSyntaxUID":
            continue
        if rng.integers(8) == 0:
            found.pop(name, None)
        else:
            setattr(found, name, pick(rng, DICOM_VALUES[name]))
    return _saved(found)


def dicom_syntax(data: bytes, rng: Rng) -> bytes:
    """Claim another coding of the pixels."""
    syntax = pick(rng, DICOM_VALUES["TransferSyntaxUID"]).encode()
    own = b"1.2.840.10008.1.2.1\0"
    return data.replace(own, (syntax + b"\0" * len(own))[: len(own)], 1)


def dicom_bomb(data: bytes, rng: Rng) -> bytes:
    """Deflate a data set that is mostly zeros."""
    cut = data.index(b"\x08\0") if b"\x08\0" in data[132:] else len(data)
    head = data[:cut].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"[:20], 1)
    packer = zlib.compressobj(6, wbits=-15)
    return head + packer.compress(data[cut:]) + packer.flush(zlib.Z_FULL_FLUSH) + _zeros(-15)


def dicom_nested(data: bytes, rng: Rng) -> bytes:
    """End with sequences within sequences."""
    item = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return data[:132] + data[132:] + item * int(rng.integers(10, 5000))


def _saved(found: Any) -> bytes:
    import warnings

    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.save_as(out, enforce_file_format=True)
    return out.getvalue()


DICOM: tuple[Damage, ...] = (dicom_element, dicom_element, dicom_element, dicom_syntax, dicom_nested)


# --- PNG


def png_chunk(data: bytes, rng: Rng) -> bytes:
    """Change, remove, repeat or move one chunk, with a checksum that fits."""
    chunks = _chunks(data)
    place = int(rng.integers(len(chunks)))
    kind, body = chunks[place]
    match int(rng.integers(6)):
        case 0:
            del chunks[place]
        case 1:
            chunks.insert(place, (kind, body))
        case 2:
            chunks.insert(int(rng.integers(len(chunks))), chunks.pop(place))
        case 3:
            chunks[place] = (
                pick(rng, (b"tEXt", b"zTXt", b"iCCP", b"acTL", b"fdAT", b"PLTE", b"tRNS", b"eXIf")),
                body,
            )
        case _:
            chunks[place] = (kind, pick(rng, BYTES)(body, rng))
    return _png(chunks)


def png_header(data: bytes, rng: Rng) -> bytes:
    """Claim another size, depth, colour or interlacing."""
    chunks = _chunks(data)
    sides = (0, 1, 23, 24, 25, 5000, 12_000, 20_000, 65_536, 2**31 - 1)
    width, height = (pick(rng, sides) if rng.integers(2) else 24 for _ in range(2))
    depth, colour = pick(rng, (1, 2, 4, 8, 16, 3)), pick(rng, (0, 2, 3, 4, 6, 1))
    keep = rng.integers(2)
    body = struct.pack(
        ">IIBBBBB", width, height, 8 if keep else depth, 0 if keep else colour, 0, 0, pick(rng, (0, 0, 1, 7))
    )
    return _png([(b"IHDR", body), *chunks[1:]])


def png_bomb(data: bytes, rng: Rng) -> bytes:
    """Hold a huge black picture, or a huge compressed text, profile or comment."""
    chunks = _chunks(data)
    zeros = _zeros(15)
    if rng.integers(2):
        side = pick(rng, (9_000, 13_000, 20_000))
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        return _png([(b"IHDR", head), (b"IDAT", zeros), (b"IEND", b"")])
    kind = pick(rng, (b"zTXt", b"iCCP", b"iTXt"))
    head = b"a\0\1\0\0\0" if kind == b"iTXt" else b"a\0\0"
    return _png([chunks[0], (kind, head + zeros), *chunks[1:]])


def png_other_format(data: bytes, rng: Rng) -> bytes:
    """Be a picture of another format, or a PostScript program, under the name of a PNG."""
    kind = pick(rng, ("GIF", "BMP", "TIFF", "PPM", "JPEG", "EPS", "PDF", "WEBP", "program"))
    if kind == "program":
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n(executed) (w) file closefile\nshowpage\n"
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("L").save(out, kind)
    return out.getvalue()


def png_other_mode(data: bytes, rng: Rng) -> bytes:
    """Be a PNG with colours, a palette, transparency or another depth."""
    picture = Image.open(io.BytesIO(data))
    out = io.BytesIO()
    mode = pick(rng, ("1", "P", "RGB", "RGBA", "LA", "I;16"))
    options = {"transparency": b"\0\x80" * 20} if mode == "P" else {}
    picture.convert(mode).save(out, "PNG", **options)
    return out.getvalue()


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    place, chunks = 8, []
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += size + 12
    return chunks


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PNG: tuple[Damage, ...] = (png_chunk, png_chunk, png_header, png_header, png_other_format, png_other_mode)


# --- archives


def unzip(data: bytes) -> Members:
    """Return the members of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Members, compress: bool = False, more: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    """Return an archive; ``more`` are members whose names may repeat others."""
    import warnings

    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", kind, compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # of names that repeat
        for name, content in (*members.items(), *more):
            archive.writestr(name, content)
    return out.getvalue()


def zip_member(data: bytes, rng: Rng) -> bytes:
    """Damage the bytes of one member, with a checksum that fits."""
    members = unzip(data)
    name = pick(rng, list(members))
    members[name] = pick(rng, BYTES)(members[name], rng)
    return zipped(members, compress=bool(rng.integers(2)))


def zip_names(data: bytes, rng: Rng) -> bytes:
    """Remove, rename, repeat or add a member; some names lead out of the folder."""
    members = unzip(data)
    name = pick(rng, list(members))
    content = members[name]
    odd = pick(
        rng,
        ("../../escaped", "/tmp/escaped-absolute", "..\\..\\escaped", name + "/", "a\0b", "x" * 60_000, ""),
    )
    match int(rng.integers(4)):
        case 0:
            del members[name]
        case 1:
            members[odd] = members.pop(name)
        case 2:
            return zipped(members, more=((name, pick(rng, BYTES)(content, rng)),))
        case _:
            members[odd] = content
    return zipped(members)


def zip_bomb(data: bytes, rng: Rng) -> bytes:
    """Put hundreds of megabytes of zeros in the place of one member."""
    members = unzip(data)
    name = pick(rng, list(members))
    members[name] = members[name][: pick(rng, (0, 128))] + bytes(BOMB)
    return zipped(members, compress=True)


def zip_prefix(data: bytes, rng: Rng) -> bytes:
    """Begin like another file; an archive is found from its end."""
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    huge = array.getvalue().replace(b"(3,)", pick(rng, (b"(10000000000,)", b"(3,)", b"(-1,)")))
    return pick(rng, (huge, pickle.dumps(payload(rng)), b"\x89PNG\r\n\x1a\n", rng.bytes(100))) + data


ZIP: tuple[Damage, ...] = (zip_member, zip_member, zip_names, zip_prefix)


def npz_header(data: bytes, rng: Rng) -> bytes:
    """Let an array's own header claim another shape or type."""
    members = unzip(data)
    name = pick(rng, list(members))
    size = members[name].index(b"\n") + 1
    shape = pick(rng, ((10**10,), (2**62, 2**62), (-1,), (0,), (), (1, 1), (10,), (10**9, 0), (True,)))
    kind = pick(rng, ("|O", "<f8", "|u1", "<U1", "|V0", "<M8[s]", "<c16", ">f2", "|b1", [("a", "<f8")]))
    header = repr({"descr": kind, "fortran_order": bool(rng.integers(2)), "shape": shape}) + "\n"
    members[name] = (
        b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + members[name][size:]
    )
    return zipped(members)


def npz_object(data: bytes, rng: Rng) -> bytes:
    """Hold an array of objects, whose loading would run code; or a pickle in the place of an array."""
    members = unzip(data)
    array = io.BytesIO()
    np.save(array, np.array([payload(rng)], dtype=object), allow_pickle=True)
    name = pick(rng, (*members, "more.npy", "more"))
    members[name] = pick(rng, (array.getvalue(), pickle.dumps(payload(rng))))
    return zipped(members)


def npz_meta(data: bytes, rng: Rng) -> bytes:
    """Change the JSON inside."""
    members = unzip(data)
    text = np.load(io.BytesIO(members["meta.npy"])).tobytes()
    array = io.BytesIO()
    np.save(array, np.frombuffer(pick(rng, JSON)(text, rng), np.uint8))
    return zipped(members | {"meta.npy": array.getvalue()})


NPZ: tuple[Damage, ...] = (*ZIP, npz_header, npz_header, npz_object, npz_meta, npz_meta, npz_meta)


# --- torch


def torch_value(data: bytes, rng: Rng) -> bytes:
    """Change one value of what torch saved."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    count_values(state)  # what an earlier damage made endless is left alone
    holder, key = pick(rng, _places(state))
    odd: tuple[torch.Tensor, ...] = (
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(0),
        torch.tensor(float("nan")),
        torch.ones(3, dtype=torch.int64),
    )
    odd += (torch.zeros(3, 3).to_sparse(), torch.full((10**4,), 1e38), torch.ones(2, dtype=torch.complex64))
    leaves = (*LEAVES, *odd, laughs(), float("nan"), float("inf"), (), b"x", 10**20)
    if rng.integers(6) == 0:
        del holder[key]
    elif isinstance(holder[key], torch.Tensor) and rng.integers(2):
        holder[key] = _other(holder[key], rng)
    else:
        holder[key] = pick(rng, leaves)
    return _torch_saved(state)


def _other(tensor: torch.Tensor, rng: Rng) -> torch.Tensor:
    changed = tensor.clone()
    if changed.is_floating_point() and changed.numel() and rng.integers(2):
        changed.flatten()[0] = pick(rng, FLOATS)
        return changed
    return pick(
        rng,
        (
            changed[None],
            changed.flatten()[1:],
            changed.to(torch.float64),
            changed.to(torch.uint8),
            changed.to("meta"),
        ),
    )


def _places(state: Any) -> list[tuple[Any, Any]]:
    keys = list(state) if isinstance(state, dict) else range(len(state))
    below = [state[key] for key in keys if isinstance(state[key], (dict, list)) and len(state[key])]
    return [(state, key) for key in keys] * 2 + [place for part in below for place in _places(part)]


def torch_code(data: bytes, rng: Rng) -> bytes:
    """Hold code: among the values, in the place of all, or in one of the older formats."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    state["more"] = payload(rng)
    members = unzip(data)
    pickled = next(name for name in members if name.endswith("data.pkl"))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("pickle", "storages", "tensors", "../../escaped"):
            content = pickle.dumps(payload(rng), 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    bare = pickle.dumps(payload(rng), 2)
    old = zipped(members | {pickled: bare})
    script = zipped(
        members
        | {pickled.replace("data.pkl", "constants.pkl"): bare, pickled.replace("data.pkl", "code/a.py"): b""}
    )
    return pick(rng, (_torch_saved(state), _legacy(state), tar.getvalue(), bare, old, script))


def torch_legacy(data: bytes, rng: Rng) -> bytes:
    """Be of the older format, damaged or not."""
    old = _legacy(torch.load(io.BytesIO(data), weights_only=True))
    return old if rng.integers(3) == 0 else pick(rng, BYTES)(old, rng)


def torch_pickle(data: bytes, rng: Rng) -> bytes:
    """Replace the pickle by one of nothing but odd instructions."""
    members = unzip(data)
    pickled = next(name for name in members if name.endswith("data.pkl"))
    programs = (
        b"\x80\x02" + b"]" * 100_000 + b".",
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x05" + (2 * 10**9).to_bytes(5, "little") + b"\x85R.",
        b"\x80\x02ccollections\nOrderedDict\n)R" * 1000 + b".",
        b"\x80\x02cbuiltins\nexec\nX\x06\0\0\0import\x85R.",
        b"\x80\x02ctorch\nload\nX\x04\0\0\0bait\x85R.",
        b"\x80\x02ctorch\nhub\n.",
        pickle.dumps(laughs(), 2),
        b"\x80\x02" + b"\x8a\xff" + b"\xff" * 255 + b".",
    )
    return zipped(members | {pickled: pick(rng, programs)})


def _legacy(state: Any) -> bytes:
    out = io.BytesIO()
    torch.save(state, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def _torch_saved(state: Any) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


TORCH: tuple[Damage, ...] = (*ZIP, *(torch_value,) * 5, torch_code, torch_code, torch_legacy, torch_pickle)


# --- safetensors


def tensors_header(data: bytes, rng: Rng) -> bytes:
    """Change the JSON in front of the tensors, or its length."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.integers(4) == 0:
        return struct.pack("<Q", int(pick(rng, EDGES)) % 2**64) + header + body
    document = json.loads(header)
    name = pick(rng, [key for key in document if key != "__metadata__"])
    match int(rng.integers(6)):
        case 0:
            document[name]["data_offsets"] = [int(pick(rng, EDGES)), int(pick(rng, EDGES))]
        case 1:
            document[name]["shape"] = pick(rng, ([], [0], [-1], [2**62, 4], [1], [10**10], "x", [2.5]))
        case 2:
            document[name]["dtype"] = pick(
                rng, ("F64", "BF16", "U8", "BOOL", "I64", "F8_E4M3", "OBJ", "C64", None)
            )
        case 3:
            document[pick(rng, ("more", "__metadata__", ""))] = document[name]
        case _:
            header = pick(rng, JSON)(header, rng)
            return struct.pack("<Q", len(header)) + header + body
    header = json.dumps(document).encode()
    return struct.pack("<Q", len(header)) + header + body


def tensors_value(data: bytes, rng: Rng) -> bytes:
    """Give a tensor odd numbers."""
    return data[:-64] + np.array([pick(rng, FLOATS)] * 8).astype("<f8").tobytes()


TENSORS: tuple[Damage, ...] = (tensors_header, tensors_header, tensors_header, tensors_value)


def checksum(data: bytes) -> str:
    """Return what a release's description must say for its weights to be believed."""
    return hashlib.sha256(data).hexdigest()
