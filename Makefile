# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needs Python 3.11 or newer and make; PYTHON=python3.12 picks another interpreter.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

.PHONY: setup demo test test-quick lint types format clean help

help:            ## show the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23.2"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

setup: $(VENV)/.ready   ## make .venv with everything for development

demo: $(VENV)/.ready    ## phantoms -> train -> prune -> compact -> export -> score -> report (<= 6 minutes)
	$(BIN)/pneumonia demo --out $(OUT)

lint: $(VENV)/.ready    ## ruff, and the Python 3.6 zone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready   ## mypy --strict
	$(BIN)/mypy

test: lint types        ## lint, types and all tests (<= 10 minutes)
	$(BIN)/pytest -n 2 --dist loadgroup

test-quick: $(VENV)/.ready   ## the fast tests only
	$(BIN)/pytest -q -m "not slow"

format: $(VENV)/.ready  ## let ruff format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove caches and the demo's output
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis $(OUT)
