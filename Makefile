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

bench: setup
	$(BIN)/python -m tests.benchmarks

gpu-check: setup
	$(BIN)/python -m pytest -m gpu tests

# The main job at laptop size, in demo/ and runs/demo: made-up faces, a 2-worker Ray job, a report.
FACESCALE := $(BIN)/facescale

demo: setup
	@rm -rf demo runs/demo
	@trap '$(FACESCALE) cluster down --now >/dev/null' EXIT; set -e; \
	echo "== drawing 100 people to verify on and 500 others to train on"; \
	$(FACESCALE) data synth demo/verify --identities 100 --images 10 --size 64 --first-identity 100000 --pairs 4000 --workers 2; \
	$(FACESCALE) data synth demo/train --identities 500 --images 20 --size 64 --workers 2; \
	echo "== what needs no network: accuracy of pixels, colours and eigenfaces"; \
	$(FACESCALE) baselines demo/verify demo/train; \
	echo "== a job of two workers: Ray, DALI, DeepSpeed, sharded head"; \
	$(FACESCALE) submit trainer/recipes/demo.yaml; \
	$(FACESCALE) wait demo --timeout 600; \
	echo "== the network on the unseen people"; \
	$(FACESCALE) verify runs/demo demo/verify; \
	echo "report: runs/demo/report.html  metrics: runs/demo/metrics/"
