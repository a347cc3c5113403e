# Every routine task. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A worker for each core. The tests of one file share servers, so they stay together; the files
# with the longest tests come first by name, and are kept there.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
export DAGSTER_HOME ?= $(CURDIR)/data/dagster_home

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

# One environment; each stamp stands for a set of packages installed into it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

define install
	@echo "installing the packages of '$(1)' (torch is large: this takes a while the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(1)]' || \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(1)]'
	@touch $@
endef

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,demo)

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,test)

.PHONY: demo
demo: $(VENV)/.demo ## materialize two demo catalogs and show what matches
	$(BIN)/python -m imgsim_assets.demo run

.PHONY: ui
ui: $(VENV)/.demo ## open the same in Dagster's web server, http://127.0.0.1:3000
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m imgsim_assets.demo ui

.PHONY: ui-consumers
ui-consumers: $(VENV)/.demo ## the same beside another code location, examples/price_watch.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m imgsim_assets.demo ui-consumers

.PHONY: test
test: $(VENV)/.test ## what has to pass before a change lands
	$(BIN)/python -m pytest $(PARALLEL)

.PHONY: test-all
test-all: $(VENV)/.test ## the same and the long drills, sweeps and load tests
	$(BIN)/python -m pytest $(PARALLEL) -m 'slow or not slow'

.PHONY: lint
lint: $(VENV)/.test ## formatting, style, types, and the YAML under defs/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy imgsim_assets imgsim_assets_tests benchmarks examples
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dg check yaml
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dg check defs

.PHONY: format
format: $(VENV)/.test ## put the code into its canonical form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: constraints
constraints: $(VENV)/.test ## write down the versions that are installed
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' > constraints.txt

.PHONY: clean
clean: ## forget the store, the Dagster home, and what the demo and the example have made
	rm -rf data/store data/demo/pictures data/demo/*.jpg data/price_watch
	find data/dagster_home -mindepth 1 -maxdepth 1 ! -name dagster.yaml -exec rm -rf {} +
