# `make` prints the targets. A fresh machine needs Python 3.11+ and, for `make test`, Debian packages
# (installed here when this user may, named when not).

PYTHON ?= python3.11
VENV ?= .venv
# Where torch comes from: empty for the default index. On a machine without a GPU set it to an
# index with CPU builds, such as TORCH_INDEX=--index-url=<index>; the rest comes from the default.
TORCH_INDEX ?=
# OpenVINO runs networks faster where there is no GPU; EXTRAS= leaves it out.
EXTRAS ?= $(if $(wildcard /dev/nvidia0),,[cpu])
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= 2
PACKAGES := dcmtk orthanc dicom3tools chromium postgresql

.DEFAULT_GOAL := help
.PHONY: help install install-test demo test check accept lint types peers docs clean

help: ## print the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt $(TORCH_INDEX) torch
	$(PIP) install --quiet -c constraints.txt -e '.$(EXTRAS)'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install --quiet -c constraints.txt -e '.[test,postgres]'
	@touch $@

install: $(VENV)/installed ## make .venv with everything the node needs

install-test: $(VENV)/installed-test ## the same with what the tests need

demo: install ## a phantom study through the whole line
	$(BIN)/limner demo

peers: ## install the system peers that the tests talk to
	@./.ci/peers $(PACKAGES)

check: install-test lint types ## lint, types and the fast tests, about two minutes
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not flow and not accept"

lint: install-test ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: install-test ## mypy, strict
	$(BIN)/mypy

test: install-test peers lint types ## everything that CI runs
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup -m "not accept" --durations=15

accept: install-test peers ## the long tables: every kill at every stage, whole trainings
	$(BIN)/python -m pytest -q -n $(JOBS) -m "accept"

docs: install ## make the pages that come from code
	$(BIN)/python -c "from pathlib import Path; from node.reasons import reasons_page; Path('docs/reasons.md').write_text(reasons_page())"
	$(BIN)/python -m node.dicom.conformance docs/conformance.md

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
