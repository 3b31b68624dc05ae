"""Tests that queries come to slim's name server while it lives, and go to Docker's otherwise.

Containers have Docker's NAT rules for 127.0.0.11; its name server is a program of the test.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import dns.message
import dns.rcode
import pytest

from driver.datapath.tables.names_map import NamesMap
from driver.dns.server import NameServer
from driver.errors import LinkError
from driver.link.netlink.names import NAME_SERVER, NAMES_PORT
from driver.link.sandbox.resolving import Resolving
from driver.services.ports import NameReply, Question
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

WAIT_S = 10.0
ASK_S = 3.0
DOCKERS_TCP, DOCKERS_UDP = 40001, 40002  # tests/support/fakes/dockerd.py
ANSWER = "10.32.0.77"


class Dockers:
    """What stands for Docker's name server in a container: it knows no name, and counts."""

    def __init__(self, container: Container, udp: int = DOCKERS_UDP) -> None:
        self.asked: list[str] = []
        self._udp, self._tcp = (container.netns.call(lambda kind=kind: socket.socket(
            socket.AF_INET, kind)) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._udp.bind((NAME_SERVER, udp))
        self._tcp.bind((NAME_SERVER, DOCKERS_TCP))
        self._tcp.listen()
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        for each in (self._udp, self._tcp):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # ends the thread that waits there
            each.close()

    def _answer(self, query: bytes) -> bytes:
        message = dns.message.from_wire(query)
        self.asked.append(message.question[0].name.to_text(omit_final_dot=True))
        answer = dns.message.make_response(message)
        answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()

    def _serve_udp(self) -> None:
        with suppress(OSError):
            while True:
                query, asker = self._udp.recvfrom(4096)
                if not query:
                    return
                self._udp.sendto(self._answer(query), asker)

    def _serve_tcp(self) -> None:
        with suppress(OSError):
            while True:
                opened, _ = self._tcp.accept()
                with opened:
                    query = opened.recv(4096)
                    answer = self._answer(query[2:])
                    opened.sendall(len(answer).to_bytes(2, "big") + answer)


class Served:
    """A container with both name servers."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.dockers = Dockers(container)
        loaded = container.machine.loaded
        self.alive = True
        names = NamesMap(loaded)
        self.server = NameServer(self._resolve, lambda serving: names.renew(serving and self.alive))
        self.resolving = Resolving(loaded.programs["name_query"])
        self.server.add(container.netns.path, self.resolving.open(container.netns.path))
        self.server.start()
        wait_until(lambda: self.ask_once("web") == [ANSWER], WAIT_S, "names to be served")

    def close(self) -> None:
        self.server.stop()
        self.dockers.close()

    def die(self) -> None:
        """Stop saying that the server lives, as a driver does that is killed."""
        self.alive = False

    def open(self, *, connected: bool = True) -> socket.socket:
        """Open a UDP socket in the container, as its programs do."""
        made = self.container.netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.settimeout(ASK_S)
        if connected:
            made.connect((NAME_SERVER, 53))
        return made

    def ask_once(self, name: str, *, connected: bool = True) -> list[str]:
        with self.open(connected=connected) as asking:
            return ask(asking, name)

    def is_forwarded(self, name: str) -> bool:
        with suppress(TimeoutError):
            self.ask_once(name)
        return name in self.dockers.asked

    def ask_by_tcp(self, name: str) -> list[str]:
        def connect() -> socket.socket:
            return socket.create_connection((NAME_SERVER, 53), ASK_S)

        with self.container.netns.call(connect) as opened:
            query = dns.message.make_query(name, "A").to_wire()
            opened.sendall(len(query).to_bytes(2, "big") + query)
            assert opened.getpeername() == (NAME_SERVER, 53)
            return addresses(opened.recv(4096)[2:])

    @staticmethod
    def _resolve(_sandbox_key: str, question: Question) -> NameReply | None:
        from ipaddress import IPv4Address

        return NameReply((IPv4Address(ANSWER),)) if question.name == "web" else None


def ask(asking: socket.socket, name: str) -> list[str]:
    """Ask on a socket; return the addresses.  The answer must come from where the query went."""
    query = dns.message.make_query(name, "A")
    try:
        asking.getpeername()
    except OSError:
        asking.sendto(query.to_wire(), (NAME_SERVER, 53))
        answer, whose = asking.recvfrom(4096)
        assert whose == (NAME_SERVER, 53)
    else:
        asking.send(query.to_wire())
        answer = asking.recv(4096)
    assert dns.message.from_wire(answer).id == query.id
    return addresses(answer)


def addresses(answer: bytes) -> list[str]:
    return [str(each) for rrset in dns.message.from_wire(answer).answer for each in rrset]


@pytest.fixture
def served(machines: list[Machine]) -> Iterator[Served]:
    made = Served(machines[0].container("10.32.0.2/16"))
    yield made
    made.close()


WAYS: dict[str, Callable[[Served, str], list[str]]] = {
    "a connected socket": lambda served, name: served.ask_once(name),
    "a socket that is not connected": lambda served, name: served.ask_once(
        name, connected=False),
    "TCP": lambda served, name: served.ask_by_tcp(name)}


@pytest.mark.parametrize("way", WAYS)
def test_a_name_of_ours_is_answered_and_another_forwarded(served: Served, way: str) -> None:
    with served.container.machine.counting() as total:
        assert WAYS[way](served, "web") == [ANSWER]
    assert total["name_query"] > 0
    served.dockers.asked.clear()
    assert WAYS[way](served, "elsewhere.example") == []
    assert served.dockers.asked == ["elsewhere.example"]


def test_a_socket_that_stays_open_outlives_the_driver(served: Served) -> None:
    """A program keeps it connected to its name server, as systemd-resolved does."""
    with served.open() as kept:
        assert ask(kept, "web") == [ANSWER]
        served.die()
        wait_until(lambda: ask(kept, "web") == [], WAIT_S, "Docker's name server to be asked")
        assert "web" in served.dockers.asked
        assert served.ask_by_tcp("web") == []
        served.alive = True
        wait_until(lambda: ask(kept, "web") == [ANSWER], WAIT_S, "slim's to be asked again")


def test_a_socket_from_before_comes_too(machines: list[Machine]) -> None:
    container = machines[0].container("10.32.0.2/16")
    with container.netns.call(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as kept, ExitStack() as stack:
        kept.settimeout(ASK_S)
        kept.connect((NAME_SERVER, 53))
        served = Served(container)
        stack.callback(served.close)
        assert ask(kept, "web") == [ANSWER]


def test_dockers_name_server_is_another_one_later(served: Served) -> None:
    """As after dockerd's own restart: NAT still turns an old socket's datagrams to the old one."""
    assert served.ask_once("elsewhere.example") == []
    inside = served.container.netns
    served.dockers.close()
    inside.run("iptables", "-w", "-t", "nat", "-F", "DOCKER_OUTPUT")
    inside.run("iptables", "-w", "-t", "nat", "-F", "DOCKER_POSTROUTING")
    served.dockers = Dockers(served.container, udp=41002)
    inside.run("iptables", "-w", "-t", "nat", "-A", "DOCKER_OUTPUT", "-d", NAME_SERVER, "-p", "udp",
               "--dport", "53", "-j", "DNAT", "--to-destination", f"{NAME_SERVER}:41002")
    inside.run("iptables", "-w", "-t", "nat", "-A", "DOCKER_POSTROUTING", "-s", NAME_SERVER, "-p",
               "udp", "--sport", "41002", "-j", "SNAT", "--to-source", ":53")
    wait_until(lambda: served.is_forwarded("again.example"), WAIT_S, "the new one to be asked")


def test_what_is_removed_leaves_dockers(served: Served) -> None:
    path = served.container.netns.path
    served.server.remove(path)
    served.resolving.remove(path)
    wait_until(lambda: served.is_forwarded("web"), WAIT_S, "Docker's name server to be asked")
    assert served.container.netns.run("tc", "qdisc", "show", "dev", "lo").stdout.count(
        "clsact") == 0
    served.server.add(path, served.resolving.open(path))
    wait_until(lambda: served.ask_once("web") == [ANSWER], WAIT_S, "it to be served again")


def test_a_hook_without_a_server_hands_over_nothing(served: Served) -> None:
    """As from a driver's start until it has come to this sandbox."""
    path = served.container.netns.path
    served.server.remove(path)  # what it has not read yet is lost, as with any server that ends
    wait_until(lambda: served.is_forwarded("web"), WAIT_S, "Docker's name server to be asked")
    assert served.ask_by_tcp("web") == []
    assert "web" in served.dockers.asked


def test_a_connection_stays_with_the_server_that_it_was_opened_to(served: Served) -> None:
    served.die()
    wait_until(lambda: served.ask_once("web") == [], WAIT_S, "Docker's name server to be asked")
    opened = served.container.netns.call(
        lambda: socket.create_connection((NAME_SERVER, 53), ASK_S))
    with opened:
        served.alive = True
        wait_until(lambda: served.ask_once("web") == [ANSWER], WAIT_S, "slim's to be asked")
        query = dns.message.make_query("web", "A").to_wire()
        opened.sendall(len(query).to_bytes(2, "big") + query)
        assert addresses(opened.recv(4096)[2:]) == [], "Docker's, which took the connection"


def test_a_program_that_has_our_port_keeps_it(machines: list[Machine]) -> None:
    container = machines[0].container("10.32.0.2/16")
    taken = container.netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with taken:
        taken.bind(("", NAMES_PORT))
        with pytest.raises(LinkError, match=r"port 54 .* Address already in use"):
            Resolving(machines[0].loaded.programs["name_query"]).open(container.netns.path)


def test_other_packets_of_lo_are_left_alone(served: Served) -> None:
    inside = served.container.netns
    server = inside.call(lambda: socket.create_server(("127.0.0.1", 8053)))
    with served.container.machine.counting() as total, server, inside.call(
            lambda: socket.create_connection(("127.0.0.1", 8053), ASK_S)) as client:
        client.sendall(b"x" * 100_000)
    assert "name_query" not in total
