import re
from pathlib import Path

import pytest

pytest.importorskip("docutils.utils.math.latex2mathml", reason="needs the extra docs")
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder, pattern in (("docs", "*.md"), ("docs", "*.rst"), ("docs", "*.py"), ("ndgrad", "*.py"))
    for path in sorted((ROOT / folder).rglob(pattern))
    if not {"_build", "generated", "_ext"} & set(path.parts)
]


def formulas(path):
    text = re.sub(r"(?m)^# ?", "", path.read_text()) if "tutorials" in path.parts else path.read_text()
    found = re.findall(r":math:`([^`]+)`", text) + re.findall(r"\.\. math:: (.*?)\n\s*\n", text, re.S)
    if path.suffix == ".md":
        found += re.findall(r"\$\$(.+?)\$\$", text, re.S)
        found += re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$|```.*?```", "", text, flags=re.S))
    return [" ".join(formula.split()) for formula in found]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_formula_translates(path):
    for formula in formulas(path):
        assert tex2mathml(formula, as_block=True).startswith("<math")


def test_formulas_are_found():
    assert sum(len(formulas(path)) for path in SOURCES) > 150
