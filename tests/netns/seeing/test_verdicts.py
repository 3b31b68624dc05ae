"""Tests `slim why`'s verdict against the path that a real connection then takes.

Whatever is in its way, the counters of the client's host say which way it went, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from driver.datapath.tables.host_paths import BlockedHosts
from driver.datapath.tables.withheld import WithheldMaps
from driver.services.ports import Path, Why
from tests.netns.kept_off.noted import told
from tests.netns.seeing.eyes import Eyes
from tests.netns.talk import counted, run, server
from tests.support.world.machines import Container, Machine

CALL = """
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    print(error_of(lambda: asked(connected(sys.argv[1], 80, family=family, timeout_s=20))))
"""
# In this order: last packets of the connection before may be counted, too, and take the overlay.
OF_PATH = {"connected": Path.HOST, "local": Path.LOCAL, "overlay_sent": Path.OVERLAY}


def assert_true(here: Container, there: Container | None, address: str = "", *,
                path: Path, reason: str = "", error: str = "none") -> None:
    """Assert the verdict, and then that a connection goes that way, for that reason."""
    address = address or (there.address if there is not None else "")
    way = Eyes(here.machine).way(here, address)
    judged = way.judgement
    assert (judged.path, judged.reason.reason if judged.reason else "") == (path, reason), (
        way.verdict)
    with counted(*filter(None, (here, there))) as total:
        assert run(here, CALL, address) == error
    taken = next((way for name, way in OF_PATH.items() if total.get(name)), Path.NONE)
    if path is Path.NONE:
        assert taken not in (Path.HOST, Path.LOCAL), total
    else:
        assert taken is path, total
    if reason:
        assert total.get(reason, 0) > 0, total


@contextmanager
def withheld(here: Container, why: Why) -> Iterator[None]:
    maps, cookie = WithheldMaps(here.machine.loaded), here.netns.cookie
    maps.withhold(cookie, why)
    try:
        yield
    finally:
        maps.release(cookie)


@contextmanager
def blocked(here: Container, there: Container) -> Iterator[None]:
    hosts = BlockedHosts(here.machine.loaded)
    hosts.block({there.machine.underlay})
    try:
        yield
    finally:
        hosts.block(())


@contextmanager
def dead(here: Container, there: Container) -> Iterator[None]:
    here.machine.datapath.refuse_hosts({there.machine.underlay})
    try:
        yield
    finally:
        here.machine.datapath.refuse_hosts(())


def test_the_host_path(across: tuple[Container, Container]) -> None:
    server(across[1])
    assert_true(*across, path=Path.HOST)


def test_directly(machines: list[Machine]) -> None:
    here, there = (machines[0].container(f"10.32.0.{number}/16") for number in (2, 3))
    server(there)
    assert_true(here, there, path=Path.LOCAL)
    with withheld(here, Why.OWN_RULES):
        assert_true(here, there, path=Path.LOCAL)


@pytest.mark.parametrize("why", [why for why in Why if why is not Why.IPV6_OPTIONS])
def test_a_client_that_is_kept_off(across: tuple[Container, Container], why: Why) -> None:
    here, there = across
    server(there)
    with withheld(here, why):
        assert_true(here, there, path=Path.OVERLAY, reason=str(why))
    assert_true(here, there, path=Path.HOST)


def test_a_key_that_the_kernel_has_seen(across: tuple[Container, Container]) -> None:
    here, there = across
    server(there)
    run(here, 'set_key(socket.socket(), "10.32.0.77", b"secret")')
    assert_true(here, there, path=Path.OVERLAY, reason="keys")


def test_a_server_that_is_not_offered(across: tuple[Container, Container]) -> None:
    here, there = across
    server(there)
    with told(there):
        assert_true(here, there, path=Path.OVERLAY, reason="overlay_only")


def test_a_host_that_is_blocked(across: tuple[Container, Container]) -> None:
    here, there = across
    server(there)
    with blocked(here, there):
        assert_true(here, there, path=Path.OVERLAY, reason="peer_blocked")


def test_a_host_that_is_gone(across: tuple[Container, Container]) -> None:
    here, there = across
    server(there)
    with dead(here, there):
        assert_true(here, there, path=Path.NONE, reason="host_dead", error="EHOSTUNREACH")


def test_a_client_that_has_its_share(across: tuple[Container, Container]) -> None:
    here, there = across
    server(there)
    shares, flows = (here.machine.loaded.table(name) for name in ("shares", "flows"))
    shares[shares.Key(0)] = shares.Leaf(flows.max_entries)
    try:
        assert_true(here, there, path=Path.OVERLAY, reason="share_used")
    finally:
        here.machine.datapath.sweep_flows()  # counts anew


def test_several_reasons_at_once(across: tuple[Container, Container]) -> None:
    """The kernel counts the first one; the verdict names it, and the others follow."""
    here, there = across
    server(there)
    with blocked(here, there), told(there), withheld(here, Why.OWN_RULES):
        assert_true(here, there, path=Path.OVERLAY, reason="own_rules")
        way = Eyes(here.machine).way(here, there.address)
        assert [each.reason for each in way.checks if each.good is False] == [
            "own_rules", "overlay_only", "peer_blocked"]


def test_a_client_that_is_not_finished(machines: list[Machine]) -> None:
    """The hooks do not know it, so no reason is counted."""
    here = machines[0].container("10.32.0.2/16", host_path=False)
    there = machines[1].container("10.32.0.3/16")
    server(there)
    way = Eyes(machines[0]).way(here, there.address)
    assert (way.judgement.path, "not set up" in way.verdict) == (Path.OVERLAY, True)
    with counted(here, there) as total:
        assert run(here, CALL, there.address) == "none"
    assert total.get("overlay_sent", 0) > 0
    assert not total.keys() & {"connected", "overlay_only"}


def test_a_client_without_a_port(machines: list[Machine]) -> None:
    here, there = machines[0].container("10.32.0.2/16"), machines[1].container("10.32.0.3/16")
    server(there)
    endpoint, veth = here.endpoints[0]
    here.endpoints[0] = replace(endpoint, port=0), veth
    try:
        machines[0].finish(here)
        assert_true(here, there, path=Path.OVERLAY, reason="overlay_only")
    finally:
        here.endpoints[0] = endpoint, veth
        machines[0].finish(here)


def test_an_address_that_nobody_has(across: tuple[Container, Container]) -> None:
    here, _ = across
    assert_true(here, None, "10.32.0.99", path=Path.NONE, reason="unknown_peer",
                error="EHOSTUNREACH")


def test_another_network(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16")
    there = machines[0].container("10.33.0.3/16", vni=2)
    server(there)
    way = Eyes(machines[0]).way(here, there.address)
    assert way.judgement.path is Path.NONE
    assert "no network in common" in way.verdict
    assert run(here, CALL, there.address) == "ENETUNREACH"


def test_a_container_that_calls_itself(across: tuple[Container, Container]) -> None:
    here, _ = across
    server(here)
    way = Eyes(here.machine).way(here, here.address)
    assert way.judgement.path is Path.LOCAL
    with counted(here) as total:
        assert run(here, CALL, here.address) == "none"
    assert total == {}


# A connection of one host goes by its own listeners.

@pytest.mark.parametrize(("port", "error"), [(80, "none"), (81, "ECONNREFUSED")])
def test_what_listens_on_this_host(machines: list[Machine], port: int, error: str) -> None:
    here, there = (machines[0].container(f"10.32.0.{number}/16") for number in (2, 3))
    server(there)
    way = Eyes(machines[0]).way(here, f"{there.address}:{port}")
    assert ("nothing listens" in way.verdict) is (error != "none")
    assert run(here, f"print(error_of(lambda: connected(sys.argv[1], {port})))",
               there.address) == error


# IPv6.

@pytest.fixture
def both(machines: list[Machine]) -> tuple[Container, Container]:
    """As `across`, with IPv6 addresses, too; the server listens."""
    here, there = (machine.container(f"10.32.0.{number}/16", address6=f"fd00:32::{number}/64")
                   for number, machine in enumerate(machines, 2))
    server(there, address="::")
    return here, there


def test_ipv6_on_the_host_path(both: tuple[Container, Container]) -> None:
    here, there = both
    for address in (there.address, there.address6):
        assert_true(here, there, address, path=Path.HOST)


def test_a_client_with_ipv6_options(both: tuple[Container, Container]) -> None:
    here, there = both
    run(here, "socket.socket(socket.AF_INET6).setsockopt(socket.IPPROTO_IPV6, 73, 1)")
    assert_true(here, there, there.address6, path=Path.OVERLAY, reason="ipv6_options")
    assert_true(here, there, there.address, path=Path.HOST)


def test_a_namespace_in_which_sockets_are_ipv6_only(both: tuple[Container, Container]) -> None:
    here, there = both
    here.netns.sysctl("ipv6.bindv6only", 1)
    assert_true(here, there, there.address6, path=Path.OVERLAY, reason="ipv6_only")
    assert_true(here, there, there.address, path=Path.HOST)


def test_a_server_that_takes_no_ipv6(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16", address6="fd00:32::2/64")
    there = machines[1].container()
    machines[1].connect(there, "10.32.0.3/16", address6="fd00:32::3/64", takes_ipv6=False)
    server(there, address="::")
    assert_true(here, there, there.address6, path=Path.OVERLAY, reason="overlay_only")
    assert_true(here, there, there.address, path=Path.HOST)


def test_a_client_that_takes_none(machines: list[Machine]) -> None:
    here = machines[0].container()
    machines[0].connect(here, "10.32.0.2/16", address6="fd00:32::2/64", takes_ipv6=False)
    there = machines[1].container("10.32.0.3/16", address6="fd00:32::3/64")
    server(there, address="::")
    way = Eyes(machines[0]).way(here, there.address6)
    assert way.judgement.path is Path.OVERLAY
    with counted(here, there) as total:
        assert run(here, CALL, there.address6) == "none"
    assert total.get("overlay_sent", 0) > 0
    assert "connected" not in total


# Services.

def test_the_tasks_of_a_service(machines: list[Machine]) -> None:
    here = machines[0].container("10.32.0.2/16")
    near, far = machines[0].container("10.32.0.3/16"), machines[1].container("10.32.0.4/16")
    cluster = machines[0].cluster
    for each in (near, far):
        server(each)
    with cluster.service("10.32.0.200", near.address, far.address) as change:
        answer = Eyes(machines[0]).why(here, "10.32.0.200")
        assert {(str(way.target), way.judgement.path) for way in answer.ways} == {
            (near.address, Path.LOCAL), (far.address, Path.HOST)}
        for task, path in ((near, Path.LOCAL), (far, Path.HOST)):
            change(task.address)
            assert_true(here, task, "10.32.0.200", path=path)
        change("10.32.0.77")  # who is not there
        assert_true(here, far, "10.32.0.200", path=Path.NONE, reason="service_empty",
                    error="ECONNREFUSED")
