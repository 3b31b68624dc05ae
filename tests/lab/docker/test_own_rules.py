"""Tests containers kept off the host path, by their own rules or by their user's setting."""

from __future__ import annotations

import json

import pytest

from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import SUBNET, call, check_views, create_network, start
from tests.lab.rig.dockers import feature
from tests.lab.rig.hosts import CommandFailed, Host
from tests.support.run.wait import wait_until

WAIT_S = 30.0
OFF_SUBNET = "10.33.0.0/16"


def host_path(host: Host) -> str:
    return str(json.loads(host.call("Slim.Status")[1])["Status"]["host path"])


def inside(host: Host, container: str, *command: str) -> None:
    """Run a command in the container with CAP_NET_ADMIN, as a program of its own could."""
    pid = host.inspect(container)["State"]["Pid"]
    host.exec("nsenter", f"--net=/proc/{pid}/ns/net", *command)


def called(h1: Host, h2: Host, server: str) -> tuple[int, int]:
    """Call from h1; return how many connections on the host path were made, and accepted."""
    before = h1.counters()["connected"], h2.counters()["accepted"]
    call(h1, "client", server)
    return h1.counters()["connected"] - before[0], h2.counters()["accepted"] - before[1]


@feature("packet filter rules in a container; `slim.host_path` as label and option")
def test_rules_that_come_and_go(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    server = start(h2, "server", *SERVE, options=["--cap-add", "NET_ADMIN"])
    client = start(h1, "client")
    # Docker's DNS rules do not count.
    wait_until(lambda: host_path(h2) == "all 1 sandboxes", WAIT_S, "nothing speaks against it")
    wait_until(lambda: called(h1, h2, server) == (1, 1), WAIT_S, "the host path")
    inside(h2, "server", "iptables", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    wait_until(lambda: "own_rules 1" in host_path(h2), WAIT_S, "the rule is seen")
    wait_until(lambda: called(h1, h2, server) == (0, 0), WAIT_S, "the overlay")
    check_views(call(h1, "client", server), client, server)
    inside(h2, "server", "iptables", "-F", "INPUT")
    wait_until(lambda: called(h1, h2, server) == (1, 1), WAIT_S, "the host path again")


@feature("packet filter rules in a container; `slim.host_path` as label and option")
def test_a_label_and_a_network_switch_it_off(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start(h1, "client")
    labelled = start(h2, "labelled", *SERVE, options=["--label", "slim.host_path=off"])
    other = start(h2, "other", *SERVE)
    wait_until(lambda: "1 of 2 sandboxes are off it: switched_off 1" in host_path(h2), WAIT_S,
               "the label is read")
    wait_until(lambda: called(h1, h2, labelled) == (0, 0), WAIT_S, "the overlay")
    wait_until(lambda: called(h1, h2, other) == (1, 1), WAIT_S, "the host path")
    for host in (h1, h2):
        host.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet",
                    OFF_SUBNET, "-o", "slim.host_path=off", "off")
    without = start(h2, "without", *SERVE, network="off")
    h1.docker("network", "connect", "off", "client")
    assert called(h1, h2, without) == (0, 0)
    assert called(h1, h2, other) == (1, 1)


def test_a_wrong_choice_is_refused(h1: Host) -> None:
    with pytest.raises(CommandFailed, match="'no': want off, on, auto"):
        h1.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", SUBNET,
                  "-o", "slim.host_path=no", "app")
