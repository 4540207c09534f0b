"""What the pages of results share: reading a stored result, saying how it was made, tables and lists of Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results"
Cells = Sequence[object]


def made(command: str, name: str, d: dict[str, Any]) -> str:
    """Say how the numbers came about."""
    versions = ", ".join(f"{key} {value}" for key, value in d["versions"].items())
    threads = f", {d['threads']} thread" if "threads" in d else ""
    return f"```sh\n{command}\n```\n\n{{.made}}\n`benchmarks/results/{name}.json`; {d['device']}{threads}; {versions}."


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def join(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def table(head: Cells, rows: Iterable[Cells]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(cell: object) -> str:
    text = re.sub(r"\s+", " ", str(cell)).replace("|", "\\|")
    return text.replace(" ± ", "\u00a0±\u00a0")  # a number and its deviation stay on one line


def plain(text: str) -> str:
    """Keep what looks like a marker of Markdown as it is."""
    return re.sub(r"([*_<\[])", r"\\\1", text)


def spread(values: Sequence[float], digits: int) -> str:
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def listed(values: Iterable[object]) -> str:
    return ", ".join(str(value).replace("_", "\\_") for value in values)


def budgets(c: dict[str, Any]) -> str:
    return listed([*c["evaluations"], *(f"{f:g} n" for f in c["fractions"])])
