# Every target sets up .venv first, with the exact versions that were tested (constraints.txt).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow arm-parity check format build clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## Set up .venv (once; again when the dependencies change)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[compress,dev]"
	@touch $@

demo: venv  ## Train a small network, compress it, and show what came out
	$(BIN)/edgekd demo demo

# Many processes are started: each compiles edgekd anew where Python may not keep the bytecode.
test test-slow: export PYTHONDONTWRITEBYTECODE =

test: venv  ## Run the tests (slow ones: make test-slow)
	$(BIN)/python -m pytest -q -m "not slow and not arm" -n auto --dist loadfile

test-slow: venv  ## Run the slow tests
	$(BIN)/python -m pytest -q -m slow

arm-parity: venv  ## Compare answers on emulated Cortex-A72 and A76 (downloads 160 MB once)
	$(BIN)/python -m pytest -q -s -m arm tests/scripts

check: venv  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: venv  ## Build the wheel and the sdist into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## Remove .venv and everything that was made
	rm -rf $(VENV) dist demo out .mypy_cache .ruff_cache .pytest_cache .hypothesis
