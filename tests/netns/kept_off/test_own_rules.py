"""Tests containers with their own packet filter rules: these hold, whatever made them, and when.

Each rule names virtual addresses, which its author knows; the host path's packets have others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.netns.cluster.etcd_world import LONG_S, Box
from tests.netns.kept_off.rules_world import ECHO, Hosts, dockers_rules, hosts, run_on
from tests.netns.talk import run
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns
from tests.support.world.packet_filter import ours
from tests.support.world.served import Host

__all__ = ["hosts"]
pytestmark = pytest.mark.timeout(600)

TOOLS = ("iptables-nft", "iptables-legacy")
# A side-car, which answers with the called address, as the kernel remembers it.
SIDE_CAR = """
    def handle(c):
        raw = c.getsockopt(socket.SOL_IP, 80, 16)  # SO_ORIGINAL_DST
        port, address = struct.unpack_from("!2xH4s", raw)
        c.sendall(f"{socket.inet_ntoa(address)} {port}".encode())
        c.close()
    serve(listen("0.0.0.0", 15001), handle)
"""
ORIGINAL = """
    c = connected(sys.argv[1], int(sys.argv[2]), timeout_s=20)
    print(c.recv(100).decode())
"""
Rules = Callable[[Host, Netns], object]


@contextmanager
def ruled(hosts: Hosts, rules: Rules, when: str, *, serve: str = ECHO, tool: str = TOOLS[0]
          ) -> Iterator[Box]:
    """A container on the other host, with rules from its start, or made later."""
    def prepare(host: Host, namespace: Netns) -> None:
        dockers_rules(host, namespace, tool)
        if when == "at start":
            rules(host, namespace)

    with hosts.box(hosts.there, prepare, serve=serve) as box:
        if when == "later":
            hosts.wait_on(box)
            rules(box.host, box.netns)
        hosts.wait_off(box, "own_rules")
        yield box


def calling(tool: str, *rules: str) -> Rules:
    return lambda host, namespace: [run_on(host, namespace, tool, *rule.split()) for rule in rules]


@pytest.mark.parametrize("when", ["at start", "later"])
@pytest.mark.parametrize("tool", TOOLS)
def test_rules_by_a_connections_state(hosts: Hosts, tool: str, when: str) -> None:
    """Packets with virtual addresses are tracked from the moment on at which there are rules."""
    stateful = calling(tool, "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
                       "-A INPUT -i lo -j ACCEPT", "-A INPUT -j DROP")
    with ruled(hosts, stateful, when, tool=tool) as box, hosts.box(hosts.there) as neighbour:
        for server in (hosts.near, neighbour):
            assert hosts.call(box, server) == "hello"
            assert hosts.error(server, box) == "timeout"
        run_on(box.host, box.netns, tool, "-F", "INPUT")
        hosts.wait_on(box)
        assert hosts.call(neighbour, box) == "hello"
        wait_until(lambda: any(box.ip in rule for rule in ours(box.netns)), LONG_S,
                   "they are exempt again")


@pytest.mark.parametrize("tool", TOOLS)
def test_dockers_own_rules_do_not_count(hosts: Hosts, tool: str) -> None:
    with hosts.box(hosts.there, lambda *where: dockers_rules(*where, tool)) as box:
        run_on(box.host, box.netns, tool, "-L")  # leaves chains without rules, or an empty table
        hosts.wait_on(box)
        hosts.assert_host_path(hosts.near, box)


@pytest.mark.parametrize("when", ["at start", "later"])
@pytest.mark.parametrize("tool", TOOLS)
def test_who_is_denied_does_not_get_in(hosts: Hosts, tool: str, when: str) -> None:
    deny = calling(tool, f"-A INPUT -s {hosts.near.ip} -j DROP")
    with ruled(hosts, deny, when, tool=tool) as box, hosts.box(hosts.here, serve="") as other:
        assert hosts.error(hosts.near, box) == "timeout"
        hosts.assert_overlay(other, box, "overlay_only")
        run_on(box.host, box.netns, tool, "-F", "INPUT")
        hosts.wait_on(box)
        hosts.assert_host_path(hosts.near, box)


@pytest.mark.parametrize("when", ["at start", "later"])
@pytest.mark.parametrize("tool", TOOLS)
def test_who_is_allowed_gets_in_and_nobody_else(hosts: Hosts, tool: str, when: str) -> None:
    allow = calling(tool, "-P INPUT DROP", "-A INPUT -i lo -j ACCEPT",
                    f"-A INPUT -s {hosts.near.ip} -j ACCEPT")
    with ruled(hosts, allow, when, tool=tool) as box, hosts.box(hosts.here, serve="") as other:
        hosts.assert_overlay(hosts.near, box, "overlay_only")
        assert hosts.error(other, box) == "timeout"


@pytest.mark.parametrize("when", ["at start", "later"])
def test_a_container_that_lets_in_only_answers(hosts: Hosts, when: str) -> None:
    """The rules, in nft's language, are those of VPN containers."""
    def rules(host: Host, namespace: Netns) -> None:
        run_on(host, namespace, "nft", "add table inet vpn; "
                      "add chain inet vpn in { type filter hook input priority 0; policy drop; }; "
                      "add rule inet vpn in iifname lo accept; "
                      "add rule inet vpn in ct state established,related accept")

    with ruled(hosts, rules, when) as box:
        hosts.assert_overlay(box, hosts.near, "own_rules")
        assert hosts.error(hosts.near, box) == "timeout"


