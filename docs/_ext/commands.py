"""One page for each command line, from what its parser prints for ``--help``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEART = ("train", "evaluate", "search", "compare", "segment", "export", "data", "reproduce")
BENCHMARKS = (
    "bypass_at_the_input",
    "compare_estimators",
    "descent_path",
    "dynamic_programming",
    "executors",
    "fuzz_loaders",
    "kill_and_resume",
    "left_ventricle_table",
    "make_references",
    "misplaced_contours",
    "overhead",
    "parameterised",
    "peers_speed",
    "peers_summary",
    "quadratic_sine_accuracy",
    "recommendations",
)


def pages(folder: Path) -> dict[str, str]:
    """Return the text of each page by its path; none where those in ``folder`` are younger than every parser."""
    pages = list((folder / "cli").glob("*.md"))
    sources = [path for name in ("applications", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    sources.append(Path(__file__))
    if pages and min(map(_time, pages)) > max(map(_time, sources)):
        return {}
    heart = [(f"python -m applications.lv_dp {name}", ["applications.lv_dp", name]) for name in HEART]
    bench = [(f"python -m benchmarks.{name}", [f"benchmarks.{name}"]) for name in BENCHMARKS]
    return {
        "cli/lv_dp.md": _page("Left ventricle: `python -m applications.lv_dp`", heart),
        "cli/benchmarks.md": _page("Benchmarks: `python -m benchmarks...`", bench),
    }


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _page(title: str, entries: list[tuple[str, list[str]]]) -> str:
    parts = [f"# {title}", "What each parser prints for `--help`, written here by the build."]
    for command, words in entries:
        parts += [f"## `{command}`", f"```text\n{_help(words)}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(words: list[str]) -> str:
    """Ask the parser itself, in a terminal as narrow as a page."""
    environment = os.environ | {"COLUMNS": "84", "TERM": "dumb", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    script = ROOT.joinpath(*words[0].split(".")).with_suffix(".py")
    text = done.stdout.replace(str(script), f"python -m {words[0]}")
    return text.replace(f"{ROOT}/", "").rstrip()  # defaults that lie in this checkout
