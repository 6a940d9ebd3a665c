# Every target that uses Python depends on `setup`, so a fresh clone needs no other step.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
OUT ?= demo-out

export FLWR_TELEMETRY_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast reliability check format lock bench clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the locked dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Setting up $(VENV) (once; this downloads the dependencies)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	@touch $@

demo: setup ## Train on real measurements, print the comparison, say where report and MLflow are
	@$(BIN)/pharma-fl demo --out $(OUT) $(ARGS)

test: setup ## Run all tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 $(ARGS)

test-fast: setup ## Run the tests that take no more than seconds
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not e2e" $(ARGS)

reliability: setup ## Break a federation of real processes in every way, and write docs/reliability.md
	@PHARMA_FL_WRITE_PAGES=1 $(BIN)/python -m pytest -q -n 0 tests/deployment/test_reliability.py

check: setup ## Lint, types, import arrows
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_arrows.py tests/test_lock.py

format: setup ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## Resolve the dependencies anew and write constraints.txt
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet 'torch==2.13.0' --editable '.[demo,dev]'
	@{ echo "# Made by 'make lock': the versions that everything here was tested with."; \
		echo "hatchling==1.33.0"; \
		.venv-lock/bin/python -m pip freeze --exclude-editable \
			| sed -E 's/\+[a-z0-9.]+$$//' | grep -vE '^(nvidia|cuda|triton|cupy)'; } > constraints.txt
	@rm -rf .venv-lock

bench: setup ## Run the benchmarks that need neither a GPU nor a demo's output
	@for script in prepare step_time private_equals_plain; do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean: ## Remove what the targets made, but never a ledger
	rm -rf $(VENV) .venv-lock .mypy_cache .ruff_cache .pytest_cache .hypothesis
