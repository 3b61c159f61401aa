# Short names for the commands a contributor types every day; `make help` lists them. Owns no logic: what has to pass
# before a change lands is .ci/run, which does not need this file.
#
#     make fast PYTHON=python3     # another interpreter than the checkout's .venv
#     make fast ARGS="-k ridge"    # words that go to pytest

PYTHON ?= .venv/bin/python
ARGS ?=
# The formatter of the dev extra, beside the interpreter; else the one on PATH.
CLANG_FORMAT ?= $(or $(wildcard $(dir $(PYTHON))clang-format),clang-format)
CPP_FILES = git ls-files '*.cpp' '*.h' '*.cu' '*.cuh'

.DEFAULT_GOAL := help
.PHONY: help build fast full lint format sanitize gpu docs overview

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## install the checkout for development, compiling the kernels
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

fast: ## run the fast tests
	$(PYTHON) -m pytest $(ARGS)

full: ## run all tests, the slow ones too
	$(PYTHON) -m pytest -m "" $(ARGS)

lint: ## check layout, lint and types; change nothing
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(CPP_FILES) | xargs $(CLANG_FORMAT) --dry-run -Werror
	$(PYTHON) -m mypy

format: ## bring Python, C++ and CUDA files into layout, and repair what ruff can
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(CPP_FILES) | xargs $(CLANG_FORMAT) -i

sanitize: ## run the CUDA kernels on the emulator under the address, undefined-behavior and thread sanitizers
	$(PYTHON) -m pytest -m "" tests/simt -k sanitizers $(ARGS)

gpu: ## build, test, sanitize and time on a machine with a GPU; ARGS="--quick" for less
	PYTHON=$(PYTHON) benchmarks/verify_gpu.sh $(ARGS)

docs: ## write docs/results.md and its figures anew from the records in docs/results
	$(PYTHON) -c "from pathlib import Path; \
	from dsclust.experiments import get_experiment; \
	from dsclust.experiments.results import write_page; \
	from dsclust.names import ExperimentName, words; \
	write_page(map(get_experiment, words(ExperimentName)), Path('docs/results.md'), Path('docs/results'))"

overview: runs/overview/labels.csv ## draw docs/overview.png from a run on scikit-learn's digits
	$(PYTHON) docs/overview.py $(<D)

runs/overview/labels.csv:
	$(PYTHON) -m dsclust fit --data digits --method bdsc --no-baselines --out $(@D)
