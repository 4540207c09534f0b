"""Names in single backticks, as docstrings have them: ``FitQuality`` is found wherever it is documented.

What is not documented at all stays a warning, but for the package's own modules, which are read in the source.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def _resolve(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    target = node["reftarget"]
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.rpartition(".")[2] == target or name == target]
    if found:
        name = min(found, key=len)
        entry = domain.objects[name]
        return nodes.reference(
            "", "", content, internal=True,
            refuri=app.builder.get_relative_uri(node["refdoc"], entry.docname)
            + f"#{entry.node_id}",
        )  # fmt: skip
    is_module = target.startswith("ndgrad.") and importlib.util.find_spec(target) is not None
    return content if is_module else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Look for short names after Sphinx has not found them."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
