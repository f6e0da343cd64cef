# Every target works from a fresh clone, in any order, with no virtual environment active.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Two processes of one thread each use two cores better than one process of two threads.
WORKERS ?= 2
TEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

.PHONY: help venv venv-trl demo test test-all bench lint format docs clean

help:
	@echo "make venv      .venv with everything that the tests need"
	@echo "make demo      the whole loop with simulated people, and its report, in demo/"
	@echo "make test      all tests but the slow ones"
	@echo "make test-all  all tests"
	@echo "make lint      ruff, pyright and the import layers"
	@echo "make format    let ruff put the code in order"
	@echo "make docs      write docs/cli.md anew from the command line itself"
	@echo "make bench     the measured tables, beside TRL (BENCH=quick: smaller work)"
	@echo "make venv-trl  the peers' environments, for make bench"
	@echo "make clean     remove caches, builds and the demo (not .venv)"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/preceptor demo --dir demo

test: $(STAMP)
	$(TEST) -m "not slow"

test-all: $(STAMP) .venv/.ray
	$(TEST)

# The tests under Ray are slow, and Ray is large: only `make test-all` needs it.
.venv/.ray: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[ray]'
	@touch $@

# BENCH=quick: smaller work and no server, for a first look.
BENCH ?= full
bench: $(STAMP) venv-trl
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --sizes $(BENCH)
ifneq ($(BENCH),quick)
	$(BIN)/python benchmarks/growth.py
	test -f demo/results.json || $(BIN)/preceptor demo --dir demo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serving.py demo --model ppo-ptx-small --output benchmarks/serving.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/plan.py
endif

# The peers that benchmarks/bench.py measures beside us, each in an environment of its own: the current TRL, and the last
# one that had PPO.
venv-trl: .venv-trl/.installed .venv-trl-ppo/.installed

.venv-%/.installed: benchmarks/requirements-%.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q --disable-pip-version-check -r benchmarks/requirements-$*.txt
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP)
	$(BIN)/python docs/make_cli.py

clean:
	rm -rf build dist demo .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
