# Needs only Python 3.11-3.14, a shell and make. PYTHON=/path/to/python chooses the interpreter.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup run up test test-older test-lowest test-pgbouncer test-oracle soak bench docs docs-generate calendar lint secrets format lock audit clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
IMAGE_EXTRAS := arrow dask databento flatfiles
TESTS := -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
LOWEST := .venv-lowest
# A stamp of its own, so that an interrupted installation is done again.
ENV := $(VENV)/.done

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(ENV) ## Set up the environment in .venv/, as every other target does by itself

run: $(ENV) ## Start everything on loopback, run the nightly flow once, stop everything
	@$(BIN)/closingbell up --once

up: $(ENV) ## Keep the stack serving: UI, nightly schedule, worker; Ctrl-C stops it
	@$(BIN)/closingbell up

test: $(ENV) ## Run the tests, three files at a time
	@$(BIN)/python $(TESTS)

test-older: $(ENV) ## Run the store's tests on PostgreSQL 16, which the embedded one's wheel has too
	@CLOSINGBELL_TEST_POSTGRES_OLDER=1 $(BIN)/python -m pytest tests/store

test-lowest: $(ENV) ## Run the tests with the oldest releases of everything that pyproject.toml allows
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	@$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct -e '.[dev]'
	@$(LOWEST)/bin/python $(TESTS)

test-pgbouncer: $(ENV) ## Run the store's tests through a pgbouncer in transaction mode, which has to be installed
	@CLOSINGBELL_TEST_PGBOUNCER=1 $(BIN)/python -m pytest tests/store

test-oracle: $(ENV) ## Run the store's tests on Oracle Free in a container, which needs Docker
	@infra/oracle/test.sh $(BIN)/python

soak: $(ENV) ## About an hour of nights in which everything goes wrong, and of kills (CONTRIBUTING.md says more)
	@CLOSINGBELL_SOAK_TICKERS=$${CLOSINGBELL_SOAK_TICKERS:-80} \
	  $(BIN)/python -m pytest -m soak --show-capture=no -o timeout=0 $(if $(CLOSINGBELL_SOAK_WEEK),tests/soak)

bench: $(ENV) ## Measure everything side by side, about two hours, and write benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks $(NAMES)

docs: $(ENV) ## Build the documentation's site in docs/_build/html, without network
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-generate: $(ENV) ## Write docs/commands.md, docs/schema.md and what the commands on all pages print
	@CLOSINGBELL_DOCS=write $(BIN)/python -m pytest tests/docs/test_pages.py

calendar: $(ENV) ## Keep what the installed calendar libraries say: after an upgrade of one of them
	@$(BIN)/python -c 'from closingbell.schedules import written; print(written(), end="")' >closingbell/data/holidays.new
	@mv closingbell/data/holidays.new closingbell/data/holidays.csv

lint: $(ENV) ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

secrets: $(ENV) ## Look for keys and passwords in what is committed
	@git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline

format: $(ENV) ## Put the style right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## Resolve pyproject.toml into the hashed requirements.lock, and that of the image
	@# Not after $(ENV), which wants what is only about to be locked.
	@test -x $(BIN)/uv || $(MAKE) $(ENV)
	@$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --generate-hashes --universal --no-header -o requirements.lock
	@# The image's: no tools, and the same versions of the rest.
	@$(BIN)/uv pip compile pyproject.toml infra/image/requirements.in --quiet $(IMAGE_EXTRAS:%=--extra %) \
	  --constraints requirements.lock --generate-hashes --universal --no-header -o infra/image/requirements.lock

audit: $(ENV) ## Look for known vulnerabilities in what is locked
	@$(BIN)/python .ci/audit.py

clean: ## Remove the environment and what tools left; the data in .closingbell stay
	rm -rf $(VENV) $(LOWEST) .ci-venv build dist docs/_build docs/_outside *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENV): requirements.lock pyproject.toml
	@python="$(PYTHON)"; \
	for name in $${python:-python3.14 python3.13 python3.12 python3.11 python3 python}; do \
	  if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; then \
	    found="$$name"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "closingbell needs Python 3.11 to 3.14, and found none$${python:+ in PYTHON=$$python}." >&2; \
	  echo "Install one, or say where it is: make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; fi; \
	echo "setting up $(VENV) with $$("$$found" --version); this takes a minute or two"; \
	"$$found" -m venv $(VENV)
	@# --no-deps: the lock is complete, and in hash mode pip refuses requirements that name extras.
	@{ $(PIP) install --no-deps --require-hashes -r requirements.lock && \
	  $(PIP) install --no-deps --no-build-isolation -e . && \
	  $(PIP) check; } >$(VENV)/install.log 2>&1 || { tail -n 30 $(VENV)/install.log >&2; exit 1; }
	@touch $@
