# make quickstart    train a small model on real text and print a sample
# make pipeline      the whole life of a small model: vocabulary, text, chat, reward, report
# make test          the tests
# make nightly       the tests of faults, with the counts that take hours
# make check         lint, types, tests: what .ci/run calls
# make bench         what this machine reaches: ARGS="--nanogpt DIR --nanochat DIR --json FOLDER"
# PYTHON=python3.12 make test    chooses the interpreter of a new .venv

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
BPE := $(VENV)/.installed-bpe
DEV := $(VENV)/.installed-dev

.PHONY: quickstart pipeline test nightly lint types check bench clean

quickstart: $(CORE)
	$(BIN)/lmkit train experiments/quickstart.yaml
	$(BIN)/lmkit generate runs/quickstart -p "def " --repetition-penalty 1.15

pipeline: $(BPE)
	$(BIN)/lmkit train experiments/pipeline_tiny.yaml
	$(BIN)/lmkit report runs/pipeline_tiny
	$(BIN)/lmkit chat runs/pipeline_tiny -p "What is 123 * 45?"

# a file's tests stay together, so that they share what was made for them
test: $(DEV)
	$(BIN)/python -m pytest -n auto --dist loadfile

nightly: $(DEV)
	LMKIT_NIGHTLY=1 $(BIN)/python -m pytest -rP --timeout=7200 tests/faults

lint: $(DEV)
	$(BIN)/ruff check .

types: $(DEV)
	$(BIN)/mypy

bench: $(BPE)
	$(BIN)/python -m benchmarks all $(ARGS)

check:
	$(MAKE) lint
	$(MAKE) types
	$(MAKE) test

# pip comes last into a new environment: a half-made one (no ensurepip) is made again
$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: lmkit needs Python 3.10 or newer; PYTHON=python3.12 make chooses one")'
	$(PYTHON) -m venv $(VENV)

$(CORE): setup.cfg pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(BPE): setup.cfg pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bpe]'
	touch $(CORE) $@

$(DEV): setup.cfg pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(CORE) $(BPE) $@

# runs/ and the environment stay: they are hours and gigabytes
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +
