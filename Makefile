# make help lists the targets, from the lines below that start with ##
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# MONAI warns to parse only configs that one trusts; these are the bundle's own
export PYTHONWARNINGS ?= ignore::DeprecationWarning,ignore:parsing config_file:UserWarning

.PHONY: detect help test slow-test check lowest-test benchmark gpu-check mutation clean

## detect: audit (the default target); of the demo, or ARGS="--train_dir FOLDER --generated_dir FOLDER"
# $(value ARGS): make must not expand the $ of a regular expression
detect: $(VENV)/.run
	@$(BIN)/python -m monai.bundle run --config_file configs/detect.yaml $(value ARGS)

## help: this list
help:
	@awk -F ': ' '/^## /{name = substr($$1, 4); sub(/^## [^:]*: /, ""); printf "make %-14s%s\n", name, $$0}' $(firstword $(MAKEFILE_LIST))

## test: all tests but the slow ones
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

## slow-test: the tests that take minutes
slow-test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow

## check: format, lint, order of imports, types
check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

## lowest-test: the tests on the lowest versions that requirements.txt allows; downloads several GB
lowest-test: $(VENV)-lowest/.dev
	$(VENV)-lowest/bin/python -m pytest -q -o filterwarnings=ignore

## benchmark: speed of the embedder, the alignment and SSIM
benchmark: $(VENV)/.dev
	$(BIN)/python benchmarks/speed.py

## gpu-check: does a GPU give what the processor gives, and how fast? Says so where there is none
gpu-check: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu.py

## mutation: change the code in 480 places, one at a time: does a test fail? 15 minutes; installs mutmut
mutation: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1 -c constraints.txt
	$(BIN)/python benchmarks/mutation.py

$(BIN)/python:
	@$(PYTHON) -c "import venv, ensurepip" 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments; on Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@

$(VENV)-lowest/.dev: requirements.txt constraints-lowest.txt
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet -r requirements.txt pytest scikit-image jsonschema setuptools wheel \
	  import-linter markdown-it-py -c constraints-lowest.txt
	@touch $@

## clean: remove the virtual environments, eval/ and mutants/
clean:
	rm -rf $(VENV) $(VENV)-lowest eval mutants
