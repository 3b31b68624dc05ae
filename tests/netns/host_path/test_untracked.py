"""Tests what containers do not track though Docker's rules make them: the host path's packets, and
those with virtual addresses while nobody else has rules.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address

import pytest
from pyroute2.netlink.nfnetlink.nftsocket import nft_table_msg

from driver.errors import LinkError
from driver.link.netlink import nft, nft_socket
from driver.link.netlink.names import SANDBOX_TABLE
from driver.link.sandbox import untracked
from driver.link.sandbox.inspection import KernelInspector
from tests.netns.talk import client, host_path, overlay, run, server, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine
from tests.support.world.packet_filter import ours, rules, tracked

Pair = tuple[Container, Container]
_OWNED = 2  # NFT_TABLE_F_OWNER: only its owner may change the table, which ends with the socket
_FLAGS = "NFTA_TABLE_FLAGS"


def test_neither_path_is_tracked(across: Pair) -> None:
    here, there = across
    server(there)
    assert look(here) == look(there) == ""
    assert tracked(here.netns) == tracked(there.netns) == 0
    holding = """
        held = [connected(sys.argv[1], 80, bind=eval(sys.argv[2])) for _ in range(5)]
        assert all(asked(each) == b"hello" for each in held)
        ready()
        sys.stdin.readline()
    """
    with host_path(here, there, connections=5):
        started(here, holding, there.address, None)
        assert tracked(here.netns) == tracked(there.netns) == 0
    with overlay(here, there, because="bound_address"):
        started(here, holding, there.address, (here.address, 0))
        assert tracked(here.netns) == tracked(there.netns) == 0


def test_what_is_not_slims_is_tracked(machines: list[Machine]) -> None:
    """Its name server's, and other networks'."""
    container = machines[0].container("10.32.0.2/16")
    server(container, 80)
    started(container, """
        held = connected(sys.argv[1], 80)
        assert asked(held) == b"hello"
        ready()
        sys.stdin.readline()
    """, "127.0.0.1")
    assert tracked(container.netns) == 1


def look(container: Container) -> str:
    """As a driver does when something has changed; return the rules found."""
    machine = container.machine
    inspector = KernelInspector(overlay_mtu=lambda: 1450, with_filter=False)
    return inspector.look(container.netns.path, container.endpoints, underlay=machine.underlay,
                          just_set_up=True).own_rules


def exempt(container: Container) -> set[str]:
    """Return the addresses that are not tracked; each in both directions."""
    found = [rule.split()[-1] for rule in ours(container.netns)]
    assert all(found.count(address) == 2 for address in found)
    return set(found)


@pytest.mark.parametrize("rule", [
    ("INPUT", "-s", "192.0.2.9", "-j", "DROP"),
    ("OUTPUT", "-t", "nat", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001")])
def test_with_rules_of_its_own_it_is_tracked(machines: list[Machine], rule: tuple[str, ...]
                                             ) -> None:
    container = machines[0].container("10.32.0.2/16", "10.33.0.2/16")
    underlay = str(machines[0].underlay)
    assert look(container) == ""
    assert exempt(container) == {underlay, "10.32.0.2", "10.33.0.2"}
    before = ours(container.netns)
    assert look(container) == ""
    assert ours(container.netns) == before  # nothing was made anew
    container.netns.run("iptables", "-A", *rule)
    for _ in range(2):
        assert look(container) != ""
        assert exempt(container) == {underlay}
        machines[0].finish(container)
    container.netns.run("iptables", "-D", *rule)
    assert look(container) == ""
    assert exempt(container) == {underlay, "10.32.0.2", "10.33.0.2"}


def test_rules_that_are_there_before_slim(machines: list[Machine]) -> None:
    container = machines[0].container("10.32.0.2/16", host_path=False)
    container.netns.run("iptables", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    machines[0].finish(container)
    assert look(container) != ""
    assert exempt(container) == {str(machines[0].underlay)}


def test_a_table_that_was_removed_is_put_back_first(machines: list[Machine]) -> None:
    container = machines[0].container("10.32.0.2/16")
    for _ in range(2):
        assert look(container) == ""
        container.netns.call(untracked.remove)
    assert look(container) == ""
    assert exempt(container) == set()
    machines[0].finish(container)
    assert look(container) == ""
    assert exempt(container) == {str(machines[0].underlay), "10.32.0.2"}


def test_a_tracked_listener_would_be_lost(across: Pair) -> None:
    """The table keeps the listener reachable; a container that removes it cuts off only itself."""
    here, there = across
    server(there)
    server(there, 81, protocol=262)
    there.netns.call(untracked.remove)
    with host_path(here, there, connections=1):
        client(here, there.address)
    assert run(here, "print(error_of(lambda: connected(sys.argv[1], 81)))",
               there.address) == "ECONNREFUSED"
    there.machine.finish(there)  # as a driver does at its start
    with host_path(here, there, connections=1, also={"listener_assigned"}):
        client(here, there.address, 81)


def test_icmp_errors_about_it_are_not_invalid(machines: list[Machine]) -> None:
    """Else a container that drops INVALID packets would never learn of a smaller MTU."""
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    for state in ("UNTRACKED", "INVALID"):
        here.netns.run("iptables", "-A", "INPUT", "-p", "icmp", "-m", "conntrack",
                       "--ctstate", state)
    server(there)
    with host_path(here, there):
        started(here, """
            c = connected(sys.argv[1], 80)
            assert asked(c) == b"hello"
            ready()
            sys.stdin.readline()
        """, there.address)
        (flow,) = run(here, """
            for row in [line.split() for line in open("/proc/net/tcp")][1:]:
                print(row[1], row[2])
        """).splitlines()
        _send_unreachable(machines[1], machines[0], flow)

    def counted() -> list[int]:
        shown = here.netns.run("iptables", "-nvxL", "INPUT").stdout
        return [int(count) for count in re.findall(r"(?m)^ +(\d+) .*ctstate", shown)]

    wait_until(lambda: sum(counted()) == 1, 30, "the error has arrived")
    assert counted() == [1, 0]


def _send_unreachable(by: Machine, to: Machine, flow: str) -> None:
    """Send a "host unreachable" about a connection, as a router between the hosts would."""
    from scapy.layers.inet import ICMP, IP, TCP

    own, peer = (int(end.split(":")[1], 16) for end in flow.split())
    about = IP(src=str(to.underlay), dst=str(by.underlay)) / TCP(sport=own, dport=peer)
    error = IP(dst=str(to.underlay)) / ICMP(type=3, code=1) / about

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(bytes(error[ICMP]), (str(to.underlay), 0))

    by.netns.call(send)


def test_its_whole_life(machines: list[Machine]) -> None:
    """The table comes with the first interface, survives a repeated set-up, and is removed."""
    machine = machines[0]
    container = machine.container()
    container.netns.run("iptables", "-t", "raw", "-A", "OUTPUT", "-d", "192.0.2.9", "-j", "CT",
                        "--notrack")
    before = rules(container.netns)
    assert set(before) == {"nat", "raw"}
    first = machine.connect(container, "10.32.0.2/16")
    machine.connect(container, "10.33.0.2/16", vni=2)
    made = ours(container.netns)
    assert [(rule.split()[0], "notrack" in rule) for rule in made] == [
        ("prerouting", True), ("output", True)]  # it has rules of its own
    machine.finish(container)
    machine.disconnect(container, first)
    assert ours(container.netns) == made
    machine.disconnect(container, container.endpoints[0][0])
    for _ in range(2):
        machine.sandboxes.tear_down(container.netns.path, machine.underlay)
        assert rules(container.netns) == before


def test_another_underlay_address_takes_its_place(machines: list[Machine]) -> None:
    machine = machines[0]
    container = machine.container("10.32.0.2/16")
    assert exempt(container) == {str(machine.underlay)}
    assert look(container) == ""
    endpoint, veth = container.endpoints[0]
    machine.sandboxes.set_up(container.netns.path, endpoint, veth, primary=True, overlay_mtu=1450,
                             underlay=IPv4Address("198.18.77.99"))
    assert exempt(container) == {"198.18.77.99"}
    # The driver that tears down may have another underlay address than the one that set up.
    machine.sandboxes.tear_down(container.netns.path, machine.underlay)
    assert SANDBOX_TABLE not in rules(container.netns)


def test_where_it_cannot_be_the_overlay_serves(machines: list[Machine]) -> None:
    """Without the table some programs would fail on the host path, so the driver avoids it."""
    machine = machines[0]
    container = machine.container("10.32.0.2/16", host_path=False)
    table = nft.message(nft_table_msg, "new", "TABLE", [
        ("NFTA_TABLE_NAME", SANDBOX_TABLE), (_FLAGS, _OWNED)])

    def own() -> socket.socket:
        owner = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
        owner.send(nft_socket.batch([table]))
        return owner

    rule_list = container.netns.ip("rule")
    with container.netns.call(own):
        with pytest.raises(LinkError, match=f"table {SANDBOX_TABLE}: Operation not permitted"):
            machine.finish(container)
        assert container.netns.ip("rule") == rule_list
    machine.finish(container)
    assert len(exempt(container)) == 1


def test_the_doctors_question_leaves_nothing(machines: list[Machine]) -> None:
    namespace = machines[0].netns
    before = rules(namespace)
    for _ in range(2):
        namespace.call(untracked.works)
        assert rules(namespace) == before
