# make demo [ARGS="--quick"]   all of REALM on real text, with a report
# make test [ARGS="-k name"]   every test
# make lint                    formatter, linter, types
# Each sets .venv up first, when there is none or what it is made from has changed; then it starts at once.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MADE_FROM := setup.cfg pyproject.toml constraints.txt
EXTRAS ?= cpu,bm25,demo,explore,dev
READY := $(VENV)/.ready-$(EXTRAS)
ARGS ?=

.PHONY: demo test lint setup

demo: $(READY)
	@$(BIN)/realm-ds demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

setup: $(READY)

# The stamp is written last: an installation that was cut off is done again.
$(READY): $(MADE_FROM)
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: install Python 3.11 or newer, or name it: make PYTHON=python3" >&2; exit 1; }
	@echo "setting up $(VENV) (once; a few minutes, about 2 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $(READY)
