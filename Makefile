PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test quick check format bench clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
ifdef TORCH_INDEX
	$(BIN)/pip install --quiet -c constraints.txt torch --index-url $(TORCH_INDEX)
endif
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/installed   ## the main job on bundled structures, about 10 minutes on 2 cores
	$(BIN)/python -m pipeline.demo --out demo_out

test: .venv/installed   ## the whole test suite
	$(BIN)/python -m pytest

quick: .venv/installed  ## the tests that are not slow
	$(BIN)/python -m pytest -m "not slow"

check: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed  ## ratios against named rivals, minutes each
	$(BIN)/python -m benchmarks.lddt
	$(BIN)/python -m benchmarks.adapters --layers 1

clean:
	rm -rf .venv demo_out
