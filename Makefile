# make demo   train, quantize, export, measure and judge the Omniglot recipe on this machine: alone on a bare one
# make test   everything that CI checks        make lint   the same without the tests
# make tables write the READMEs' tables anew   make clean  remove what can be made again (never runs/)
# make results ship the default recipe with three seeds and keep the reports (resumable; about half an hour)
# make studies do what is missing of every study, or of NAME=... (resumable; hours, on a small machine a day or more)
.PHONY: demo test lint tables results studies clean

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.10; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
DEMO := runs/demo

# A stamp is written last: whatever is interrupted before is done again, and what is done is not.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "kd2edge needs Python 3.10 or newer; name one with PYTHON=..."; exit 2; }
	@rm -f $(VENV)/.train-stamp $(VENV)/.dev-stamp
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train-stamp: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(INSTALL) '.[train]'
	@touch $@

$(VENV)/.dev-stamp: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(INSTALL) '.[train,rtx,dev]'
	@touch $(VENV)/.train-stamp $@

# A finished demo is moved aside, an unfinished one continued by its own recipe. Every verdict is a success of the demo, HOLD too.
demo: $(VENV)/.train-stamp
	@if [ -f $(DEMO)/verdict.json ]; then mv $(DEMO) $(DEMO)-$$(date -u +%Y%m%dT%H%M%SZ); fi
	@if [ -f $(DEMO)/recipe.yaml ]; then what=--resume; else what=omniglot; fi; \
	$(BIN)/kd2edge ship $$what --run $(DEMO); code=$$?; \
	case $$code in 0|1|3) exit 0;; *) exit $$code;; esac

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev-stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy kd2edge tests
	$(BIN)/lint-imports

tables: $(VENV)/.dev-stamp
	$(BIN)/python tests/tables.py

results: $(VENV)/.train-stamp
	@mkdir -p benchmarks/results/onnx-cpu/omniglot
	@for seed in 0 1 2; do \
	  run=runs/results-$$seed; \
	  if [ -f $$run/recipe.yaml ]; then what=--resume; else what="omniglot --set seed=$$seed"; fi; \
	  $(BIN)/kd2edge ship $$what --run $$run; code=$$?; \
	  case $$code in 0|1|3) cp $$run/report.json benchmarks/results/onnx-cpu/omniglot/seed-$$seed.json;; \
	  *) exit $$code;; esac; done

studies: $(VENV)/.train-stamp
	@for name in $(or $(NAME),$(patsubst benchmarks/studies/%.yaml,%,$(wildcard benchmarks/studies/*.yaml))); do \
	  $(BIN)/kd2edge study $$name || exit $$?; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find kd2edge tests -name __pycache__ -type d -prune -exec rm -rf {} +
