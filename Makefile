# make detect [ARGS="--train_dir FOLDER --generated_dir FOLDER"]   audit; without ARGS, the demo
# make test                                                       all tests but the slow ones
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# MONAI warns to parse only configs that one trusts; these are the bundle's own
export PYTHONWARNINGS ?= ignore::DeprecationWarning,ignore:parsing config_file:UserWarning

.PHONY: detect test slow-test check benchmark clean

# $(value ARGS): make must not expand the $ of a regular expression
detect: $(VENV)/.run
	@$(BIN)/python -m monai.bundle run --config_file configs/detect.yaml $(value ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q

slow-test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmark: $(VENV)/.dev
	$(BIN)/python benchmarks/speed.py

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

clean:
	rm -rf $(VENV) eval
