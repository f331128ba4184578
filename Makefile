# Two commands do everything on a fresh Debian 12 with Python 3.11+ and root, set-up included: make demo, make test.
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Hundreds of daemons are started: each module is compiled once, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test cluster-test boot containerlab browser long lint types imports format fuzz chaos bench reference packages clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready .stamps/debian ## the virtual environment and the Debian packages (run by the others)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bgpd needs Python 3.11 or newer")'
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/debian-packages python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	@$(BIN)/python -m compileall -q bgpd testing
	@touch $@

.stamps/debian: tests/debian-packages
	tests/debian-packages
	@mkdir -p .stamps && touch $@

demo: setup ## a cluster of five nodes in network namespaces, told step by step
	@$(BIN)/bgpd lab demo containerlab/workers.clab.yml

test: setup ## the whole default suite, namespaces and interop included
	$(BIN)/pytest -n 4 --dist worksteal $(ARGS)

boot: setup .stamps/boot/.ready ## the systemd unit in a machine really booted (makes a Debian to boot the first time: minutes)
	$(BIN)/pytest -m boot tests/boot $(ARGS)

cluster-test: setup ## the datastores on a real kube-apiserver (builds one the first time, with Go: minutes)
	tests/cluster/build-apiserver
	tests/cluster/build-cnitool
	tests/debian-packages podman crun busybox-static
	$(BIN)/pytest -m cluster tests/cluster $(ARGS)

browser: setup ## the looking glass in headless Chromium (PICTURES=1 writes docs/glass-*.png anew)
	tests/debian-packages chromium fonts-dejavu-core
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[browser]'
	$(BIN)/pytest -n 0 -m browser tests/browser $(ARGS)

containerlab: setup ## all topologies under the real containerlab (skipped, with the reason, where there is none)
	$(BIN)/pytest -n 0 -m containerlab tests/containerlab $(ARGS)

# The packages are of the code as it is now; the Debian to boot is kept.
.stamps/boot/.ready: tests/boot/prepare pyproject.toml constraints.txt $(shell find bgpd packaging systemd config -type f ! -name '*.pyc')
	tests/boot/prepare $(@D)
	@touch $@

long: setup ## what takes minutes: a full table at hold time 3 s (ROUTES=1000000), ten upgrades
	$(BIN)/pytest -n 0 -m long tests/netns tests/interop $(ARGS)

lint: setup ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## write the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: setup ## new mutations of messages, resources, answers (MINUTES=10), then as many guided by coverage
	FUZZ_MINUTES=$(or $(MINUTES),10) $(BIN)/pytest -n 0 --show-capture=no tests/hostile -k for_a_while $(ARGS)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.hostile.guided $(or $(MINUTES),10)

chaos: setup ## random faults under traffic, the same for the same seed (MINUTES=3 SEED=1)
	$(BIN)/python -m tests.chaos.run --minutes $(or $(MINUTES),3) $(if $(SEED),--seed $(SEED))

bench: setup ## compare with BIRD and FRR in one run (ARGS="--only cold --rounds 3")
	$(BIN)/python -m bench $(ARGS)

reference: setup ## write docs/reference anew from the code
	$(BIN)/python -m testing.reference

packages: setup ## .deb and .rpm, into dist
	tests/debian-packages binutils
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[packages]'
	packaging/build dist

clean: ## remove what the others made
	rm -rf $(VENV) .stamps .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
