"""Formulas as MathML, which browsers draw themselves: no script, no font and no network.

The translation from LaTeX is that of docutils.
"""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)


def _mathml(node: nodes.Element, block: bool) -> str:
    """Translate, or warn where the formula stands and show its source."""
    formula = " ".join(node.astext().split())
    try:
        return str(latex2mathml.tex2mathml(formula, as_block=block))
    except MathError as error:
        _LOG.warning("%s in %s", error, formula, location=node)
        return f"<code>{html.escape(formula)}</code>"


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_mathml(node, block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math-block"))
    translator.body.append(_mathml(node, block=True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which is then the only one."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer_name = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
