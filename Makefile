# Two commands matter: `make demo` shows what Remelt does, `make test` shows that it does it.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint format up clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ \t/' | expand -t 12

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Remelt needs Python 3.11, 3.12 or 3.13; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing (about two minutes, once) ..."
	$(INSTALL) --editable '.[embedded,demo]'
	@touch $@

.venv/.test: .venv/.demo
	@echo "installing what the tests need ..."
	$(INSTALL) --editable '.[embedded,demo,test,lint]'
	@touch $@

demo: .venv/.demo  ## recycle a real pool of checkpoints, end to end, in minutes
	$(BIN)/python -m workers.demo.run $(if $(pool),--pool $(pool)) $(if $(suites),--suites $(suites)) $(ARGS)

test: .venv/.test  ## install, lint and run every test that can run here
	$(MAKE) lint
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.test  ## put the code in its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: .venv/.demo  ## servers, workers and dashboard on this machine
	$(BIN)/remelt up

clean:  ## remove the environment and caches (not what you trained or searched)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
