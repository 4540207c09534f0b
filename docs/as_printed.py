"""Run what the README, the front page and the first tutorial print, as somebody would who has just arrived.

    python docs/as_printed.py
    python docs/as_printed.py --only tutorial --keep somewhere/

Each part gets a copy of the tracked files, an environment made by the commands that it prints itself, and an empty
folder to work in. A block below ``<!-- not run here: REASON -->`` is left out, and said so. ``--short`` leaves out the
lines ``make test``, and ``make compare`` compares few: for a run that is a test itself. Exits with 1 at the first
block that fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README, FRONT_PAGE = Path("README.md"), Path("docs/index.md")
TUTORIAL = Path("docs/tutorials/01_wrap_a_numpy_function.py")
_BLOCK = re.compile(
    r"^(?:<!-- not run here: (?P<reason>[^\n]+?) -->\n\n?)?```(?P<language>sh|python|\{testcode\})\n(?P<code>.*?)^```$",
    re.M | re.S,
)
_LANGUAGES = {"sh": "sh", "python": "python", "{testcode}": "python"}


@dataclass(frozen=True)
class Block:
    """A block of code as printed, and why it is not run, if it is not."""

    language: str  # sh or python
    code: str
    reason: str | None


class FailedError(Exception):
    """A block ended with a status other than 0."""


def blocks(text: str) -> list[Block]:
    """Find the blocks of commands and Python in a page."""
    found = _BLOCK.finditer(text)
    return [Block(_LANGUAGES[match["language"]], match["code"], match["reason"]) for match in found]


def shorten(page: Path) -> None:
    """Drop the lines that run the test suite from a page, and compare few tasks."""
    lines = page.read_text().splitlines(keepends=True)
    kept = "".join(line for line in lines if not re.match(r"make test\b", line))
    page.write_text(re.sub(r"^make compare\b", "make compare COMPARE=--quick", kept, flags=re.M))


def check_readme(checkout: Path, empty: Path) -> None:
    """Run the README's commands in the checkout, in order, and its Python, as one session, in the empty folder."""
    printed = _not_left_out(blocks((checkout / README).read_text()))
    for block in printed:
        if block.language == "sh":
            _run(block.code, ["bash", "-euo", "pipefail", "-c", block.code], checkout, checkout / ".venv")
    session = "\n".join(block.code for block in printed if block.language == "python")
    _run(session, ["python", "-c", session], empty, checkout / ".venv")


def check_tutorial(checkout: Path, empty: Path) -> None:
    """Install as the front page says, then run its example and the first tutorial, in the empty folder."""
    environment = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    for block in _not_left_out(blocks((checkout / FRONT_PAGE).read_text())):
        if block.language == "sh":
            _run(block.code, ["bash", "-euo", "pipefail", "-c", block.code], checkout, environment)
        else:
            _run(block.code, ["python", "-c", block.code], empty, environment)
    shutil.copy(checkout / TUTORIAL, empty)
    _run(f"{TUTORIAL}\n", ["python", TUTORIAL.name], empty, environment)


PARTS: dict[str, Callable[[Path, Path], None]] = {"readme": check_readme, "tutorial": check_tutorial}


def _not_left_out(printed: list[Block]) -> list[Block]:
    for block in printed:
        if block.reason:
            print(f"\nnot run, {block.reason}:\n{_indent(block.code)}", flush=True)
    return [block for block in printed if not block.reason]


def _run(shown: str, command: list[str], folder: Path, environment: Path) -> None:
    """Run a command in a folder as if the environment had been activated."""
    print(f"\nin {folder.name}:\n{_indent(shown)}", flush=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    variables |= {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "MPLBACKEND": "agg"}
    status = subprocess.run(command, cwd=folder, env=variables, check=False).returncode
    if status:
        raise FailedError(f"status {status} of\n{_indent(shown)}")


def _indent(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


def copy_tracked(target: Path) -> None:
    """Copy what git tracks, as it is in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def check(parts: list[str], folder: Path, short: bool = False) -> Iterator[str]:
    """Run each part in folders of its own, and yield its name when it is done."""
    for part in parts:
        checkout, empty = folder / part / "ndgrad", folder / part / "empty"
        empty.mkdir(parents=True)
        copy_tracked(checkout)
        if short:
            shorten(checkout / README)
        PARTS[part](checkout, empty)
        yield part


def main() -> int:
    """Run the parts asked for; 0 if all of it worked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(PARTS), help="one part; both by default")
    parser.add_argument(
        "--keep", type=Path, help="an empty folder to work in, kept; by default a temporary one"
    )
    parser.add_argument("--short", action="store_true", help="no `make test`, and a small comparison")
    options = parser.parse_args()
    parts = [options.only] if options.only else list(PARTS)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            for part in check(parts, options.keep or Path(temporary), options.short):
                print(f"\n{part}: every block ran")
        except FailedError as error:
            print(f"\nfailed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
