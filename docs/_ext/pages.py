"""Writes the pages that are read from elsewhere before Sphinx reads its sources.

Results come from benchmarks/results/*.json, command lines from the parsers' own ``--help``: nothing of either is typed.
"""

from __future__ import annotations

from pathlib import Path

import commands
import result_pages
from sphinx.application import Sphinx


def write(app: Sphinx) -> None:
    """Write every generated page; one whose text is the same is left alone, so that it is not built again."""
    folder = Path(app.srcdir) / "generated"
    for name, text in (result_pages.pages() | commands.pages(folder)).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text or name.startswith("cli/"):
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write before the sources are looked for."""
    app.connect("builder-inited", write, priority=100)
    return {"parallel_read_safe": True}
