# `make demo` runs the main job, `make test` the tests; both make their own environment first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")

.PHONY: setup demo test check bench gpu-check

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python $(FIND_LINKS) --constraint constraints.txt --editable '.[dev]'; \
	else \
	  "$(PYTHON)" -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet $(FIND_LINKS) --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $@

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m sharded_fc.kernels.compile_check
	$(BIN)/python -m trainer.layers.kernels.compile_check

bench: setup
	$(BIN)/python -m tests.benchmarks

gpu-check: setup
	$(BIN)/python -m tests.gpu_check

# The main job at laptop size, in demo/ and runs/demo: made-up faces, a 2-worker Ray job, a report.
FACESCALE := $(BIN)/facescale
DEMO := PATH="$(CURDIR)/$(BIN):$$PATH"; set -e; say() { echo; echo "== $$*"; "$$@"; }

demo: setup
	@rm -rf demo runs/demo
	@$(DEMO); trap 'facescale cluster down --now >/dev/null' EXIT; \
	say facescale data synth demo/verify --identities 150 --images 8 --size 48 --first-identity 100000 --pairs 3000 --workers 2; \
	say facescale data synth demo/train --identities 1000 --images 16 --size 48 --workers 2; \
	say facescale baselines demo/verify demo/train; \
	say facescale submit trainer/recipes/demo.yaml; \
	say facescale wait demo --timeout 600; \
	say facescale verify runs/demo demo/verify; \
	echo; echo "The network's accuracy is on people it never saw; compare it with the baselines above."; \
	echo "report: runs/demo/report.html   metrics: runs/demo/metrics/"
