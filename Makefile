# make demo       the whole product in a few minutes: pull a base and data, adapt, report
# make test       all but the slow tests        make test-slow   the slow ones
# make lint       style and types               make bench       every claim, measured
# PyTorch: see CONTRIBUTING.md, "The environment".

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BUDGET ?= 5m

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
test test-slow: export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-slow bench lint format clean

demo: .venv/installed
	@$(BIN)/sapwood models pull smollm2-135m minilm-l6
	@data="$$($(BIN)/sapwood data pull movie-reviews)" && \
	$(BIN)/sapwood adapt "$$data" --task classification --model smollm2-135m \
	  --budget $(BUDGET) --out demo
	@echo "The report: $(CURDIR)/demo/report.html"

test: .venv/installed-dev
	$(BIN)/pytest -m "not slow"

test-slow: .venv/installed-dev
	$(BIN)/pytest -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-bench
	@for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

# A CPU build of PyTorch where there is no GPU: the usual index brings gigabytes of CUDA on Linux,
# so its answer is looked at first and the CPU index is asked instead when it would.
.venv/torch:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch' 2>/dev/null || { \
	  if command -v nvidia-smi >/dev/null || \
	     ! $(PIP) install --dry-run $(TORCH) 2>/dev/null | grep -qi nvidia; \
	  then $(PIP) install --quiet $(TORCH); \
	  else $(PIP) install --quiet --index-url $(TORCH_CPU_INDEX) $(TORCH); fi; }
	@touch $@

.venv/installed: pyproject.toml | .venv/torch
	$(PIP) install --quiet --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/torch
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ .venv/installed

.venv/installed-bench: pyproject.toml | .venv/torch
	$(PIP) install --quiet --editable '.[bench]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis demo
