import importlib.util
import shutil
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, and a Chromium on the PATH")
VIEW = Path(__file__).parents[2] / "docs" / "view.py"
NAMES = ("chromium", "chromium-browser", "google-chrome", "headless-shell")


@pytest.fixture(scope="module")
def view():
    spec = importlib.util.spec_from_file_location("view", VIEW)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not (module.SITE / "index.html").exists():
        pytest.skip("the site is not built: make docs")
    return module


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser on the PATH: none of {', '.join(NAMES)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
def test_every_page_is_whole_at_every_width(view, browser):
    assert view.problems(browser) == []


@pytest.mark.slow
def test_search_finds_the_bypass(view, browser):
    assert any("DiffBypass" in title for title in view.search(browser, "DiffBypass"))
