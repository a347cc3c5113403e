# Routine tasks. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One worker per core. The tests of a file share servers, so one worker runs them all; files run in
# the order of their names, in which those with the longest tests come first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
# The ports of Dagster's web server and of the pages for review, of `make ui`.
PORT ?= 3000
SERVE_PORT ?= 8400
export DAGSTER_HOME ?= $(CURDIR)/data/dagster_home

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@echo "New here: make demo, then make ui. README.md says how to declare a catalog of your own."
	@echo
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo
	@echo "  PORT=3001           another port for Dagster's web server: make ui PORT=3001"
	@echo "  SERVE_PORT=8401     another port for the pages for review: make ui SERVE_PORT=8401"
	@echo "  PYTHON=python3.12   another Python for the environment .venv"
	@echo "  IMGSIM_STORE=PATH   another store than data/store"

# One environment; a stamp file records each set of packages installed into it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is required; choose it with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

define install
	@echo "installing the packages of '$(1)' (torch is large; the first time takes a while)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(1)]' || \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(1)]'
	@touch $@
endef

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,demo)

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,test)

$(VENV)/.test-all: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,test-all)

.PHONY: demo
demo: $(VENV)/.demo ## materialize two demo catalogs and show their matches
	$(BIN)/python -m imgsim_assets.demo run --serve-port $(SERVE_PORT)

.PHONY: ui
ui: $(VENV)/.demo ## open the demo in Dagster (PORT=3000) and its review pages (SERVE_PORT=8400)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m imgsim_assets.demo ui --port $(PORT) --serve-port $(SERVE_PORT)

.PHONY: ui-consumers
ui-consumers: $(VENV)/.demo ## open the demo with a second code location, examples/price_watch.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m imgsim_assets.demo ui-consumers --port $(PORT) --serve-port $(SERVE_PORT)

.PHONY: test
test: $(VENV)/.test ## run the tests, without the slow ones
	$(BIN)/python -m pytest $(PARALLEL)

.PHONY: test-all
test-all: $(VENV)/.test-all ## run all tests, with the slow ones
	$(BIN)/python -m pytest $(PARALLEL) -m 'slow or not slow'

.PHONY: lint
lint: $(VENV)/.test ## check formatting, style, types, and the YAML under defs/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy imgsim_assets imgsim_assets_tests benchmarks training examples docs/hooks
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/check_yaml imgsim_assets/defs
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dg check defs

.PHONY: format
format: $(VENV)/.test ## format the code and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,docs)

.PHONY: docs
docs: $(VENV)/.docs ## build the documentation site into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

.PHONY: reference
reference: $(VENV)/.demo ## write docs/settings.md from the settings classes
	$(BIN)/python docs/hooks/settings_reference.py

.PHONY: wheel
wheel: $(VENV)/.test ## build dist/*.whl and try it in a new environment
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	.ci/try_wheel $(BIN)/uv dist/imgsim_assets-*.whl

.PHONY: constraints
constraints: $(VENV)/.test ## pin the installed versions in constraints.txt
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' > constraints.txt

.PHONY: clean
clean: ## delete the store but for people's decisions, the Dagster home, the demo's files
	rm -rf data/demo/images data/demo/*.jpg data/price_watch
	[ ! -d data/store ] || find data/store -mindepth 1 -maxdepth 1 ! -name reviews -exec rm -rf {} +
	find data/dagster_home -mindepth 1 -maxdepth 1 ! -name dagster.yaml -exec rm -rf {} +
