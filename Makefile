# Two commands: `make demo` sets everything up and runs a real search; `make test` passes the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint slow gpu gpu-suite benchmarks clean

demo: $(VENV)/installed
	$(BIN)/autofit EleutherAI/pythia-70m --effective-batch 8 --seq-len 32 --budget 2m

test: $(VENV)/installed lint
	$(BIN)/pytest -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Minutes each: exhaustive comparisons with real trials.
slow: $(VENV)/installed
	$(BIN)/pytest -m slow

# Skipped, with the reason, where there is no CUDA device.
gpu: $(VENV)/installed
	$(BIN)/pytest -m gpu

# Everything that is claimed about a GPU, measured on the first one; goes on where an earlier call stopped.
gpu-suite: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu

benchmarks: $(VENV)/installed
	$(BIN)/python -m benchmarks.trial_overhead

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
