"""Damage that knows nothing of a format but bytes, or lines, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]

EDGES = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
FLOATS = (0.0, -1.0, 1e-300, 1e-30, 1e30, 1e300, float("inf"), float("-inf"), float("nan"), 5e-324, 65504.0)
WORDS = (
    "nan", "-inf", "inf", "1e999", "-1", "0", "1e-320", "1_0", "٣", "0x10", "9" * 5000, "1" * 40, "", "None", "true",
    "\x00", "\x1b[31mred\x1b[0m", "\ufeff", "\u202e", "é", "'; import os", "__import__('os').mkdir('executed')",
    "../../escaped", "/etc/passwd", "a" * 200_000, "%s%n", "{}", "[]", "\r", "\t", "\"", "\u2028", "\x85",
)  # fmt: skip
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**70, 10**400, 0.5, -0.0, 1e308, 1e-320, "", "x", "../../escaped", "\x1b[2J",
    "\ud800", "edpcnn\n", [], {}, [[]], {"a": {}}, "9" * 5000, [0] * 10_000, {"__class__": "os.system"}, "a" * 100_000,
)  # fmt: skip
LITERALS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"[" * 100_000,
    b"-",
    b"\xff",
    b"'x'",
    b"{" * 9,
)


def pick(rng: Rng, choices: Any) -> Any:
    """Draw one of a sequence, as it is."""
    return choices[int(rng.integers(len(choices)))]


def _span(data: bytes, rng: Rng) -> tuple[int, int]:
    begin = int(rng.integers(len(data) + 1))
    return begin, min(len(data), begin + int(rng.integers(1, 65)))


def flip_bits(data: bytes, rng: Rng) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def set_bytes(data: bytes, rng: Rng) -> bytes:
    """Overwrite a span with noise."""
    begin, end = _span(data, rng)
    return data[:begin] + rng.bytes(end - begin) + data[end:]


def set_number(data: bytes, rng: Rng) -> bytes:
    """Overwrite a number of 1 to 8 bytes, in either order of bytes, with one at the edge of its range."""
    size, order = pick(rng, (1, 2, 4, 8)), pick(rng, ("little", "big"))
    value = (pick(rng, EDGES) % 256**size).to_bytes(size, order)
    begin = int(rng.integers(max(1, min(len(data), pick(rng, (64, 400, 10**9))) - size + 1)))
    return data[:begin] + value + data[begin + size :]


def set_float(data: bytes, rng: Rng) -> bytes:
    """Overwrite four or eight bytes with an extreme floating-point number."""
    kind = pick(rng, ("<f4", ">f4", "<f8", ">f8"))
    with np.errstate(over="ignore"):
        value = np.array(pick(rng, FLOATS)).astype(kind).tobytes()
    begin = 4 * int(rng.integers(max(1, min(len(data), pick(rng, (400, 10**9))) // 4)))
    return data[:begin] + value + data[begin + len(value) :]


def truncate(data: bytes, rng: Rng) -> bytes:
    """Cut the end off."""
    return data[: int(rng.integers(len(data) + 1))]


def extend(data: bytes, rng: Rng) -> bytes:
    """Add noise or zeros."""
    more = int(rng.integers(1, 5000))
    return data + (rng.bytes(more) if rng.integers(2) else bytes(more))


def remove(data: bytes, rng: Rng) -> bytes:
    """Take a span out."""
    begin, end = _span(data, rng)
    return data[:begin] + data[end:]


def repeat(data: bytes, rng: Rng) -> bytes:
    """Write a span several times."""
    begin, end = _span(data, rng)
    return data[:begin] + data[begin:end] * int(rng.integers(2, 50)) + data[end:]


def swap(data: bytes, rng: Rng) -> bytes:
    """Exchange two sections."""
    a, b, c = sorted(rng.integers(len(data) + 1, size=3).tolist())
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def zero(data: bytes, rng: Rng) -> bytes:
    """Overwrite a section with zeros, as a lost block of a disk."""
    begin, end = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:begin] + bytes(end - begin) + data[end:]


def noise(data: bytes, rng: Rng) -> bytes:
    """Nothing but noise."""
    return rng.bytes(int(rng.integers(0, 3000)))


BYTES: tuple[Damage, ...] = (
    flip_bits, flip_bits, set_bytes, set_number, set_number, set_float,
    truncate, extend, remove, repeat, swap, zero, noise,
)  # fmt: skip


def put_word(data: bytes, rng: Rng) -> bytes:
    """Write an odd word over a word, or beside one."""
    words = data.split(b" ") if rng.integers(2) and b" " in data else data.replace(b"\n", b"\n,").split(b",")
    place = int(rng.integers(len(words)))
    word = pick(rng, WORDS).encode("utf-8", "surrogatepass")
    words[place] = word if rng.integers(2) else words[place] + word
    return (b" " if b" " in data and b"," not in data else b",").join(words).replace(b"\n,", b"\n")


def change_lines(data: bytes, rng: Rng) -> bytes:
    """Remove, repeat or exchange lines."""
    lines = data.splitlines(keepends=True) or [b""]
    place, other = rng.integers(len(lines), size=2).tolist()
    match int(rng.integers(4)):
        case 0:
            del lines[place]
        case 1:
            lines[place:place] = [lines[other]] * int(rng.integers(1, 5000))
        case 2:
            lines[place], lines[other] = lines[other], lines[place]
        case _:
            lines[place] = lines[place].rstrip(b"\n")
    return b"".join(lines)


def long_line(data: bytes, rng: Rng) -> bytes:
    """Add a line of two megabytes."""
    filling = pick(rng, (b" ", b"1", b"1 ", b"a", b",", b'"', b":", b"\t", b"("))
    line = filling * (2_000_000 // len(filling))
    return data + line if rng.integers(2) else line + b"\n" + data


def encode(data: bytes, rng: Rng) -> bytes:
    """Write the text in another encoding."""
    return data.decode().encode(pick(rng, ("utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037")))


TEXT: tuple[Damage, ...] = (put_word, put_word, put_word, change_lines, long_line, encode)


def change_json(data: bytes, rng: Rng) -> bytes:
    """Replace, remove or add one value somewhere in a JSON document."""
    document = json.loads(data)
    holder, key = pick(rng, _places(document))
    match int(rng.integers(8)):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[pick(rng, ("more", "", "\x1b[2J", "a" * 10_000, "settings"))] = pick(rng, LEAVES)
        case 2:
            holder[key] = "@@"
            return json.dumps(document).encode().replace(b'"@@"', pick(rng, LITERALS))
        case 3:
            holder[key] = pick(rng, _places(document))[0]
            holder[key] = json.loads(json.dumps(holder[key], default=str)) if not _cyclic(document) else None
        case _:
            holder[key] = pick(rng, LEAVES)
    return json.dumps(document).encode()


def _cyclic(document: Any) -> bool:
    try:
        json.dumps(document)
    except (ValueError, RecursionError):
        return True
    return False


def other_json(data: bytes, rng: Rng) -> bytes:
    """Write another document altogether."""
    depth = int(rng.choice([10, 900, 1100, 100_000]))
    nested = b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth
    return pick(
        rng, (*nested, *(json.dumps(leaf).encode() for leaf in LEAVES), data + data, b'{"a": 1, "a": 2}')
    )


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return every (holder, key) of a document, weighted towards its top."""
    keys = list(document) if isinstance(document, dict) else range(len(document))
    below = [document[key] for key in keys if isinstance(document[key], (dict, list)) and document[key]]
    return [(document, key) for key in keys] * 2 + [place for part in below for place in _places(part)]


JSON: tuple[Damage, ...] = (change_json, change_json, change_json, other_json)
