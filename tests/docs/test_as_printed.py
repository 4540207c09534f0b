import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def as_printed():
    spec = importlib.util.spec_from_file_location("as_printed", ROOT / "docs" / "as_printed.py")
    module = sys.modules["as_printed"] = importlib.util.module_from_spec(spec)  # where dataclasses look
    spec.loader.exec_module(module)
    yield module
    del sys.modules["as_printed"]


PAGE = """text
```sh
make compare
make test  # all of it
make tests
```
<!-- not run here: takes an hour -->
```sh
for seed in 0 1; do
  train $seed
done
```
```python
x = 1
```
```json
{}
```
"""


def test_blocks_are_found_with_their_language_and_reason(as_printed):
    found = as_printed.blocks(PAGE)
    assert [(block.language, block.reason) for block in found] == [
        ("sh", None),
        ("sh", "takes an hour"),
        ("python", None),
    ]
    assert found[1].code == "for seed in 0 1; do\n  train $seed\ndone\n"


def test_a_short_run_leaves_out_the_suite(as_printed, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    as_printed.shorten(page)
    assert as_printed.blocks(page.read_text())[0].code == "make compare COMPARE=--quick\nmake tests\n"


def test_every_fence_of_the_pages_is_a_block(as_printed):
    for page in (as_printed.README, as_printed.FRONT_PAGE):
        text = (ROOT / page).read_text()
        fences = [line for line in text.splitlines() if line in ("```sh", "```python", "```{testcode}")]
        assert len(as_printed.blocks(text)) == len(fences) > 1


def test_a_block_that_fails_is_named(as_printed, tmp_path):
    (tmp_path / "README.md").write_text("```sh\ntrue\n```\n```sh\nfalse\n```\n")
    with pytest.raises(as_printed.FailedError, match=r"status 1 of\n    false"):
        as_printed.check_readme(tmp_path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["readme", "tutorial"])
def test_what_is_printed_runs_in_an_empty_folder_and_a_fresh_environment(part):
    command = [sys.executable, ROOT / "docs" / "as_printed.py", "--only", part, "--short"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert f"{part}: every block ran" in ran.stdout
