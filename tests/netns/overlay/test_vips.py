"""Tests vips: which task a connection or datagram goes to, and what programs see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns.talk import client, counted, overlay, run, server, started
from tests.support.run.wait import wait_until
from tests.support.world.machines import Cluster, Machine

VIP = "10.32.0.100"
UDP_SERVER = """
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 53))
    ready()
    while True:
        data, peer = s.recvfrom(100)
        s.sendto(sys.argv[1].encode() + b" " + data, peer)
"""


class Three:
    """A client and two tasks on the first machine, and one task on the second."""

    def __init__(self, machines: list[Machine]) -> None:
        here, there = machines
        self.cluster = here.cluster
        self.client = here.container("10.32.0.2/16")
        self.tasks = [here.container("10.32.0.3/16"), there.container("10.32.0.4/16"),
                      here.container("10.32.0.5/16")]
        self.addresses = [task.address for task in self.tasks]

    def answered(self, count: int, *, family: str = "AF_INET") -> Counter[str]:
        """Connect `count` times; return how often each task answered (it tells its address)."""
        address = VIP if family == "AF_INET" else f"::ffff:{VIP}"
        return Counter(run(self.client, f"""
            for _ in range({count}):
                c = connected("{address}", 80, family=socket.{family})
                assert c.getpeername()[:2] == ("{address}", 80), c.getpeername()
                print(c.recv(100).decode())
                c.close()
        """).split())


@pytest.fixture
def three(machines: list[Machine]) -> Three:
    return Three(machines)


@pytest.fixture
def telling(three: Three) -> Three:
    """Three, whose tasks each run a server that tells its address."""
    for task in three.tasks:
        started(task, """
            serve(listen("0.0.0.0", 80), lambda c: (c.sendall(sys.argv[1].encode()), c.close()))
        """, task.address)
    return three


@contextmanager
def _best_paths(three: Three, connections: int, *also: str) -> Iterator[dict[str, int]]:
    """Assert the host path to the other host's task, and direct connections to the client's own."""
    with counted(three.client, *three.tasks) as total:
        yield total
    assert total["service_chosen"] == connections
    assert total.get("connected", 0) + total.get("local", 0) == connections, total
    assert total.get("accepted", 0) == total.get("connected", 0), total
    assert bool(total.get("overlay_local")) == bool(total.get("local")), total
    assert set(total) <= {"service_chosen", "connected", "accepted", "local", "overlay_local",
                          *also}, total


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_connections_are_spread_evenly(telling: Three, family: str) -> None:
    # As in host_path/test_transfers.py: one ACK of so many may come after the end of its flow.
    with (telling.cluster.service(VIP, *telling.addresses),
          _best_paths(telling, 300, "late_ack") as total):
        found = telling.answered(300, family=family)
    assert total["connected"] == found[telling.addresses[1]], "the one on the other host"
    assert set(found) == set(telling.addresses)
    # 100 each; 60 is five standard deviations away (binomial, n = 300, p = 1/3: 8.2).
    assert min(found.values()) > 60, found


@pytest.mark.parametrize("where", ["two hosts", "one host"])
def test_the_server_sees_the_client_itself(three: Three, where: str) -> None:
    """The client sees the vip."""
    number = 1 if where == "two hosts" else 0
    seen = server(three.tasks[number])
    with three.cluster.service(VIP, three.addresses[number]), _best_paths(three, 1) as total:
        own, own_port, peer, peer_port = client(three.client, VIP).split()
    assert total["connected" if where == "two hosts" else "local"] == 1
    assert (own, peer, peer_port) == (three.client.address, VIP, "80")
    assert seen.line().split() == [three.addresses[number], "80", three.client.address, own_port]


def test_a_task_that_is_gone_is_not_chosen_from_then_on(telling: Three) -> None:
    gone = telling.tasks[1]
    with telling.cluster.service(VIP, *telling.addresses):
        # Its endpoint has left the directory before any manager says so.
        telling.cluster.withdraw(gone.endpoints[0][0])
        try:
            with _best_paths(telling, 60):
                assert set(telling.answered(60)) == set(telling.addresses) - {gone.address}
        finally:
            telling.cluster.announce(gone.endpoints[0][0])


def test_one_that_is_there_is_found_among_many_that_are_not(telling: Three) -> None:
    ghosts = [f"10.32.1.{number}" for number in range(20)]
    with telling.cluster.service(VIP, *ghosts, telling.addresses[0]), _best_paths(telling, 40):
        assert set(telling.answered(40)) == {telling.addresses[0]}


def test_a_task_on_a_dead_host_is_not_chosen(telling: Three) -> None:
    here, there = telling.cluster.machines
    here.datapath.refuse_hosts([there.underlay])
    try:
        with telling.cluster.service(VIP, *telling.addresses), _best_paths(telling, 60):
            assert telling.addresses[1] not in telling.answered(60)
    finally:
        here.datapath.refuse_hosts([])


def test_the_list_changes_under_connections(telling: Three) -> None:
    with telling.cluster.service(VIP, telling.addresses[0]) as change:
        assert set(telling.answered(10)) == {telling.addresses[0]}
        change(*telling.addresses[1:])
        assert set(telling.answered(60)) == set(telling.addresses[1:])
        change(*telling.addresses)
        assert set(telling.answered(60)) == set(telling.addresses)


def test_without_a_task_it_is_refused_at_once(three: Three) -> None:
    here = three.cluster.machines[0]
    for backends in ([], ["10.32.1.1"]):
        with three.cluster.service(VIP, *backends), here.counting() as counted:
            assert run(three.client, f"""
                print(error_of(lambda: connected("{VIP}", 80)))
                u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                print(error_of(lambda: u.sendto(b"x", ("{VIP}", 53))))
                print(error_of(lambda: u.connect(("{VIP}", 53))))
            """).split() == ["ECONNREFUSED"] * 3
        assert counted["service_empty"] == 3, counted


def test_a_task_that_calls_its_own_service(telling: Three) -> None:
    with telling.cluster.service(VIP, telling.tasks[0].address):
        assert run(telling.tasks[0], f"""
            c = connected("{VIP}", 80)
            print(c.getpeername()[0], c.recv(100).decode())
        """).split() == [VIP, telling.tasks[0].address]


def test_on_the_overlay_path_programs_see_the_service_too(three: Three) -> None:
    seen = server(three.tasks[1])
    with three.cluster.service(VIP, three.addresses[1]), overlay(
            three.client, three.tasks[1], because="bound_address"):
        found = client(three.client, VIP, bind=(three.client.address, 0)).split()
    assert found[2:] == [VIP, "80"]
    assert seen.line().split()[:3] == [three.addresses[1], "80", three.client.address]


def test_the_same_socket_connects_to_the_task_itself_later(three: Three) -> None:
    """What the socket was told about the vip must not stick."""
    with three.cluster.service(VIP, three.addresses[1]):
        assert run(three.client, f"""
            c = socket.socket()
            c.bind(("{three.client.address}", 0))
            print(error_of(lambda: c.connect(("{VIP}", 81))))
        """) == "ECONNREFUSED"
    with three.cluster.service(VIP, three.addresses[1]):
        started(three.tasks[1], UDP_SERVER, "x")
        assert run(three.client, f"""
            u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            u.connect(("{VIP}", 53))
            print(u.getpeername()[0])
            u.connect(("{three.addresses[1]}", 53))
            print(u.getpeername()[0])
        """).split() == [VIP, three.addresses[1]]


@pytest.fixture
def datagrams(three: Three) -> Three:
    for task in three.tasks:
        started(task, UDP_SERVER, task.address)
    return three


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_datagrams_of_a_socket_stay_with_one_task(datagrams: Three, family: str) -> None:
    address = VIP if family == "AF_INET" else f"::ffff:{VIP}"
    with datagrams.cluster.service(VIP, *datagrams.addresses):
        found = run(datagrams.client, f"""
            for _ in range(60):
                u = socket.socket(socket.{family}, socket.SOCK_DGRAM)
                u.settimeout(5)
                answers = set()
                for _ in range(4):
                    u.sendto(b"x", ("{address}", 53))
                    data, peer = u.recvfrom(100)
                    assert peer[:2] == ("{address}", 53), peer
                    answers.add(data.decode().split()[0])
                assert len(answers) == 1, answers
                print(answers.pop())
        """).split()
    assert set(found) == set(datagrams.addresses)


def test_connected_datagram_sockets(datagrams: Three) -> None:
    with datagrams.cluster.service(VIP, *datagrams.addresses):
        found = run(datagrams.client, f"""
            for _ in range(60):
                u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                u.settimeout(5)
                u.connect(("{VIP}", 53))
                assert u.getpeername() == ("{VIP}", 53), u.getpeername()
                u.send(b"x")
                data, peer = u.recvfrom(100)
                assert peer == ("{VIP}", 53), peer
                print(data.decode().split()[0])
        """).split()
    assert set(found) == set(datagrams.addresses)


def test_a_socket_that_sends_to_many_services_and_to_tasks(datagrams: Three) -> None:
    from contextlib import ExitStack

    vips = [f"10.32.0.{number}" for number in range(101, 111)]  # more than we remember for a socket
    with ExitStack() as stack:
        for vip in vips:
            stack.enter_context(datagrams.cluster.service(vip, *datagrams.addresses[:2]))
        run(datagrams.client, """
            u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            u.settimeout(5)
            for address in sys.argv[1:] * 3:
                u.sendto(b"x", (address, 53))
                assert u.recvfrom(100)[1] == (address, 53)
        """, *vips, datagrams.addresses[2])


def test_a_list_that_changes_moves_a_socket_that_goes_on_sending(datagrams: Three) -> None:
    with datagrams.cluster.service(VIP, datagrams.addresses[0]) as change:
        from tests.netns.talk import start
        sending = start(datagrams.client, f"""
            u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            u.settimeout(5)
            for _ in range(2):
                u.sendto(b"x", ("{VIP}", 53))
                print(u.recv(100).decode().split()[0], flush=True)
                sys.stdin.readline()
        """)
        assert sending.line() == datagrams.addresses[0]
        change(datagrams.addresses[1])
        sending.say("go on")
        assert sending.line() == datagrams.addresses[1]
        sending.end()


def test_ping(three: Three) -> None:
    with three.cluster.service(VIP, three.addresses[1]), \
            three.cluster.machines[0].counting() as counted:
        for size in ("8", "1400"):
            done = three.client.run("ping", "-c", "2", "-i", "0.01", "-W", "2", "-s", size, VIP)
            assert "2 received" in done.stdout
            assert "wrong" not in done.stdout
    assert counted["service_answered"] == 4
    with three.cluster.service(VIP):  # ping first looks up the route by a connect()
        assert "refused" in three.client.run("ping", "-c", "1", VIP, check=False).stderr


def test_networks_with_the_same_addresses_have_their_own_services(machines: list[Machine]) -> None:
    """A vip of one network does not exist in the other."""
    here, there = machines
    cluster: Cluster = here.cluster
    stranger, caller = here.container("10.32.0.2/16", vni=2), here.container("10.32.0.2/16", vni=1)
    task = there.container("10.32.0.3/16", vni=1)
    server(task)
    with cluster.service(VIP, task.address, vni=1):
        client(caller, VIP)
        assert run(stranger, f"""
            print(error_of(lambda: connected("{VIP}", 80, timeout_s=0.3)))
        """) == "timeout"


def test_programs_for_datagrams_are_there_only_while_there_is_a_service(three: Three) -> None:
    links = three.cluster.machines[0].pins / "links"
    names = {"sendmsg4", "recvmsg4", "recvmsg6"}

    def pinned() -> set[str]:
        return names & {pin.name for pin in links.iterdir()}

    assert pinned() == set()
    with three.cluster.service(VIP, three.addresses[0]):
        assert pinned() == names
        with three.cluster.service("10.32.0.101"):
            assert pinned() == names
        assert pinned() == names
    wait_until(lambda: pinned() == set(), 30, "the programs to be detached")


def test_a_driver_that_comes_back_finds_its_services(telling: Three) -> None:
    """It removes lists that no vip names, left by a driver that died half-way."""
    from ipaddress import IPv4Address

    from driver.datapath.loading.load import u32_be
    from driver.datapath.tables.vip_table import VipTable

    machine = telling.cluster.machines[0]
    with telling.cluster.service(VIP, *telling.addresses):
        backends = machine.loaded.table("backends")
        stray = backends.Key(1, u32_be(IPv4Address(VIP)), 77, 0)
        backends[stray] = backends.Leaf(1)
        again = VipTable(machine.loaded)
        assert len(backends) == 3
        assert list(again.names()) == [(1, IPv4Address(VIP))]
        generation = [int(leaf.generation) for leaf in machine.loaded.table("services").values()]
        again.put(1, IPv4Address(VIP), [IPv4Address(each) for each in telling.addresses])  # type: ignore[arg-type]
        assert generation == [
            int(leaf.generation) for leaf in machine.loaded.table("services").values()]
        assert set(telling.answered(30)) == set(telling.addresses)


