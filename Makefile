# Set-up, checks and builds. `make` alone lists the targets; ARGS reaches the command, as in
# `make test ARGS='-k drain'`.

PYTHON ?= python3
ARGS ?=
SECONDS ?= 300
#: One for another Python is made by `make test VENV=.venv-3.13 PYTHON=python3.13`.
VENV := .venv

BIN := $(VENV)/bin
#: Programs in scripts/ find the venv's Python and boilerd first.
IN_VENV := PATH="$(abspath $(BIN)):$$PATH"
#: No index and no link in what it writes: each machine installs from where it is told to.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

# Hundreds of daemons start in the tests; a shell that keeps Python from compiling once has each of them compile all.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo web run test check format generate screenshots cov chaos bench build lock install uninstall wheels clean

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.ready ## Make .venv from the locked requirements, with uv if it is there, else pip

demo: $(VENV)/.ready ## Start a daemon, enqueue a task and watch it run
	@$(IN_VENV) scripts/demo $(ARGS)

web: $(VENV)/.ready ## Start a daemon with sample work, and the web dashboard at 127.0.0.1:8383; PORT=… for another
	@$(IN_VENV) scripts/web

run: $(VENV)/.ready ## Run the daemon in the foreground
	@$(BIN)/boilerd run $(ARGS)

test: $(VENV)/.ready ## Run all tests
	@$(BIN)/pytest -n 6 $(ARGS)

check: $(VENV)/.ready ## Format, lint, types, layers, spelling, generated files; changes nothing
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/codespell
	@$(BIN)/python scripts/generate --check

format: $(VENV)/.ready ## Format the code and mend what the linter can
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

generate: $(VENV)/.ready ## Write again the files that follow from the code
	@$(BIN)/python scripts/generate

screenshots: $(VENV)/.ready ## Write the pictures of the dashboard in docs/web; ARGS=--all: of each page, in build/screenshots
	@$(BIN)/python scripts/screenshots $(ARGS)

cov: $(VENV)/.ready ## Run all tests under coverage and report the lines that none reached
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n 6 $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

chaos: $(VENV)/.ready ## Kill and cut at random for SECONDS=300, then count what was lost
	@$(IN_VENV) python scripts/chaos --seconds $(SECONDS) $(ARGS)

bench: $(VENV)/.ready ## Measure boilerd and its peers side by side; ARGS=--quick for a first look
	@$(IN_VENV) python scripts/bench $(ARGS)

build: $(VENV)/.ready ## Build the wheel and the sdist into dist/
	@$(BIN)/python -m hatchling build --clean

lock: ## Resolve the requirements files again; ARGS=--upgrade takes newer versions
	@command -v uv >/dev/null || { echo "make lock: needs uv on PATH" >&2; exit 1; }
	@$(COMPILE) $(ARGS) --extra web --output-file requirements.txt pyproject.toml
	@$(COMPILE) $(ARGS) --constraints requirements.txt --group dev --output-file requirements-dev.txt pyproject.toml
	@$(COMPILE) $(ARGS) --constraints requirements-dev.txt --group pyproject.toml:build --output-file requirements-build.txt
	@for peer in $(basename $(wildcard scripts/bench/requirements/*.in)); do $(COMPILE) $(ARGS) --output-file $$peer.txt $$peer.in; done

install: ## Install as a system service in /opt/boilerd; as root; ARGS=--dry-run tells what it does
	@scripts/install install $(ARGS)

uninstall: ## Take it away again, but for what was edited; ARGS=--purge: and the tasks
	@scripts/install uninstall $(ARGS)

wheels: ## Collect what an installation without a network needs, in dist/wheels
	@scripts/install wheels dist/wheels $(ARGS)

clean: ## Remove all that make made, .venv included
	@rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find daemon scripts tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.ready: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "boilerd needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing):" \
			"run scripts/debian-packages, or name another as in make PYTHON=python3.12" >&2; exit 1; }
	@if command -v uv >/dev/null; then $(WITH_UV); else $(WITH_PIP); fi
	@touch $@

# Both leave what is installed already alone, so that a second run is quick and needs no network.
define WITH_UV
set -e; echo "Installing into $(VENV) with uv"; \
$(BIN)/python -c '' 2>/dev/null || \
	uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt; \
uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
endef

define WITH_PIP
set -e; echo "Installing into $(VENV) with pip; the first time takes half a minute"; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "$(PYTHON) lacks venv or ensurepip: run scripts/debian-packages" >&2; exit 1; }; \
$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); \
$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.txt; \
$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
endef
