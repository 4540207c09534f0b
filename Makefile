# Each target is complete on a machine with Python >= 3.11, pip and make. An existing .venv is reused.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# one thread per process: two test processes share two cores, and OpenMP waits badly on a busy machine
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

# options of the comparison: make compare COMPARE=--quick
COMPARE :=

.PHONY: compare test quick lint types contracts coverage docs clean

compare: $(INSTALLED)
	$(BIN)/python -m benchmarks.compare_estimators $(COMPARE)

test: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

coverage: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing tests ndgrad --ignore tests/lv_dp --ignore tests/benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

contracts: $(INSTALLED)
	$(BIN)/lint-imports

# the site in docs/_build/html; its figures and tutorials are run, and then what the pages print is compared
docs: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m sphinx -W --keep-going -n -d docs/_build/doctrees -b html docs docs/_build/html
	$(TEST_ENV) $(BIN)/python -m sphinx -W --keep-going -q -d docs/_build/doctrees -b doctest docs docs/_build/doctest

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11) and 'ndgrad needs Python 3.11 or newer; type make PYTHON=python3.11')"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

clean:
	rm -rf docs/_build docs/generated
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache results
