PYTHON ?= python3
SEED ?= 0
ENGINE ?= transformers
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seeds demo-table test test-all test-openenv coverage check bench-rollout bench-verifier bench-vllm bench-learner bench-store bench-sandbox bench-report soak clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the tested versions; done again when pyproject.toml or constraints.txt change

# Of torch's builds pip takes the one that the package index offers first; any of 2.13.0 will do.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY) ## train a tiny model to choose tools by preference: minutes on two cores; ENGINE=vllm samples with that
	$(BIN)/python examples/demo/demo.py --seed $(SEED) --engine $(ENGINE)

demo-seeds: $(READY) ## the demo with three seeds, and the tables of examples/demo/results/
	$(BIN)/python examples/demo/seeds.py --run 0 1 2 --engine $(ENGINE)

demo-table: $(READY) ## rebuild those tables from the results of each run
	$(BIN)/python examples/demo/seeds.py

# Where vLLM cannot be installed, this says so, and the tests that need it are left out. Remove the file to try again.
.venv/.vllm: $(READY)
	$(BIN)/python tests/setup_vllm.py

# The same for the browser that the tests of the report's page look at it with.
.venv/.browser: $(READY)
	$(BIN)/python tests/setup_browser.py

# On all cores, but those with vLLM, which computes on all of them itself, one after the other.
test: .venv/.vllm .venv/.browser ## run the tests, without the slow ones
	$(BIN)/python -m pytest -m 'not slow and not vllm' --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest -m 'not slow and vllm'

test-all: .venv/.vllm .venv/.browser ## run all tests
	$(BIN)/python -m pytest

# openenv wants another version of mcp than this project, and therefore has an environment of its own.
.venv/openenv/.ready: | $(READY)
	$(PYTHON) -m venv .venv/openenv
	.venv/openenv/bin/python -m pip install --quiet openenv==0.10.0
	touch $@

test-openenv: .venv/openenv/.ready ## play what `serve-env` serves with OpenEnv's own client
	OPENENV_PYTHON=$(CURDIR)/.venv/openenv/bin/python $(BIN)/python -m pytest tests/remote/test_openenv_client.py

coverage: $(READY) ## run the tests and show the lines that none of them reaches
	$(BIN)/python -m pytest -m 'not slow' --cov --cov-report=term-missing:skip-covered

check: $(READY) ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

bench-rollout: $(READY) ## measure episodes a second; writes runs/bench/rollout.json
	$(BIN)/python tests/benchmarks/bench_rollout.py

# What the benchmarks compare with, installed beside the rest.
.venv/.peers: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	touch $@

bench-verifier: .venv/.peers ## judge the math verifier beside math-verify; DATA=folder adds the cases in there
	$(BIN)/python tests/benchmarks/bench_verifier.py $(if $(DATA),--data $(DATA))

bench-vllm: .venv/.vllm ## measure rollouts on vLLM beside vLLM alone, and 200 weight updates
	$(BIN)/python tests/benchmarks/bench_vllm.py

bench-learner: .venv/.peers ## a step of the learner beside TRL's, and beside what the machine can do: a quarter of an hour
	$(BIN)/python tests/benchmarks/bench_learner.py

bench-store: $(READY) ## evaluate and rescore a million generated trajectories: 5 minutes, 3 GB of disk for the while
	$(BIN)/python tests/benchmarks/bench_store.py

bench-sandbox: $(READY) ## measure snippets of Python; writes runs/bench/sandbox.json
	$(BIN)/python tests/benchmarks/bench_sandbox.py

bench-report: .venv/.browser ## the page of 5,000 trajectories: writing it, and until it can be used in Chromium
	$(BIN)/python tests/benchmarks/bench_report.py

soak: $(READY) ## disturb a run on Ray for two hours, and see what it leaves and whether its memory is flat; MINUTES=10
	$(BIN)/python tests/soak.py --minutes $(or $(MINUTES),120) --seed $(SEED)

clean: ## remove .venv, builds and caches; runs stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .coverage .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
