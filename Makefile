# `make quickstart`, `make test` and `make lint` need Python 3.10 to 3.13, gcc, and the network for the first installation.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written last, so an interrupted installation is taken up again; older than pyproject.toml means install again.
STAMP := $(VENV)/installed
DOCS_STAMP := $(VENV)/docs_installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "PYTHON=python3.12 chooses the interpreter that makes $(VENV) (now: $(PYTHON))."

quickstart: $(STAMP)  ## train, deploy and measure a small network, then ResNet-18: one to three minutes
	$(BIN)/subp quickstart

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest

lint: $(STAMP)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_STAMP)  ## build the documentation, strictly: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo build/site/index.html

clean:  ## remove the virtual environment and caches; results in runs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null || \
		{ echo "Python 3.10 to 3.13 is needed and $(PYTHON) is not: try make PYTHON=python3.11" >&2; exit 2; }
	@command -v gcc >/dev/null || command -v cc >/dev/null || \
		{ echo "TVM links with a C compiler and there is none: install gcc (Debian: apt install gcc)" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) lacks its venv module (Debian: apt install python3-venv)" >&2; exit 2; }
	$(BIN)/python -m pip install --editable '.[test,lint]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@
