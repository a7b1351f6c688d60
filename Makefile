# `make quickstart` and `make test` need Python 3.10 to 3.13, gcc and the network for the first installation; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written last, so an interrupted installation is taken up again; older than pyproject.toml means install again.
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "PYTHON=python3.12 chooses the interpreter that makes $(VENV) (now: $(PYTHON))."

quickstart: $(STAMP)  ## train, deploy and measure a small network, then ResNet-18: about 5 minutes
	$(BIN)/subp quickstart

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest

clean:  ## remove the virtual environment and caches; results in runs/ stay
	rm -rf $(VENV) .pytest_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.10 to 3.13, or name yours: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "subp needs Python 3.10 to 3.13, but $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.11" >&2; exit 2; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || { echo "No C compiler was found, and TVM links with one: install gcc" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) could not make a virtual environment: install its venv module (Debian: apt install python3-venv)" >&2; exit 2; }
	$(BIN)/python -m pip install --editable '.[test]'
	@touch $@
