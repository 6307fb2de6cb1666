# SPDX-License-Identifier: Apache-2.0
# Every target can be run again at any time. `make help` lists them; all but help and setup run setup first when needed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
SETUP := .venv/.setup-done
MODE ?= nftables
KEEP ?=
FULL ?=
SECONDS ?= 60
SEED ?= 1
COUNT ?= 1000
DURATION ?= 120
PYTEST_ARGS ?=
TARGET ?= --help
PAIRS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(SETUP) ## install what is missing: system packages, uv, the locked Python environment

$(SETUP): uv.lock pyproject.toml .python-version proto/pyproject.toml $(wildcard services/*/pyproject.toml) scripts/setup.sh
	@scripts/setup.sh
	@touch $@

.PHONY: fmt
fmt: $(SETUP) ## format and fix what can be fixed
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format --write proto

.PHONY: check
check: check-lint check-types check-imports check-deps proto-check check-shell ## everything that needs no running: lint, types, imports, protobuf
	@echo "check: ok"

.PHONY: check-lint
check-lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: check-types
check-types: $(SETUP)
	$(BIN)/mypy

.PHONY: check-imports
check-imports: $(SETUP)
	$(BIN)/lint-imports --no-cache

.PHONY: check-deps
check-deps: $(SETUP)
	@scripts/check_dependencies.sh

.PHONY: check-shell
check-shell:
	@for script in .ci/run scripts/*.sh; do bash -n "$$script"; done

.PHONY: proto
proto: $(SETUP) ## regenerate the committed stubs from proto/pointsman
	scripts/gen_protos.sh

.PHONY: proto-check
proto-check: $(SETUP) ## lint the protobuf contract and prove that the stubs are fresh
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	@scripts/check_protos.sh

.PHONY: test
test: $(SETUP) ## all tests (root: they make network namespaces of their own)
	@scripts/test.sh $(PYTEST_ARGS)

.PHONY: conformance
conformance: $(SETUP) ## the packet-flow matrix against a real kernel: MODE=nftables, iptables-legacy, iptables-nft, ipvs, userspace, userspace-iptables-legacy, all (matrix mode x section); FULL=1: all generated rows
	PYTHONPATH=tests $(BIN)/python tests/conformance/run.py --mode $(MODE) $(if $(FULL),--full)

.PHONY: mode-switch
mode-switch: $(SETUP) ## a node changes its mode under traffic, every ordered pair: connections opened, failed, reset (root); PAIRS="nftables:iptables-nft ..."
	@$(BIN)/python tests/mode_switch/run.py $(PAIRS)

.PHONY: takeover
takeover: $(SETUP) ## a node is taken over from kube-proxy under traffic, each of its modes to ours (root): PAIRS="iptables-nft:nftables ..."
	@PYTHONPATH=tests $(BIN)/python -m support.kube_proxy_rules.report $(PAIRS)

.PHONY: fuzz
fuzz: $(SETUP) ## hostile bytes into everything that takes bytes, with new values each time: SECONDS=60
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

.PHONY: chaos
chaos: $(SETUP) ## a cluster whose parts are killed, paused and cut off while it changes (root): SEED=1 DURATION=120
	$(BIN)/python tests/chaos/run.py --seed $(SEED) --duration $(DURATION)

.PHONY: simulate
simulate: $(SETUP) ## planners, streams and nodes in virtual time, seed by seed, against invariants: SEED=1 COUNT=1000
	$(BIN)/python tests/simulation/run.py --seed $(SEED) --count $(COUNT)

.PHONY: docs
docs: $(SETUP) ## write the reference pages under docs/ that are made from the source
	PYTHONPATH=tests $(BIN)/python -m support.metric_catalogue
	PYTHONPATH=tests $(BIN)/python -m support.configuration_reference
	PYTHONPATH=tests $(BIN)/python -m support.api_reference
	$(BIN)/python -m pointsman_ctl.reference > docs/reference/pointsmanctl.md

.PHONY: screenshots
screenshots: $(SETUP) ## take the pictures of the console in docs/images, in a headless browser
	PYTHONPATH=tests $(BIN)/python -m support.console_screenshots docs/images

.PHONY: contract-kit
contract-kit: $(SETUP) ## check any enforcer or controller against the contract: TARGET="enforcer --listen 127.0.0.1:7402"
	@$(BIN)/python tests/kit/run.py $(TARGET)

.PHONY: demo
demo: $(SETUP) ## a cluster on this machine, put to the test (root): MODE=nftables, iptables, iptables-legacy, iptables-nft, ipvs (in a guest), userspace; KEEP=1 leaves it up
	KEEP=$(KEEP) $(BIN)/python -m pointsman_lab.demo --mode $(MODE)

.PHONY: affinity
affinity: $(SETUP) ## do clients with session affinity meet the same pod through every node? (root); writes build/bench/affinity.*
	$(BIN)/python -m pointsman_lab.bench --only affinity

.PHONY: fanout
fanout: $(SETUP) ## planners with simulated nodes: NODES=1000 PLANNERS=1 GENERATORS=1 SLOW=0 DEAD=0; writes build/bench/fanout.*
	$(BIN)/python -m pointsman_lab.bench.fanout --nodes $(or $(NODES),1000) --planners $(or $(PLANNERS),1) \
		--generators $(or $(GENERATORS),1) --slow $(or $(SLOW),0) --dead $(or $(DEAD),0)

.PHONY: bench
bench: $(SETUP) ## latency, cost, memory at 100 to 40,000 services, and lost connections (root); writes build/bench/; PEER_KUBE_PROXY=/path/to/kube-proxy: in ratio to it
	$(BIN)/python -m pointsman_lab.bench
	@echo "tracing, a change that is not sampled:"
	@PYTHONPATH=tests $(BIN)/python tests/perf/bench_tracing.py
	@$(MAKE) bench-modes

.PHONY: bench-modes
bench-modes: $(SETUP) ## the modes side by side, their dataplanes alone, at 1,000 and 10,000 services (root); ipvs in a guest
	@for services in 1000 10000; do $(BIN)/python tests/perf/bench_modes.py $$services; echo; done
	@echo "ipvs, in a guest: another kernel and another clock, not to be compared"
	@PYTHONPATH=tests $(BIN)/python tests/perf/bench_ipvs.py 1000
