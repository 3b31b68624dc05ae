# The project's commands.  scripts/ says what each step does; this file, which steps in what order.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON := .venv/bin/python

# Test processes at once, on two cores.  `check` waits a third of its time: 6 take 108 s, 3 took
# 135 s.  `test` waits even more: 6 took 937 s, 4 took 1,199 s.  Each process has a lab (0.7 GB).
WORKERS := 6
CHECK_WORKERS := 6
# Python must save what it compiles, whatever the caller's shell says: else every process that a
# test starts compiles it again.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(PYTHON) -m pytest --dist loadscope --no-loadscope-reorder

.PHONY: help setup page up down demo bench load plugin plugin-install deb check lint test test-all test-vm compatibility need-root

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 20

setup:  ## packages and .venv, nothing else (root; Debian 12)
	@scripts/setup.sh

page:  ## what draws the charts of `slim ui`, from npm, into the checkout (`make up` does it where npm is)
	@scripts/page.sh

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
	@exec $(PYTHON) -m bench.load.main $(ARGS)

plugin: need-root  ## the managed plugin's root file system and configuration, in build/plugin
	@scripts/plugin.sh

plugin-install: need-root  ## create and enable it on the engine that DOCKER_HOST names: SET="ETCD=http://..."
	@SET='$(SET)' scripts/plugin-install.sh

deb: need-root  ## the packages for Debian 12 and 13, in build/deb, each in a clean root: RELEASE=bookworm for one (root)
	@scripts/deb.sh $(RELEASE)

lint: setup
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy

# tests/support/run/tiers.py says which tests belong to check, test and test-all.
check: lint  ## ruff, mypy and the tests that need no root; takes 2 minutes
	@$(PYTEST) --tier check --numprocesses $(CHECK_WORKERS)

# One pytest run for all folders, so that one closing line tells the whole result.  It runs more
# tests at once than there are cores, since they mostly wait; long ones come first
# (tests/support/run/schedule.py).  A test that needs a second try is a defect, of it or of slim.
ALL_FOLDERS := --numprocesses $(WORKERS) --durations 25
test: need-root  ## set-up and every behaviour once, on Debian's Docker; takes half an hour on two cores (root)
	@scripts/setup.sh --tests
	@$(MAKE) lint
	@$(PYTEST) --tier test $(ALL_FOLDERS)

test-all: need-root  ## `test`, load, other Docker releases, a newer kernel; before a release; takes an hour (root)
	@mkdir -p build; touch build/test-all.began
	@scripts/setup.sh --tests all
	@$(MAKE) lint
	@$(PYTEST) --tier all $(ALL_FOLDERS) -p tests.lab.rig.compatibility
	@$(MAKE) test-vm
	@$(PYTHON) -m tests.lab.rig.passed build/test-all.began

# Only tests that depend on the kind of interface: the emulated machine is ten times slower.
VM_TESTS := tests/kernel/test_programs.py tests/kernel/packets tests/netns/test_bench_cost.py \
	$(addprefix tests/netns/,links/test_pairs.py links/test_veth.py links/test_finisher.py overlay/test_overlay.py \
	overlay/test_in_tc.py overlay/test_unreachable.py attacks/test_security.py names/test_resolving.py) \
	$(addprefix tests/netns/host_path/test_,transfers.py connections.py one_host.py names.py ipv6.py \
	ipv6_listeners.py listener_groups.py)
test-vm: need-root  ## part of `test-all`: datapath tests on a newer kernel, one that has netkit, in an emulated machine; takes 15 minutes (root)
	@scripts/setup.sh --vm
	@tests/vm/run.sh $(PYTHON) -m pytest -p no:cacheprovider $(VM_TESTS)

compatibility: need-root  ## the tests that docs/compatibility.md is about, on all Docker releases; writes its table (root)
	@scripts/setup.sh --tests all
	@$(PYTHON) -m pytest -p tests.lab.rig.compatibility tests/lab -m feature

need-root:
	@[[ $$EUID == 0 ]] || { echo "this needs root (su -, or sudo -s): make $(firstword $(MAKECMDGOALS))" >&2; exit 1; }
