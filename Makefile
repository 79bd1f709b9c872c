# Every job is one command. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SECONDS_PER_PASS ?= 120
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env demo test check format bench-router bench-forecast bench-balance lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(STAMP) ## the Python environment in .venv, from pinned versions; made anew when the pins change

$(STAMP): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev]'
	@touch $@

demo: env ## the whole system on a real broker, with a report (TRACE=FILE replays a request log; ARGS=... as in foreshard demo)
	@$(BIN)/foreshard demo --seconds $(SECONDS_PER_PASS) $(if $(TRACE),--trace "$(TRACE)") $(ARGS)

test: env check ## everything: check, then every test, real broker included
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: env ## style, types and architecture; no broker needed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict app streams schemas
	@$(BIN)/python -m pytest -q tests/test_architecture.py

format: env ## put the sources into the form that check wants
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench-router: env ## routing against Kafka Streams, Quix, Faust and a bare loop, about 45 min (ARGS=--quick: 10)
	@$(BIN)/foreshard bench router --json bench/results/router-$$(date +%F).json $(ARGS)

bench-forecast: env ## forecasts of the series in SERIES=DIR against others, about 30 min (ARGS=--quick: 8)
	@test -n "$(SERIES)" || { echo "name a folder of CSV files: make bench-forecast SERIES=DIR" >&2; exit 1; }
	@$(BIN)/foreshard bench forecast --series "$(SERIES)" --json bench/results/forecast-$$(date +%F).json $(ARGS)

bench-balance: env ## balancing policies on simulated days (TRACES=folder of recorded series; ARGS=... as in foreshard bench balance)
	@test -n "$(TRACES)" || { echo "name a folder of recorded series: make bench-balance TRACES=..." >&2; exit 1; }
	@$(BIN)/foreshard bench balance --traces "$(TRACES)" --json bench/results/balance-$$(date +%F).json $(ARGS)

lock: ## newest versions that pyproject.toml allows, written to deploy/constraints.txt
	@rm -rf .work/lock && $(PYTHON) -m venv .work/lock
	@.work/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	@.work/lock/bin/python -m pip freeze --exclude foreshard > deploy/constraints.txt
	@rm -rf .work/lock build
	@echo "deploy/constraints.txt is new; run make test before you commit it"

clean: ## remove the environment, caches and the local broker's jars
	rm -rf $(VENV) .work build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
