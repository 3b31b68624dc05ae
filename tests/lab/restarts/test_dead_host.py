"""Tests a host that dies for good: peers notice, its addresses return, and it may come back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import SERVE, TOOLS
from tests.lab.docker.test_docker import address_of, call, check_views, create_network, start
from tests.lab.docker.test_three_hosts import third  # noqa: F401 - a fixture
from tests.lab.rig.dockers import feature
from tests.lab.rig.hosts import LAB_SH, PROJECT, CommandFailed, Host, Lab, run
from tests.lab.rig.snapshot import remove_everything
from tests.support.run.wait import wait_until

AWAY_S = 60  # the shortest time after which addresses return
AWAY = ("--return-addresses-after", str(AWAY_S))
NOTICED_S = 60  # a lease of 15 s, three probes, a busy machine


def slim(host: Host, *command: str) -> str:
    return host.exec(str(PROJECT / ".venv/bin/python"), "-m", "driver", *command,
                     "--etcd", host.lab.etcd_url)


@pytest.fixture
def mortal(hosts: list[Host], third: Host) -> Iterator[Host]:  # noqa: F811
    """A third host, whose addresses return after the shortest time."""
    third.start_driver(*AWAY)
    try:
        yield third
    finally:
        come_back(third)
        remove_everything(third)
        third.stop_driver()


def die(host: Host) -> None:
    """Cut power and cable at once, so that nothing on the host answers."""
    run([str(LAB_SH), "link", host.name, "down"], env=host.lab.env)
    run([str(LAB_SH), "crash", host.name], env=host.lab.env)
    assert host.driver is not None
    host.driver.join()
    host.driver = None


def come_back(host: Host) -> None:
    """Boot the host with its disk."""
    host.reboot(*AWAY)


def refused(host: Host, container: str, address: str) -> bool:
    """Whether a connection is refused at once.  Else it hangs: 2 s here, usually minutes."""
    code = ("import socket, sys; s = socket.socket(); s.settimeout(2)\n"
            "print(s.connect_ex((sys.argv[1], 7000)))")
    return host.docker("exec", container, "python3", "-c", code, address) == "113"  # EHOSTUNREACH


@pytest.mark.timeout(600)
@feature("a host that dies: connections to it fail fast, its addresses return")
def test_a_host_dies_and_comes_back(hosts: list[Host], mortal: Host, lab: Lab) -> None:
    first, second = hosts
    create_network([*hosts, mortal])
    a, b = start(first, "alice", *SERVE), start(second, "bob", *SERVE)
    lost = start(mortal, "doomed", *SERVE, options=["--restart", "always"])
    check_views(call(first, "alice", lost), client=a, server=lost)
    die(mortal)
    for host, container in ((first, "alice"), (second, "bob")):
        wait_until(lambda h=host, c=container: refused(h, c, lost), NOTICED_S,  # type: ignore[misc]
                   f"{host.name} refuses connections to the dead host")
        assert host.counters()["host_dead"] > 0
    check_views(call(first, "alice", b), client=a, server=b)
    with pytest.raises(CommandFailed, match=r"in use|held|given|belongs"):
        start(first, "heir", *SERVE, options=["--ip", lost])
    first.docker("rm", "-f", "heir")
    wait_until(lambda: "keeps its addresses for" in slim(first, "hosts"), NOTICED_S,
               "its absence is on record")

    wait_until(lambda: "its addresses are free" in slim(first, "hosts"), AWAY_S + NOTICED_S,
               "its addresses return")
    assert start(first, "heir", *SERVE, options=["--ip", lost]) == lost
    check_views(call(second, "bob", lost, "--retry-s", "10"), client=b, server=lost)

    come_back(mortal)
    mortal.docker("start", "doomed")
    other = address_of(mortal, "doomed")
    assert other not in ("", lost)
    wait_until(lambda: not refused(first, "alice", other), NOTICED_S, "it is seen again")
    check_views(call(first, "alice", other), client=a, server=other)
    check_views(call(mortal, "doomed", lost), client=other, server=lost)
    assert "no driver" not in slim(first, "hosts")


@pytest.mark.timeout(600)
@feature("a host that dies: connections to it fail fast, its addresses return")
def test_a_dead_host_is_forgotten(hosts: list[Host], mortal: Host, lab: Lab) -> None:
    first, second = hosts
    create_network([first, mortal])
    start(first, "alice", *SERVE)
    lost = start(mortal, "doomed", *SERVE)
    with pytest.raises(CommandFailed, match="is alive"):
        slim(second, "forget-host", mortal.name)
    die(mortal)
    wait_until(lambda: "no driver" in slim(first, "hosts"), NOTICED_S, "its lease ends")
    assert "is forgotten" in slim(second, "forget-host", mortal.name)
    assert mortal.name not in slim(second, "hosts")
    assert start(first, "heir", *SERVE, options=["--ip", lost]) == lost
    with pytest.raises(CommandFailed, match="no host is called"):
        slim(second, "forget-host", mortal.name)

    come_back(mortal)
    with pytest.raises(CommandFailed, match=r"pool|does not exist on this host"):
        mortal.docker("start", "doomed")
    mortal.docker("rm", "-f", "doomed")
    mortal.docker("network", "rm", "app")
    create_network([mortal])
    address = start(mortal, "again", *SERVE, image=TOOLS)
    check_views(call(first, "alice", address, "--retry-s", "10"),
                client=address_of(first, "alice"), server=address)
