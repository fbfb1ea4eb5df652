# Every target sets up .venv when it is missing or older than pyproject.toml or constraints.txt.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt

.PHONY: help setup reproduce test lint bench notebooks gallery

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

setup: .venv/.stamp  ## install everything but the cluster extra into .venv

reproduce: .venv/.stamp  ## grow transformers on in-context Markov chains; figure and report card in runs/
	$(BIN)/probelab reproduce markov --preset quick $(ARGS)

# One thread per process: sums must not depend on the number of cores, and two workers share two cores.
test: .venv/.stamp  ## the fast tests; ARGS='-m slow' for the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.stamp  ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/.stamp  ## the speed ratios of benchmarks/
	$(BIN)/python -m benchmarks $(ARGS)

notebooks: .venv/.stamp  ## JupyterLab on notebooks/
	$(BIN)/python -m jupyter lab notebooks

gallery: .venv/.stamp  ## redraw docs/gallery
	$(BIN)/python docs/gallery/make.py

.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python {sys.version.split()[0]} is too old: probelab needs 3.11 or newer. Try: make PYTHON=python3.12")'
	@rm -f $@
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv: a few minutes and about 2 GB, once."
	@# torch first, alone: the pin then decides which build of it everything else finds.
	$(PIP) torch
	$(PIP) --editable '.[notebooks,png,dev]'
	@touch $@
