import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import pytest

import ndgrad

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "index.rst").read_text()
CHOOSING = (DOCS / "start" / "choosing.md").read_text()
FAILURES = (DOCS / "concepts" / "failures.md").read_text()
README = (DOCS.parent / "README.md").read_text()
ESTIMATORS = (*ndgrad.ESTIMATORS.values(), *ndgrad.WRAPPERS)
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "generated"} & set(path.parts))


def _own_public_members():
    """Every public function, class and method that is defined in ndgrad."""
    for info in pkgutil.walk_packages(ndgrad.__path__, "ndgrad."):
        module = importlib.import_module(info.name)
        yield info.name, module
        for name, item in vars(module).items():
            own = getattr(item, "__module__", None) == info.name and not name.startswith("_")
            if own and inspect.isfunction(item):
                yield f"{info.name}.{name}", item
            if own and inspect.isclass(item):
                yield f"{info.name}.{name}", item
                for key, member in vars(item).items():
                    function = member.fget if isinstance(member, property) else member
                    named = inspect.isfunction(function) and function.__name__ == key  # no field's default
                    if named and not key.startswith("_"):
                        yield f"{info.name}.{name}.{key}", function


def test_every_public_thing_has_a_docstring():
    members = dict(_own_public_members())
    assert len(members) > 200
    assert [
        name for name, item in members.items() if not (getattr(item, "__doc__", None) or "").strip()
    ] == []


SHAPE = re.compile(r"\((?:\.\.\., )?[BSRTDKNP]\b[^)]*\)|\(\.\.\.\)")  # (B, n), (R, ...)
CALLED = [
    name
    for name in ndgrad.__all__
    if callable(getattr(ndgrad, name))
    and not (inspect.isclass(getattr(ndgrad, name)) and issubclass(getattr(ndgrad, name), Exception))
    and not dataclasses.is_dataclass(
        getattr(ndgrad, name)
    )  # what a function returns, documented as attributes
]


@pytest.mark.parametrize("name", CALLED)
def test_what_a_user_calls_is_documented_with_shapes_errors_and_an_example(name):
    text = inspect.getdoc(getattr(ndgrad, name))
    assert "Raises:" in text
    assert ">>> " in text
    assert SHAPE.search(text), text


@pytest.mark.parametrize("name", ndgrad.__all__)
def test_the_reference_has_every_public_name(name):
    assert re.search(rf"\bndgrad\.{name}\b", REFERENCE)


def test_the_reference_has_no_name_twice():
    names = re.findall(r"^   (ndgrad\.\S+)$", REFERENCE, re.M)
    assert len(names) == len(set(names)) > 40


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_the_tables_of_estimators_have_every_one(cls):
    assert f"| {{py:class}}`~ndgrad.{cls.__name__}` |" in CHOOSING
    assert re.search(rf"^\| `{cls.__name__}\b", README, re.M)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_bias_and_variance_of_every_estimator_are_derived(cls):
    table, *sections = re.split(r"^## ", (DOCS / "concepts" / "bias_and_variance.md").read_text(), flags=re.M)
    assert f"{{py:class}}`~ndgrad.{cls.__name__}`" in table
    assert any(f"{cls.__name__}`" in section for section in sections)


def test_sections_that_tables_point_to_exist():
    for page in PAGES:
        text = page.read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.M)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors, page


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_who_can_skip_failures_is_said(cls):
    rows = [line for line in FAILURES.splitlines() if f"`{cls.__name__}`" in line and line.startswith("|")]
    assert len(rows) == 1
    refused = "is refused" in rows[0]
    assert refused == (cls.skips_failures is False)


def test_every_option_of_wrap_is_in_the_table_with_its_default():
    text = (DOCS / "concepts" / "evaluation.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", text, re.M))
    options = list(inspect.signature(ndgrad.wrap).parameters.values())[1:]
    assert list(rows) == [option.name for option in options]
    for option in options:
        default = repr(option.default).replace("'", '"')
        assert rows[option.name].replace("`", "").startswith(default), option


def test_every_benchmark_with_a_command_line_has_its_help_printed(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    listed = importlib.import_module("commands").BENCHMARKS
    sources = (DOCS.parent / "benchmarks").glob("*.py")
    assert sorted(listed) == sorted(path.stem for path in sources if "__main__" in path.read_text())


@pytest.mark.parametrize("name", ["overhead", "make_references"])
def test_help_is_printed_as_the_command_is_typed(name, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    printed = importlib.import_module("commands")._help([f"benchmarks.{name}"])
    assert printed.startswith(f"usage: python -m benchmarks.{name} [-h]")
    assert str(DOCS.parent) not in printed


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 10
    assert [link for link in links if not (DOCS.parent / link).exists()] == []


def test_every_figure_is_used_and_exists():
    used = {name for page in PAGES for name in re.findall(r"\.\. plot:: figures/(\S+)", page.read_text())}
    assert used == {path.name for path in (DOCS / "figures").glob("*.py")}


def test_pages_of_results_hold_the_numbers_of_the_files(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    pages = importlib.import_module("result_pages").pages()
    folder = importlib.import_module("result_parts").FOLDER
    errors = json.loads((folder / "descent_path.json").read_text())
    assert all(f"| {ratio:.3f} |" in pages["results/measured.md"] for ratio in errors["ratios"].values())
    verdicts = json.loads((folder / "peers.json").read_text())["verdicts"]
    better = sum(bool(verdict["peer_better"]) for verdict in verdicts)
    assert pages["results/peers.md"].count("| **yes** |") == better > 0
    assert all("nan" not in page for page in pages.values())
    named = {name for page in pages.values() for name in re.findall(r"benchmarks/results/(.*?)\.json`", page)}
    assert len(named) > 10
    assert sorted(name for name in named if not (folder / f"{name}.json").exists()) == []
