# One command each, from a fresh clone: they make .venv themselves.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check docs format clean

demo: .venv/installed
	$(BIN)/mahalad demo -o demo

# The whole suite: formatter, linter, types and tests, in a process a core. `make check` is another name for it.
test: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: test

# The documentation, in site/. Nothing is fetched; a warning is an error.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html"

format: .venv/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-docs: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@ .venv/installed

.venv/installed-test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ .venv/installed .venv/installed-docs

clean:
	rm -rf .venv demo site build *.egg-info .mypy_cache .pytest_cache .ruff_cache
