# `make` says what there is. Every target that needs the environment sets it up first.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
CODE := configs envs policies rejuvenation orchestrator tests benchmarks examples
PARTS := lint-code lint-format lint-types lint-imports fast-tests

# Nothing here talks to the network after set-up, and no library reports its use.
export RAY_USAGE_STATS_ENABLED := 0
export VLLM_NO_USAGE_STATS := 1
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export MPLBACKEND := Agg
export PYTHONUNBUFFERED := 1

# Engines, learner ranks and Ray share two cores in the tests: one thread each.
test test-slow: export OMP_NUM_THREADS := 1
test test-slow: export MKL_NUM_THREADS := 1

.PHONY: help setup demo test test-slow lint toy study-math study-tool study-auto bench bench-fusion bench-attribution bench-environments bench-processes bench-retail bench-intervals lock clean $(PARTS) slow-tests

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## build .venv from the pins (at once when it is up to date); PYTHON=python3.12 chooses the interpreter
	@PYTHON="$(PYTHON)" requirements/setup.sh

# $(call module,name,arguments): run a module of this checkout, or say that it is not there.
define module
	@path=$(subst .,/,$(1)); \
	if [ ! -f $$path.py ] && [ ! -f $$path/__main__.py ]; then \
		echo "make $@: $$path.py is missing from this checkout: there is nothing to run." >&2; exit 1; \
	fi
	@$(PY) -m $(1) $(2) $(ARGS)
endef

demo: setup ## the main job on both toys: diagnosed, rejuvenated, trained; QUICK=1: the same way with a few steps
	$(call module,examples.demo,$(if $(filter-out 0 no false,$(QUICK)),--quick))

toy: setup ## rebuild the toys' base and SFT checkpoints from code alone, in build/toy
	$(call module,examples.toy.build,math --out build/toy/math)
	$(call module,examples.toy.build,tool --out build/toy/tool)

study-math: setup ## every arm on the math toy over several seeds, with intervals; resumable; hours
	$(call module,examples.study,math)

study-tool: setup ## the same table on the tool-use toy
	$(call module,examples.study,tool)

study-auto: setup ## automatic alpha and rho against fixed settings after RL, on ladders and tasks the rule was not made on; resumable
	$(call module,examples.study_auto)

bench: setup ## throughput of rollout worker and learner against bare vLLM and bare torch
	$(call module,benchmarks.bench)

bench-fusion: setup ## seconds of fusing two 0.5B checkpoints against mergekit, and against cp and cat
	@requirements/setup.sh mergekit
	$(call module,benchmarks.fusion,--mergekit build/mergekit)

bench-attribution: setup ## scoring the target tokens of a pair at once against one at a time
	$(call module,benchmarks.attribution)

bench-environments: setup ## what tools that wait 50 ms add to the generation time of 512 episodes
	$(call module,benchmarks.environments)

bench-processes: setup ## what an environment in a process of its own costs: a step, the start, memory
	$(call module,benchmarks.processes)

bench-retail: setup ## milliseconds of resetting the retail service desk; ARGS=--path FOLDER: on tau-bench's data
	$(call module,benchmarks.retail)

bench-intervals: setup ## how often the intervals of an evaluation hold the truth, in simulations; minutes
	$(call module,benchmarks.intervals)

# All parts run, so that one failure does not hide another; pytest is last and its summary closes the output.
test: setup ## lint, format, types, import direction and the fast tests
	@mkdir -p build; failed=; \
	for part in $(PARTS); do \
		echo "--- $$part"; $(MAKE) $$part || failed="$$failed $$part"; \
	done; \
	echo; \
	if [ -n "$$failed" ]; then echo "make test FAILED in:$$failed"; else echo "make test passed: $(PARTS)"; fi; \
	tail -n 1 build/fast-tests.log; \
	test -z "$$failed"

test-slow: setup slow-tests ## the tests marked slow

lint: setup lint-code lint-format lint-types lint-imports ## ruff, format check, mypy, import-linter

lint-code:
	@$(PY) -m ruff check $(wildcard $(CODE))
lint-format:
	@$(PY) -m ruff format --check $(wildcard $(CODE))
lint-types:
	@$(PY) -m mypy
lint-imports:
	@.venv/bin/lint-imports --no-logo
fast-tests:
	@$(PY) -m pytest 2>&1 | tee build/fast-tests.log
slow-tests:
	@$(PY) -m pytest -m slow

lock: setup ## write requirements/cpu.txt from pyproject.toml, cpu.in, overrides.txt; ARGS=--upgrade renews all pins
	@requirements/setup.sh lock $(ARGS)

clean: ## remove caches and build products; .venv and runs stay
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find $(wildcard $(CODE)) -name __pycache__ -prune -exec rm -rf {} +
