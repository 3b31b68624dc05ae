"""Tests what two hosts' drivers tell of connections between them, and of each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driver.commands.control_client import ask
from tests.netns.cluster.etcd_world import LONG_S, World
from tests.support.metrics import Scraped
from tests.support.run.wait import wait_until
from tests.support.world.served import Host

COUNTS = Path("/proc/sys/kernel/bpf_stats_enabled")


def told(host: Host) -> Scraped:
    return Scraped(str(ask(host.socket, "Slim.Metrics")["Metrics"]))


def reason(host: Host, name: str) -> float:
    return told(host).value("slim_reasons_total", reason=name)


@contextmanager
def counting() -> Iterator[None]:
    """Have the kernel count the runs of all programs of this machine, as long as this lasts."""
    before = COUNTS.read_text()
    COUNTS.write_text("1")
    try:
        yield
    finally:
        COUNTS.write_text(before)


def test_connections(world: World) -> None:
    before = [(reason(host, "connected"), reason(host, "accepted")) for host in world.hosts]
    world.assert_new_connections()  # one each way
    after = [(reason(host, "connected"), reason(host, "accepted")) for host in world.hosts]
    assert after == [(made + 1, taken + 1) for made, taken in before]
    # The world's open connection, at least.
    assert all(told(host).value("slim_map_entries", map="flows") >= 1 for host in world.hosts)


def test_of_each_other(world: World) -> None:
    for host in world.hosts:
        wait_until(lambda h=host: told(h).value(  # type: ignore[misc]
            "slim_peers", verdict="open") == 1, LONG_S, "the peer answers probes")
        found = told(host)
        assert found.value("slim_hosts", state="registered") == 2
        assert found.value("slim_hosts", state="gone") == 0
        assert found.value("slim_directory_endpoints") == 2
        assert found.value("slim_pool_addresses_used", pool="10.50.0.0/16") == 2
        assert sum(found.values("slim_scrape_errors_total").values()) == 0


def test_runs_of_programs_while_the_kernel_counts(world: World) -> None:
    with counting():
        before = told(world.hosts[0])
        world.assert_new_connections()
        after = told(world.hosts[0])
    for program in ("connect4", "from_container", "from_wire"):
        for name in ("slim_program_runs_total", "slim_program_run_seconds_total"):
            assert after.value(name, program=program) > before.value(name, program=program), name
    assert before.values("slim_program_runs_total").keys() == after.values(
        "slim_program_runs_total").keys()
