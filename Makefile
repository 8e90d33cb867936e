# Needs Python 3.11 or newer and make; nothing else. Every target works alone on a fresh clone.
#   PYTHON=python3.12   another interpreter      VENV=.venv-3.12   another environment beside the first
#   EXTRAS=cuda13       extras of pyproject      PYTEST_ARGS=...   added to pytest's command line

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
PYTEST_ARGS ?=
PYTEST_WORKERS ?= 2
# worksteal leaves the tests of a module together, with what they share compiled once
workers := -n $(PYTEST_WORKERS) --dist worksteal
BENCHMARKS ?= $(wildcard benchmarks/*.py)

empty :=
comma := ,
extras := $(subst $(empty) $(empty),$(comma),$(strip $(EXTRAS)))
bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check
python_asked := $(filter-out file default undefined,$(origin PYTHON))

# One stamp per set of extras; "core" is none. A stamp older than pyproject.toml or constraints.txt is made again.
installed := $(VENV)/.installed-$(or $(extras),core)
installed_dev := $(VENV)/.installed-dev$(addprefix $(comma),$(extras))
installed_bench := $(VENV)/.installed-dev,bench$(addprefix $(comma),$(extras))

.DEFAULT_GOAL := help
.PHONY: help install run test test-workflows test-slow test-gpu test-slurm test-browser check docs bench lock clean FORCE
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(installed) ## create .venv and install vtrial with pinned versions [EXTRAS=cuda13] [PYTHON=...]
	@echo "vtrial is installed: $(bin)/vtrial"

run: $(installed) ## install, then run the default experiment (experiments/lgsoc.yaml)
	$(bin)/vtrial run experiments/lgsoc.yaml

test: $(installed_dev) ## install, then the fast tests
	$(bin)/python -m pytest $(workers) -m "not slow and not workflow and not gpu and not slurm and not browser" $(PYTEST_ARGS)

test-workflows: $(installed_dev) ## the tutorial, notebooks, kill and resume: whole workflows, a minute each
	$(bin)/python -m pytest $(workers) -m "workflow and not slow" $(PYTEST_ARGS)

test-slow: $(installed_dev) ## the statistical tests that take minutes each
	$(bin)/python -m pytest -m "slow and not gpu and not slurm and not browser" $(PYTEST_ARGS)

test-gpu: $(installed_dev) ## the tests that need a CUDA device (EXTRAS=cuda13)
	$(bin)/python -m pytest -m gpu $(PYTEST_ARGS)

test-slurm: $(installed_dev) ## a sweep on a real Slurm: one that answers, or one set up for it (root on Debian)
	tests/slurm/with_slurm $(bin)/python -m pytest -m slurm $(PYTEST_ARGS)

test-browser: $(installed_dev) ## the page of a run in a real browser: Debian's chromium (installed where root can)
	tests/browser/with_chromium $(bin)/python -m pytest -m browser tests/browser $(PYTEST_ARGS)

check: $(installed_dev) ## lint, formatting, types, direction of imports
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(bin)/pyright --pythonpath $(bin)/python
	$(bin)/lint-imports --no-cache

docs: $(VENV)/.installed-docs ## the docs as a site, strictly, from disk alone: build/docs/site/index.html
	$(bin)/python docs/build_site.py

bench: $(installed_bench) ## every file of benchmarks/, one after another
	@$(if $(BENCHMARKS),set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(bin)/python $$file; done,echo "no benchmarks yet")

# hatchling is pinned beside the dependencies because the package is built without isolation.
lock: $(installed) ## refresh constraints.txt to the newest versions that fit together
	$(pip) install --quiet uv
	printf 'hatchling\n' | $(bin)/uv pip compile pyproject.toml - --all-extras --upgrade --universal \
	  --python-version 3.11 --strip-extras --no-header --no-annotate --quiet --output-file constraints.txt
	@if grep -nE '://|^-' constraints.txt; then echo "constraints.txt must hold names and versions only" >&2; exit 1; fi
	@echo "constraints.txt is refreshed; run make test, then make check"

clean: ## remove environments, caches and build outputs; runs/ stays
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find vtrial tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.installed-%: pyproject.toml constraints.txt $(VENV)/.python
	@echo "installing vtrial$(if $(filter-out core,$*), [$*]) and its pinned dependencies into $(VENV), about a minute ..."
	@$(pip) install --quiet --constraint constraints.txt hatchling
	@$(pip) install --quiet --constraint constraints.txt --no-build-isolation --editable '.$(if $(filter-out core,$*),[$*])'
	@touch $@

# The environment is made once, and anew only where PYTHON was given and is of another version than the one inside.
python_version = $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
python_fits = $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null)

$(VENV)/.python: $(if $(python_asked),FORCE)
	$(if $(filter True,$(python_fits)),,$(error vtrial needs Python 3.11 or newer, but $(PYTHON) $(if $(python_version),is $(python_version),does not run); name another one: make ... PYTHON=python3.12))
	@if [ "$$(cat $@ 2>/dev/null)" = "$(python_version)" ]; then exit 0; fi; \
	$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot create an environment; on Debian: apt install python3-venv" >&2; exit 1; }; \
	echo "$(python_version)" > $@

FORCE:
