# Each target sets up .venv first, if what it is made of is newer than it.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP := pyproject.toml constraints.txt setup.py $(wildcard src/userbert/kernels/*.[ch])

.DEFAULT_GOAL := demo
.PHONY: demo docs check test test-all

# The main job on real data: raw logs to demo/report.html.
demo: .venv/.demo
	$(BIN)/userbert demo -o demo

# The pages as a site, build/docs/index.html; anew, as each of them holds the contents of all.
docs: .venv/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --write-all \
		-c docs . build/docs

check: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

# The fast tests.
test: .venv/.dev
	$(BIN)/pytest -n 2

# The slow ones, which train or read a whole log: one at a time, each with all cores.
test-all: .venv/.dev
	$(BIN)/pytest -m slow

.venv/.demo: $(SETUP) | .venv/.venv
	$(INSTALL) -e ".[demo]"
	touch $@

.venv/.docs: $(SETUP) | .venv/.venv
	$(INSTALL) -e ".[docs]"
	touch $@

# It holds all that the demo and the site need.
.venv/.dev: $(SETUP) | .venv/.venv
	$(INSTALL) -e ".[dev]"
	touch .venv/.demo .venv/.docs $@

.venv/.venv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python."; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@
