# Commands of the project.  What each one does stands in scripts/; here is only which, in what order.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON := .venv/bin/python

# A folder that does not exist is left out.
FAST_TESTS := $(wildcard tests/contract tests/unit tests/wire)
WORKERS := 4
ROOT_TESTS := $(wildcard tests/lab tests/netns tests/kernel)

.PHONY: help setup up down demo bench load plugin plugin-install check lint test test-vm compatibility need-root

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 20

setup:  ## packages and .venv, nothing else (root; Debian 12)
	@scripts/setup.sh

up:  ## set up and start everything: dockerd, the driver, an etcd unless ETCD=http://host:port is given (root)
	@ETCD='$(ETCD)' scripts/up.sh

down:  ## undo `make up`; PURGE=1 removes the data, too (root)
	@PURGE='$(PURGE)' scripts/down.sh

demo: need-root  ## two hosts on this machine: what is on the wire, and figures beside the host and Docker's overlay (root)
	@scripts/setup.sh --demo
	@exec $(PYTHON) -m bench.demo $(ARGS)

bench: need-root  ## slim beside the host, Docker's networks and others, in many workloads: ARGS="--quick", ARGS=--help (root)
	@scripts/setup.sh --demo
	@exec bench/run $(ARGS)

load: need-root  ## what many endpoints, a large directory and many connections need; takes 6 to 15 minutes (root)
	@scripts/setup.sh --demo
	@exec $(PYTHON) -m bench.load $(ARGS)

plugin: need-root  ## the managed plugin's root file system and configuration, in build/plugin
	@scripts/plugin.sh

plugin-install: need-root  ## create and enable it on the engine that DOCKER_HOST names: SET="ETCD=http://..."
	@SET='$(SET)' scripts/plugin-install.sh

lint: setup
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy

check: lint  ## ruff, mypy and the tests that need no root
	@$(PYTHON) -m pytest $(FAST_TESTS)

# One pytest run for all folders, so that one closing line tells the whole result.  Four at a time on
# two cores: most of a test's time is Docker's, and waiting.  Long ones come first (tests/support/schedule.py).
# With real daemons on a busy machine a wait may run out: what fails is run once more, and named (R).
test: need-root  ## set-up and every test (root)
	@scripts/setup.sh --tests
	@$(MAKE) lint
	@$(PYTHON) -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder --reruns 1 --durations 25 $(ROOT_TESTS) $(FAST_TESTS)

# Emulated in software, ten times slower: what depends on the kind of interface, not all.
VM_TESTS := tests/kernel/test_programs.py $(addprefix tests/netns/test_,pairs.py link_veth.py host_path.py connections.py \
	names.py overlay.py security.py link_finisher.py bench_cost.py)
test-vm: need-root  ## datapath tests on a newer kernel, one that has netkit, in an emulated machine; takes 15 minutes (root)
	@scripts/setup.sh --vm
	@tests/vm/run.sh $(PYTHON) -m pytest -p no:cacheprovider $(VM_TESTS)

compatibility: need-root  ## the tests with several Docker releases; writes docs/compatibility.md (root)
	@scripts/setup.sh --tests
	@$(PYTHON) -m pytest -p tests.lab.compatibility tests/lab -m feature

need-root:
	@[[ $$EUID == 0 ]] || { echo "this needs root: sudo make $(firstword $(MAKECMDGOALS))" >&2; exit 1; }
