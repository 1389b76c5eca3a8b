# vita-train's verbs. The environment lives in .venv and is made once; edit pyproject.toml and it is made again.

# The Python to make the environment with; empty takes the first of the usual names that runs and is new enough.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo smoke test test-all test-cluster test-slurm test-node lint docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make the environment in .venv

demo: $(READY) ## Train a small omni model from raw data to spoken answers (some 40 minutes)
	$(BIN)/vita-train run tiny

smoke: $(READY) ## Run every stage for a few steps (about 2 minutes)
	$(BIN)/vita-train run smoke --force

test: $(READY) ## Run the tests
	$(BIN)/python -m pytest -n 2 -m "not slow and not cluster and not slurm" --durations=60

test-all: $(READY) ## Run the tests, the slow ones too
	$(BIN)/python -m pytest -n 2 -m "not cluster and not slurm and not images and not node"

test-cluster: $(READY) ## Build a Kubernetes control plane (needs Go, once some ten minutes) and run the tests on it
	tests/cluster/build.sh
	$(BIN)/python -m pytest -m cluster -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# The tests on a SLURM of this machine; needs slurmctld, slurmd, slurm-client and munge.
test-slurm: $(READY)
	$(BIN)/python -m pytest -m slurm --durations=10

# Not among the listed: it needs root, podman, runc and debootstrap (CONTRIBUTING.md).
test-node: $(READY)
	tests/cluster/build.sh node
	$(BIN)/python -m tests.images.build_all
	tests/cluster/in_namespaces.sh $(BIN)/python -m pytest -m node

lint: $(READY) ## Check style, types, import directions and the compiled pipelines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python pipelines/compile.py --check
	$(BIN)/python tools/error_codes.py --check
	$(BIN)/python tools/reference.py --check
	$(BIN)/python tools/lock --check

# Not among the listed: for whoever changes the documentation. The site lies in build/site.
docs: $(READY)
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

clean: ## Remove the environment and the caches; runs are kept
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

$(READY): pyproject.toml requirements.lock images/build.lock tools/install
	tools/install "$(PYTHON)" $(VENV)
	@touch $@
