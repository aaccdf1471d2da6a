# Everything a person types. Each target does the set-up it needs.
#
#   make demo DEVICE=cuda PYTHON=/path/to/python3.11

DEVICE ?= cpu
PYTHON ?= python3.11
# pytest's processes; each of them loads torch (about half a GiB).
WORKERS ?= auto
ARGS ?=

BIN := .venv/bin
# Set-up is repeated when the pins, the project's metadata or its place change.
INPUTS := $(wildcard requirements/*.txt) pyproject.toml
KEY := $(shell { pwd; cat $(INPUTS); } | cksum | cut -d' ' -f1)
STAMP := .venv/.installed-$(DEVICE)-$(KEY)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One thread a test process: the processes share the cores, and results repeat exactly.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -ra -n $(WORKERS) --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv with everything pinned (DEVICE=cuda for GPUs)

$(STAMP):
	@case "$(DEVICE)" in cpu|cuda) ;; *) \
	  echo "DEVICE=$(DEVICE): use cpu or cuda" >&2; exit 2;; esac
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON): not found; install Python 3.11 or give PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON): $$("$(PYTHON)" --version 2>&1) is too old; give PYTHON=… of 3.11 or later" >&2; exit 2; }
	@# The two builds of fbgemm-gpu share a folder, a CPU torch satisfies the pin of cuda.txt, and
	@# scripts in .venv/bin know where it lies: another device or another place starts from nothing.
	@if [ -e .venv/.made-for ] && [ "$$(cat .venv/.made-for)" != "$(DEVICE) $$(pwd)" ]; then \
	  rm -rf .venv; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@echo "$(DEVICE) $$(pwd)" > .venv/.made-for
	@rm -f .venv/.installed-*
	@echo "Installing into .venv for $(DEVICE); the first time takes some minutes."
	$(PIP) -r requirements/$(DEVICE).txt -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -r requirements/torchrec.txt -e .
	@touch $(STAMP)

demo: setup ## simulate logs, train one model on all surfaces, metrics per surface (RAW=DIR: KuaiRand-Pure)
	@RAW="$(RAW)" scripts/demo.sh

test: setup ## the tests, without the slow ones (ARGS="-k name" for some)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: setup ## every test
	$(PYTEST) $(ARGS)

lint: setup ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff mend and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and what the demo made
	rm -rf demo .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find recsys tests torchx_apps scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf .venv
