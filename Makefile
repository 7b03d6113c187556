# `make help` lists the targets. Every target does its own set-up and says what it does.
VENV   := .venv
PYTHON := $(VENV)/bin/python
ARGS   ?=
# Tests run in so many streams side by side; 0: one after the other.
STREAMS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup run-local test test-runtimes faults fuzz lint format docs image bench clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Python environment and Docker Engine: installs what is missing
	@scripts/setup.sh python docker

run-local: ## the whole distributed computer here, with a demo job (ARGS="--no-demo --port 9001 …")
	@scripts/setup.sh runtime docker
	@$(PYTHON) -m sandbox_image.build
	@exec $(VENV)/bin/dcp-orchestrator local $(ARGS)

image: ## build the Evaluator image, print tag, id and size
	@scripts/setup.sh runtime docker
	@$(PYTHON) -m sandbox_image.build $(ARGS)

test: ## all tests, against real containers and the official npm client (ARGS="-k name" selects)
	@scripts/setup.sh python docker npm compiler faults postgres proxy runtimes
	@$(PYTHON) -m sandbox_image.build
	@$(PYTHON) -m pytest -n $(STREAMS) $(ARGS)

test-runtimes: ## only the tests of other runtimes, user namespaces and signed images; none may be skipped
	@scripts/setup.sh python docker runtimes
	@$(PYTHON) -m sandbox_image.build
	@DCP_TEST_RUNTIMES=require $(PYTHON) -m pytest tests/integration/runtimes $(ARGS)

faults: ## break parts for as long as stated (ten minutes, …), instead of a twentieth of it; needs root
	@scripts/setup.sh python docker npm faults
	@$(PYTHON) -m sandbox_image.build
	@$(PYTHON) -m pytest tests/faults --fault-scale 1 $(ARGS)

fuzz: ## feed every decoder with rubbish for ten minutes (ARGS="--minutes 1 --only kvin.parse")
	@scripts/setup.sh python
	@$(PYTHON) -m tests.fuzz $(ARGS)

bench: ## measure quickly, one after the other, ten minutes in all (B=cold_start measures one in full; ARGS="--output json")
	@scripts/setup.sh python docker npm
	@$(PYTHON) -m sandbox_image.build
ifdef B
	@$(PYTHON) -m benchmarks.$(B) $(ARGS)
else
	@set -e; for name in slice_overhead cold_start efficiency footprint worker_rate watching metering bank \
	    core_scaling scheduler versus_dcp_worker; do \
	    echo "== $$name"; $(PYTHON) -m benchmarks.$$name --quick $(ARGS); done
	@echo "== end_to_end"; $(PYTHON) -m benchmarks.end_to_end --slices 1000 $(ARGS)
endif

lint: ## ruff, mypy --strict, import walls
	@scripts/setup.sh python
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: ## let ruff format and mend the code
	@scripts/setup.sh python
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

docs: ## write the generated parts of docs/ (settings, metrics)
	@scripts/setup.sh python
	@$(PYTHON) -m scripts.write_docs

clean: ## remove caches and local state (asks the Worker's containers to go, too)
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m orchestrator.worker.docker_runtime.sweep || true; fi
	rm -rf .local build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the Python environment and npm packages
	rm -rf .venv tests/npm/node_modules
