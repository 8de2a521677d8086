# Every target sets up what it needs in .venv; nothing else on the machine is touched.
.DELETE_ON_ERROR:
.PHONY: demo up test check format bench conformance-npm docs clean help

VENV := .venv
BIN := $(VENV)/bin
# The first one that runs (a pyenv shim may exist and not run) and is new enough; the pins were made with 3.11.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

help:
	@echo "make demo    the whole loop on a real local model; ARGS='--once' stops at the end"
	@echo "make up      gateway and Dagster UI on route-switch.yaml"
	@echo "make test    everything that CI runs"
	@echo "make check   format, lint, types, import contracts"
	@echo "make bench   the gateway beside LiteLLM, Portkey and a bare pass-through"
	@echo "make docs    the references from the code, and the site in site/; ARGS=--serve shows it while you write"
	@echo "make conformance-npm   the npm clients against the gateway"
	@echo "make clean   remove what was built; never what you made"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed; $(PYTHON) is %d.%d." % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up .venv (a minute or two, once) ..."
	$(PIP) --editable '.[pipelines,local]'
	@touch $@

$(VENV)/.ready-all: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up .venv with everything that the tests need (a few minutes, once) ..."
	$(PIP) --editable '.[all]'
	$(PIP) --no-deps instructor
	@touch $@ $(VENV)/.ready-run $(VENV)/.ready-docs

$(VENV)/.ready-docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Setting up .venv with what builds the documentation (a minute, once) ..."
	$(PIP) --editable '.[docs]'
	@touch $@

demo: $(VENV)/.ready-run
	@$(BIN)/route-switch demo $(ARGS)

up: $(VENV)/.ready-run
	@$(BIN)/route-switch up $(ARGS)

test: check
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

check: $(VENV)/.ready-all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.ready-run
	$(BIN)/python benchmarks/gateway.py $(ARGS)

docs: $(VENV)/.ready-docs
	@$(BIN)/python -m docs._site $(ARGS)

conformance-npm: $(VENV)/.ready-all
	$(BIN)/python -m tests.conformance.npm

format: $(VENV)/.ready-all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .cache
	find rs_gateway rs_pipelines tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
