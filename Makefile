# Everything that a contributor runs. `make` alone prints the targets.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
LANES := $(PYTHON) -m tests.lanes
# Longer campaigns are the same tests with more rounds.
ROUNDS ?= 10
ARGS ?=
# Every daemon and command would compile what it imports, at each start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup vm-kernels demo dashboard test test-host soak bench lint proto clean

help: ## Print these lines
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Install Debian packages, the virtual environment and the build (as root; safe to repeat)
	@.ci/setup

vm-kernels: setup ## Get QEMU and the kernels that the tests boot (as root; safe to repeat)
	@.ci/kernels

demo: setup ## Run an agent that does honest work and then turns hostile (as root; ARGS=--json)
	@$(PYTHON) -m tests.demo $(ARGS)

test: vm-kernels ## Run every test, linters and two kernels included (as root; ARGS="-k name" for some)
	@$(LANES) $(ARGS)

test-host: setup ## Run every test but those that boot a kernel (as root)
	@$(LANES) -m "not vm" $(ARGS)

soak: vm-kernels ## Run every test with ROUNDS=10 times the rounds (as root)
	@STOCKADE_ROUNDS=$(ROUNDS) $(PYTEST) --timeout 14400 $(ARGS)

bench: setup ## Measure against bare runc and bare wires on this host (as root; ARGS=--json)
	@$(PYTHON) -m tests.bench $(ARGS)

lint: setup ## Run the style tests alone
	@$(PYTEST) tests/style $(ARGS)

dashboard: setup ## Write docs/monitoring/dashboard.json anew, from the code beside it
	@$(PYTHON) docs/monitoring/dashboard.py

proto: setup ## Generate supervisor/v1 from proto/ again
	@.ci/proto .

clean: ## Remove what the build and the tests left in this folder
	@rm -rf .venv .output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache \
		dist build cell/.output probes/.output \
		supervisor/audit/native/.output
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