@pytest.mark.parametrize("which", ["--dport 80", ""], ids=["one port", "all TCP"])
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("when", ["at start", "later"])
def test_a_side_car_for_what_comes_in(hosts: Hosts, which: str, tool: str, when: str) -> None:
    redirect = calling(tool, f"-t nat -A PREROUTING -p tcp {which} -j REDIRECT --to-ports 15001")
    with ruled(hosts, redirect, when, serve=SIDE_CAR, tool=tool) as box:
        with hosts.counted() as grown:
            assert run(hosts.world.container(hosts.near), ORIGINAL, box.ip, 80) == f"{box.ip} 80"
        assert grown["connected"] == 0, grown


@pytest.mark.parametrize("when", ["at start", "later"])
def test_a_side_car_for_what_goes_out(hosts: Hosts, when: str) -> None:
    redirect = calling(TOOLS[0], "-t nat -A OUTPUT -p tcp -d 10.50.0.0/16 -j REDIRECT "
                                 "--to-ports 15001")
    with ruled(hosts, redirect, when, serve=SIDE_CAR) as box:
        with hosts.counted() as grown:
            called = run(hosts.world.container(box), ORIGINAL, hosts.near.ip, 80)
        assert called == f"{hosts.near.ip} 80"
        assert grown["own_rules"] == 1, grown


def test_a_tc_filter_counts(hosts: Hosts) -> None:
    """tc filters see packets before any socket does; Kata has such ones."""
    with hosts.box(hosts.there) as box:
        hosts.wait_on(box)
        for direction in ("ingress", "egress"):
            box.netns.run("tc", "filter", "add", "dev", "eth0", direction, "prio", "5", "bpf",
                          "bytecode", "1,6 0 0 0,", "classid", "1:1")
            hosts.wait_off(box, "own_rules")
            hosts.assert_overlay(hosts.near, box, "overlay_only")
            box.netns.run("tc", "filter", "del", "dev", "eth0", direction, "prio", "5")
            hosts.wait_on(box)


def test_what_is_open_goes_on(hosts: Hosts) -> None:
    flow = """
        c = connected(sys.argv[1], 80)
        ready()
        for line in sys.stdin:
            print(len(asked(c, line.encode() * 100)), flush=True)
    """
    with hosts.box(hosts.there) as box:
        open_ = hosts.world.program(hosts.near, flow, box.ip)
        assert open_.line() == "ready"
        run_on(box.host, box.netns, "iptables-nft", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
        hosts.wait_off(box, "own_rules")
        open_.say("x")
        assert open_.line() == "200"
        run_on(box.host, box.netns, "iptables-nft", "-F", "INPUT")
        hosts.wait_on(box)
        open_.say("x")
        assert open_.line() == "200"
        open_.end()


def test_who_has_not_heard_yet_fails_at_once(hosts: Hosts) -> None:
    """The container's kernel refuses before its peers know of the rules."""
    with hosts.box(hosts.there) as box:
        hosts.wait_on(box)
        with hosts.world.cut_off(2):  # its host does not reach etcd
            calling("iptables-nft", "-A INPUT -s 192.0.2.9 -j DROP")(box.host, box.netns)
            wait_until(lambda: "own_rules 1" in hosts.there.status()["host path"], LONG_S,
                       "the rule is seen")
            with hosts.counted() as grown:
                assert hosts.error(hosts.near, box, timeout_s=20) == "EHOSTUNREACH"
            assert grown["syn_withheld"] == 1, grown
        hosts.wait_off(box, "own_rules")
        hosts.assert_overlay(hosts.near, box, "overlay_only")


def test_on_overrules_what_is_found(hosts: Hosts) -> None:
    deny = calling("iptables-nft", f"-A INPUT -s {hosts.near.ip} -j DROP")
    with hosts.box(hosts.there, deny, host_path="on") as box:
        hosts.assert_host_path(hosts.near, box)
        calling("iptables-legacy", f"-A INPUT -s {hosts.near.ip} -j DROP")(box.host, box.netns)
        # Its SYN gets no answer until the driver has looked at the change.
        hosts.assert_host_path(hosts.near, box)


def test_a_driver_that_comes_back_finds_the_rules(hosts: Hosts) -> None:
    deny = calling("iptables-nft", f"-A INPUT -s {hosts.near.ip} -j DROP")
    with ruled(hosts, deny, "later") as box:
        hosts.world.restart(hosts.there)
        hosts.wait_off(box, "own_rules")
        assert hosts.error(hosts.near, box) == "timeout"
        run_on(box.host, box.netns, "iptables-nft", "-F", "INPUT")
        hosts.wait_on(box)
        hosts.assert_host_path(hosts.near, box)
