# make demo       the whole product in a few minutes: pull a base and data, adapt, report
# make test       all but the slow tests        make test-slow   the slow ones
# make lint       style and types               make bench       every claim, measured
# make test-tensorflow   the tests of the second engine, in an environment that has both
# PyTorch: see CONTRIBUTING.md, "The environment".

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BUDGET ?= 5m

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
test test-slow test-tensorflow: export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-slow test-tensorflow bench lint format clean

demo: $(VENV)/installed
	@$(BIN)/sapwood models pull smollm2-135m minilm-l6
	@data="$$($(BIN)/sapwood data pull movie-reviews)" && \
	$(BIN)/sapwood adapt "$$data" --task classification --model smollm2-135m \
	  --budget $(BUDGET) --out demo
	@echo "The report: $(CURDIR)/demo/report.html"

test: $(VENV)/installed-dev
	$(BIN)/pytest -m "not slow"

test-slow: $(VENV)/installed-dev
	$(BIN)/pytest -m slow

test-tensorflow:
	@$(MAKE) VENV=.venv-tensorflow .venv-tensorflow/installed-tensorflow
	.venv-tensorflow/bin/pytest -m "not slow" tests/tensorflow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-bench
	@for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

# A CPU build of PyTorch where there is no GPU: the usual index brings gigabytes of CUDA on Linux,
# so its answer is looked at first and the CPU index is asked instead when it would.
$(VENV)/torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || { \
	  if command -v nvidia-smi >/dev/null || \
	     ! $(PIP) install --dry-run $(TORCH) 2>/dev/null | grep -qi nvidia; \
	  then $(PIP) install --quiet $(TORCH); \
	  else $(PIP) install --quiet --index-url $(TORCH_CPU_INDEX) $(TORCH); fi; }
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/torch
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/torch
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: pyproject.toml | $(VENV)/torch
	$(PIP) install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/installed-tensorflow: pyproject.toml | $(VENV)/torch
	$(PIP) install --quiet --editable '.[dev,tensorflow]'
	@touch $@

clean:
	rm -rf .venv .venv-tensorflow .mypy_cache .ruff_cache .pytest_cache .hypothesis demo
