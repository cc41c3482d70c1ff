# What each target does: make help. Needed on the machine: Python 3.11.2 to 3.13 (PYTHON names it), git, make.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
BIN := .venv/bin
# For programs that look for others of the environment, such as buf for its plugins.
WITH_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"
ARGS ?=
# Set-up and the first imports make byte code, and have to be allowed to keep it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test images test-pythons coverage interop interop-table check format bench demo-model proto lock clean torture chart chart-files

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## .venv with what the lock files pin, the encoder step compiled; costs nothing when they are there
	@$(PYTHON) tools/setup.py

demo: setup ## live words out of bundled speech, over gRPC and WebSocket
	@$(BIN)/python -m clients.demo $(ARGS)

serve: setup ## the service and the bridge from the environment; Ctrl-C stops both
	@$(BIN)/python tools/serve.py

# All of them are shared by three workers (tests/support/workers.py); a few are sooner done by one.
test: setup ## all tests; ARGS goes to pytest
	@$(WITH_PATH) $(BIN)/python -m pytest -q $(or $(ARGS),--numprocesses 3)

test-pythons: setup ## a part of the tests with each Python that is found; ARGS="3.11.2 -- tests/unit/api" for less
	@$(BIN)/python tools/pythons.py $(ARGS)

# Processes that the tests start are measured too, which makes it slow.
coverage: setup ## which lines the tests run: a table, and pages in build/coverage/html
	@$(WITH_PATH) $(BIN)/python -m pytest -q --numprocesses 3 --cov --cov-report term --cov-report html $(ARGS)

interop: setup ## other people's clients (NVIDIA, LiveKit, Pipecat, Node.js) in build/interop against the service
	@$(BIN)/python -m tests.interop.environments
	@$(WITH_PATH) $(BIN)/python -m pytest -q tests/interop $(ARGS)

interop-table: setup ## the same several times over, on a quiet machine: writes the table of docs/interop.md
	@$(BIN)/python -m tests.interop.environments
	@$(WITH_PATH) $(BIN)/python -m tests.interop.table --measure

torture: setup ## the fault suite in full; ARGS="crowd --seconds 600 --seed 1" for a part of it
	@$(BIN)/python -m tests.torture $(ARGS)

images: setup ## builds the container images and runs them, with Docker or Podman; ARGS="cpu --make-base"
	@$(BIN)/python -m tests.images $(ARGS)

chart: setup ## Helm's engine and Kubernetes' schemas in build/chart; every combination of the chart's values held to them
	@$(BIN)/python -m tests.chart.environment
	@$(WITH_PATH) $(BIN)/python -m pytest -q tests/chart $(ARGS)
	@$(BIN)/python -m tests.chart

chart-files: ## copies the files that the chart shares with docker into it
	cp docker/proxy/envoy.yaml docker/proxy/envoy-certificate.yaml docker/monitoring/alerts.yml deploy/helm/asr/files/

check: setup ## what CI checks: lint, format, types, imports, protocol, stubs, locks, the chart's files
	@$(BIN)/python tools/check.py $(ARGS)

format: setup ## formats the code and sorts imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: setup ## all benchmarks, of speed and of words (hours); ARGS=--quick for short ones
	@$(BIN)/python -m bench $(ARGS)

demo-model: setup ## trains the demo model anew (hours); see docs/demo-model.md
	$(BIN)/python -m demo_model $(ARGS)

proto: setup ## generates proto/python from proto/asr
	$(WITH_PATH) buf generate

# For every platform and Python. torch keeps its release even with --upgrade. Left out are what only torch's GPU builds
# need, which those pin themselves (setup.py), and the machine's own: its constraints, and with them its paths. The build of
# torch is the machine's own too: requirements.lock alone has its release. Triton comes with torch's GPU builds; for the
# tests it is pinned to the release that those ask for.
LEAST = $(shell sed -n 's/^requires-python = ">=\([0-9.]*\)".*/\1/p' pyproject.toml)
TORCH = $(shell sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements.lock)
COMPILE = $(BIN)/python tools/run_uv.py pip compile --quiet --universal --python-version $(LEAST) --annotation-style line \
	--custom-compile-command "make lock" $(ARGS) --output-file
# First all of it together, so that what runs and what develops agree; ARGS has had its effect there.
PIN = $(BIN)/python tools/run_uv.py pip compile --quiet --universal --python-version $(LEAST) --annotation-style line \
	--custom-compile-command "make lock" --constraints build/all.lock --output-file
TIDY = sed -i.before -E -e '/^(nvidia-[^r]|cuda-toolkit=)/d' -e 's/ -[^,]*,?//g' -e 's/(,| +\# via)$$//'

lock: setup ## pins what pyproject.toml asks for; ARGS=--upgrade for newer releases, TORCH=2.14.1 for another torch
	@mkdir -p build
	@cat requirements.lock requirements-dev.lock >build/all.lock
	@echo "torch==$(TORCH)" | $(COMPILE) build/all.lock pyproject.toml - --extra model --extra compressed --extra otel --group riva --extra nemo --group dev
	@$(TIDY) -e '/^torch==/d' build/all.lock
	@echo "torch==$(TORCH)" | $(PIN) requirements.lock pyproject.toml - --extra model --extra compressed --extra otel --group riva
	@$(TIDY) -e '/^triton=/d' requirements.lock
	@$(PIN) requirements-dev.lock pyproject.toml --extra nemo --group dev
	@$(TIDY) -e '/^torch==/d' requirements-dev.lock
	@rm build/all.lock.before requirements.lock.before requirements-dev.lock.before

clean: ## removes the environment and all caches
	rm -rf .venv build dist *.egg-info proto/python/build proto/python/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
