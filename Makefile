# Every target works from a fresh clone with Python 3.11 and pip: it first makes .venv, once.
#   make VENV=/path …     another environment      make PYTHON=python3.11 …   another Python to make it with
VENV   ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python)
ARGS   ?=

PY     := $(abspath $(VENV))/bin/python
PYTEST := $(PY) -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all test-fast lint lint-only format docs clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 \t/' | expand -t 22

setup:  ## make or update .venv (CPU or GPU packages, whichever fits the machine)
	@$(PYTHON) requirements/setup_env.py --venv $(VENV)

train: setup  ## the main job on the embedded default; ARGS="preset=mini_fast trainer.total_steps=5" changes settings
	@$(PY) launch/make_train.py $(ARGS)

test: setup lint-only  ## lint, types, unit, browser and integration tests, but for the slowest
	@echo "test: one process for those that start Ray and vLLM, one for all others"
	@$(PYTEST) -n 2 -m "not slow"

test-all: setup lint-only  ## as test, and the tests that take a minute or more each
	@$(PYTEST) -n 2

test-fast: setup  ## only what needs neither Ray nor vLLM nor a browser, under a minute
	@HYPOTHESIS_PROFILE=fast $(PYTEST) -n 2 -m "not integration and not browser"

lint: setup lint-only  ## ruff and mypy

lint-only:
	@echo "lint: ruff"
	@$(PY) -m ruff check --quiet .
	@echo "lint: mypy"
	@$(PY) -m mypy .

format: setup  ## lay out the code with ruff
	@$(PY) -m ruff format .

docs: setup  ## write docs/configuration.md from the dataclasses
	@$(PY) -m sake_ray.config.docs docs/configuration.md

clean:  ## remove .venv, caches and build folders (runs/ stays)
	rm -rf .venv .venv.lock .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
