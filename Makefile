# Everything runs in an environment of the project's own; PYTHON names the interpreter it is made from.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 0
# How many processes run the tests.
JOBS ?= 2
BIN := $(VENV)/bin
BUILT := $(VENV)/.built

# The legs that this interpreter can run: PyPy has no compiled twin.
LEGS ?= $(shell $(PYTHON) -c 'import sys; print("compiled pure stdlib" if sys.implementation.name == "cpython" else "pure stdlib")')

.PHONY: run test lint types bench scaling instructions docs clean

run: $(BUILT)
	$(BIN)/python -m fastwsgi --bind 127.0.0.1:$(PORT)

test: $(VENV)/.test
	@set -e; for leg in $(LEGS); do echo "== leg: $$leg"; $(BIN)/python -m pytest -q -n $(JOBS) --leg=$$leg; done

lint: $(VENV)/.lint types
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint fastwsgi fastwsgi/*.pxi

types: $(VENV)/.lint
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	@# Many lines, and of interest only if a public name is without a type.
	@report=$$(PYTHONPATH=. $(BIN)/pyright --pythonpath $(BIN)/python --verifytypes fastwsgi --ignoreexternal) \
	  || { echo "$$report"; exit 1; }

docs: $(VENV)/.docs
	$(BIN)/python -m docs.settings_reference --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(BUILT)
	$(BIN)/python -m fastwsgi.bench

scaling: $(BUILT)
	$(BIN)/python -m bench.scaling
# Needs valgrind and a C compiler. SAVE=--save writes what it counts to the baseline.
instructions: $(BUILT)
	$(BIN)/python -m bench.instructions $(SAVE)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

# In place and not installed: what runs is this checkout, and nothing of it is found from anywhere else.
$(BUILT): $(BIN)/python pyproject.toml setup.py fastwsgi/__init__.py $(wildcard fastwsgi/_speedups*.p?[xi])
	$(BIN)/python -m pip install -q --group build
	FASTWSGI_REQUIRE_SPEEDUPS=$(REQUIRE_SPEEDUPS) $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.test: REQUIRE_SPEEDUPS = 1
$(VENV)/.test: $(BUILT) pyproject.toml
	$(BIN)/python -m pip install -q --group test
	@touch $@

$(VENV)/.lint: $(BUILT) pyproject.toml
	$(BIN)/python -m pip install -q --group lint
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q --group docs
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info fastwsgi/*.so fastwsgi/_speedups.c .hypothesis .mypy_cache .pytest_cache .ruff_cache
