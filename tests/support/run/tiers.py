"""Says which tests each tier runs: `make check`, `make test` and `make test-all`.

Each tier runs all tests of the one before.  A test is in the tier of its folder, unless the Docker
release it runs on, or its subject, is only for test-all, before a release of slim.  Without --tier
pytest runs all tests that it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath
from typing import Any

import pytest

CHECK, TEST, ALL = "check", "test", "all"
TIERS = (CHECK, TEST, ALL)

# Folders below tests/.  Tests of the tier `check` need no root.
FOLDERS = {"unit": CHECK, "wire": CHECK, "contract": CHECK,
           "kernel": TEST, "netns": TEST, "lab": TEST}
# The Docker release on which `test` tests every behaviour: Debian's own.  Tests on the others
# (tests/lab/rig/dockers.py), and on hosts of several releases, are for test-all.
USUAL_LAB = "20.10"
# Files and tests that only test-all runs even on that release: load, which tests no behaviour of
# its own (LOAD), and behaviours that another test of `make test` covers (AGAIN: test -> other one).
LOAD = ("tests/lab/docker/test_load.py",
        "tests/lab/restarts/test_boot_with_many.py",
        "tests/lab/docker/test_docker.py::test_fifty_parallel_starts_and_removals",
        "tests/lab/swarm/test_swarm.py::test_fifty_tasks_come_and_go")
AGAIN = {
    # bench.demo is interrupted, too
    "tests/lab/tools/test_bench.py::test_an_interrupted_run_leaves_nothing":
        "tests/lab/tools/test_demo.py::test_interrupted",
    # that test stops and starts it again
    "tests/lab/restarts/test_driver.py::test_stopped_under_load_and_started_again":
        "tests/lab/restarts/test_driver.py::test_upgraded_to_other_programs_in_place",
    # real containers, one etcd
    "tests/lab/restarts/test_etcd_cluster.py::test_all_members_are_gone_for_long":
        "tests/lab/docker/test_docker_rows.py::test_row_49_stopped_etcd",
    # three etcds, no containers
    "tests/lab/restarts/test_etcd_cluster.py::test_a_host_is_cut_off_from_etcd_but_not_from_its_peers":
        "tests/netns/cluster/test_etcd_faults.py::test_a_host_is_cut_off",
    "tests/lab/restarts/test_etcd_cluster.py::test_each_leader_is_killed_while_containers_come_and_go":
        "tests/netns/cluster/test_etcd_faults.py::test_killed",
    # hosts with real drivers, containers that are namespaces
    "tests/lab/restarts/test_dead_host.py::test_a_host_dies_and_comes_back":
        "tests/netns/cluster/test_absent_host.py::test_its_addresses_were_free_and_still_are",
    "tests/lab/tools/test_firewall.py::test_endpoint_ports_are_missing_in_a_firewall":
        "tests/netns/underlay/test_blocked_peers.py::test_found_named_and_mended",
    "tests/lab/restarts/test_lost_etcd.py::test_it_loses_its_data_before_drivers_start":
        "tests/netns/spoilt/test_data.py::test_all_data_is_lost",
    "tests/lab/restarts/test_lost_etcd.py::test_a_host_is_pointed_at_an_empty_one":
        "tests/netns/spoilt/test_data.py::test_all_data_is_lost",
    "tests/lab/restarts/test_lost_etcd.py::test_a_host_is_pointed_at_another_cluster":
        "tests/netns/cluster/test_one_machine.py::test_another_clusters_etcd_is_left_alone",
    "tests/lab/restarts/test_lost_etcd.py::test_a_snapshot_of_an_hour_ago_is_restored":
        "tests/netns/spoilt/test_data.py::test_the_data_is_that_of_before",
    "tests/lab/restarts/test_lost_etcd.py::test_a_newer_driver_has_written_what_this_one_cannot_read":
        "tests/netns/spoilt/test_data.py::test_a_record_is_spoilt",
    # the same server in another test, beside two other programs
    "tests/lab/docker/test_resolvers.py::test_nginx_follows_a_name_to_another_container":
        "tests/lab/docker/test_resolvers.py::test_go_and_servers_outlive_a_driver",
    # dnsmasq in its place
    "tests/lab/docker/test_resolvers.py::test_systemd_resolved_outlives_a_driver":
        "tests/lab/docker/test_resolvers.py::test_go_and_servers_outlive_a_driver",
    # without load; another test disables and enables the plugin under load
    "tests/lab/swarm/test_swarm_nodes.py::test_the_plugin_is_installed_anew_under_load":
        "tests/lab/swarm/test_swarm.py::"
        "test_the_plugin_is_installed_anew_under_running_containers",
}
# Variants of tests, by how their ids end, that only test-all runs.  `test` keeps each call, each
# way to fail, each place and each signal at least once.
VARIANTS = {
    "tests/lab/docker/test_other_names.py::test_options_of_docker_mean_the_same":
        ("-none", "-dns", "-search"),
    "tests/netns/names/test_name_floods.py::test_datagrams":
        ("addresses", "no question", "names without an answer"),
    "tests/netns/names/test_name_floods.py::test_connections": ("none",),
    "tests/netns/names/test_hostile.py::test_messages_that_are_slow_to_read":
        ("records of other kinds", "options", "strings"),
    "tests/lab/tools/test_demo.py::test_interrupted": ("2",),
    "tests/lab/restarts/test_dockerd.py::test_row_50_dockerd_stops_and_starts":
        ("up-KILL", "down-TERM"),
    "tests/lab/restarts/test_dockerd.py::test_row_51_live_restore": ("up-TERM", "down-KILL"),
    "tests/lab/restarts/test_dockerd.py::test_row_53_reboot": ("driver late",),
    "tests/lab/restarts/test_boot.py::test_containers_run_again": ("nothing", "driver"),
    "tests/lab/restarts/test_driver.py::test_upgraded_to_another_layout_of_maps": ("flows",),
    "tests/lab/docker/test_failures.py::test_creating_a_network":
        ("RequestPool-refused", "RequestPool-cut", "RequestAddress-done and refused",
         "RequestAddress-done and cut", "CreateNetwork-refused", "CreateNetwork-cut"),
    "tests/lab/docker/test_failures.py::test_starting_a_container":
        ("RequestAddress-refused", "RequestAddress-cut", "CreateEndpoint-done and refused",
         "CreateEndpoint-cut", "Join-refused", "Join-done and cut"),
    "tests/lab/docker/test_failures.py::test_operational_information_is_not_needed":
        ("done and refused", "done and cut", "-refused"),
    "tests/lab/docker/test_failures.py::test_removing_a_container":
        ("Leave-done and refused", "Leave-cut", "DeleteEndpoint-refused",
         "DeleteEndpoint-done and cut", "ReleaseAddress-done and refused", "ReleaseAddress-cut"),
    "tests/lab/docker/test_failures.py::test_removing_a_network":
        ("ReleaseAddress-refused", "ReleaseAddress-done and cut", "ReleasePool-refused",
         "ReleasePool-cut", "DeleteNetwork-done and refused", "DeleteNetwork-done and cut"),
    "tests/lab/restarts/test_lost_etcd.py::test_all_hosts_crash_at_once": ("kept",),
    "tests/lab/tools/test_plugin_alone.py::test_a_wrong_setting": ("PORT_RANGE", "ETCD"),
    "tests/lab/docker/test_programs.py::test_the_check_sees_other_traffic": ("same-host",),
    "tests/lab/docker/test_programs.py::test_redis_and_redis_benchmark": ("same-host",),
}
# The rest of a product; `test` runs each of its values at least once.
PRODUCT = ("tests/netns/spoilt/test_data.py::test_every_record_is_spoilt_in_every_way",)
# Behaviours that the usual release lacks; all others run on it.
NEWER_ONLY = ("tests/lab/docker/test_docker_newer.py",
              "tests/lab/docker/test_examples.py::test_stack_is_understood")

# Killing a driver costs the start of another one.  So `make test` kills before a call's first step,
# each n-th after it and the last; test-all kills before every step.
# tests/unit/whole/test_every_step.py spoils all steps in all ways, with fakes.
KILL_STRIDE = 5


def kill_stride(asked: str) -> int:
    """Return the n with which tier `asked` kills before each n-th step."""
    return 1 if asked == ALL else KILL_STRIDE


def tier(nodeid: str, lab: str | None = None) -> str:
    """Name the first tier that runs a test.  `lab`: the release it runs on, if it has one."""
    if lab not in (None, USUAL_LAB) or is_variant(nodeid) or (
            is_one_of((*LOAD, *AGAIN, *PRODUCT), nodeid)):
        return ALL
    return FOLDERS[PurePath(nodeid.partition("::")[0]).parts[1]]


def is_one_of(named: Collection[str], nodeid: str) -> bool:
    """Say whether `named` has a test or its file."""
    return nodeid.partition("[")[0] in named or nodeid.partition("::")[0] in named


def is_variant(nodeid: str) -> bool:
    """Say whether a test is a variant that only test-all runs."""
    name, _, parameters = nodeid.partition("[")
    return parameters.endswith(tuple(f"{end}]" for end in VARIANTS.get(name, ())))


def lab_of(item: pytest.Item) -> str | None:
    """Return on which of dockers.LABS a test runs, if on any."""
    if not item.nodeid.startswith("tests/lab/"):
        return None
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return next((str(parameters[name]) for name in ("lab", "plugged", "alone")
                 if name in parameters), None)


def runs(asked: str, nodeid: str, lab: str | None) -> bool:
    """Say whether tier `asked` runs a test."""
    return TIERS.index(tier(nodeid, lab)) <= TIERS.index(asked)


def reads(asked: str, folder: str) -> bool:
    """Say whether tier `asked` runs any test of a folder; pytest does not even read the others."""
    return TIERS.index(FOLDERS.get(folder, CHECK)) <= TIERS.index(asked)
