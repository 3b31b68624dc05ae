"""Runs programs in containers, and checks by the counters which path their connections take.

The programs are Python text, which can use everything in inside.py.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Interface
from pathlib import Path

from driver.datapath.loading import bpf
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

INSIDE = Path(__file__).parent  # where programs in containers find inside.py
_HEAD = (f"import sys; sys.path.insert(0, {str(INSIDE)!r})\n"
         "from inside import *\n")
# Packets that containers send by themselves, not for a test's connection.
_NOISE = {"link_local6"}
RELEASE_S = 10  # for flows that end at once; the sweeper takes up to 30 s


class Program:
    """A program that runs in a container."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        """Wait for the next line it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, text: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def ask(self, text: str = "ask") -> str:
        """Write a line; return its answer."""
        self.say(text)
        return self.line()

    def end(self) -> None:
        """Kill it and wait."""
        self.process.kill()
        self.process.communicate()

    def rest(self) -> str:
        """Wait for its end, with exit code 0; return the rest of its output."""
        output = self.all_else()
        assert self.process.returncode == 0, output
        return output

    def all_else(self) -> str:
        """Wait for its end; return the rest of its output.

        Popen.communicate would lose what `line` has left in the buffer.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdin = None  # so that nothing flushes it later
        output = self.process.stdout.read().strip()
        self.process.wait(60)
        return output


def run(container: Container, code: str, *arguments: object, timeout: float = 60) -> str:
    """Run a program to its end; return its output."""
    return container.python(_HEAD + textwrap.dedent(code), *arguments, timeout=timeout)


def start(container: Container, code: str, *arguments: object) -> Program:
    """Start a program."""
    return Program(container.start_python(_HEAD + textwrap.dedent(code), *arguments))


def started(container: Container, code: str, *arguments: object) -> Program:
    """Start a server; return once it has printed "ready"."""
    program = start(container, code, *arguments)
    line = program.line()
    assert line == "ready", line + program.all_else()
    return program


# An echo server for datagrams on port 5000, which prints what came from whom; and its client, which
# prints both names.  Arguments: the family; then the address, and how many bytes.
UDP_SERVER = """
    server = socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_DGRAM)
    server.bind(("", 5000))
    ready()
    while True:
        data, peer = server.recvfrom(65535)
        server.sendto(data, peer)
        print(len(data), peer[0], flush=True)
"""
UDP_CLIENT = """
    c = socket.socket(getattr(socket, sys.argv[1]), socket.SOCK_DGRAM)
    c.settimeout(5)
    c.connect((sys.argv[2], 5000))
    data = os.urandom(int(sys.argv[3]))
    c.send(data)
    assert c.recv(65535) == data
    print(c.getsockname()[0], c.getpeername()[0])
"""


def server(container: Container, port: int = 80, address: str = "0.0.0.0", tell: str = "",
           **options: object) -> Program:
    """Start an echo server; it prints `tell` (if any) and the names of each connection."""
    family = "socket.AF_INET6" if ":" in address else "socket.AF_INET"
    more = "".join(f", {name}={value!r}" for name, value in options.items())
    return started(container, f"serve(listen({address!r}, {port}, family={family}{more}), "
                              f"tell={tell!r})")


def client(container: Container, address: str, port: int = 80, *, tell: str = "names(c)",
           **options: object) -> str:
    """Connect, exchange five bytes, print (names by default), close."""
    more = "".join(f", {name}={value!r}" for name, value in options.items())
    if ":" in address:
        more += ", family=socket.AF_INET6"
    return run(container, f"""
        c = connected({address!r}, {port}{more})
        assert asked(c) == b"hello"
        print({tell})
    """)


def _machines(*containers: Container) -> list[Machine]:
    return list({id(c.machine): c.machine for c in containers}.values())


@contextmanager
def counted(*containers: Container) -> Iterator[dict[str, int]]:
    """Yield a dict of how much these machines' counters grew, once the block ends."""
    total: dict[str, int] = {}
    before = [(m, m.counters()) for m in _machines(*containers)]
    yield total
    for machine, old in before:
        for name, value in machine.counters().items():
            if value != old[name]:
                total[name] = total.get(name, 0) + value - old[name]
    for name in _NOISE:
        total.pop(name, None)


@contextmanager
def host_path(*containers: Container, connections: int = 1, also: set[str] | None = None
              ) -> Iterator[dict[str, int]]:
    """Assert that the block makes so many connections on the host path, and nothing else.

    `also`: reasons that may count, too.
    """
    with counted(*containers) as total:
        yield total
    assert total.get("connected", 0) == connections, total
    assert total.get("accepted", 0) == connections, total
    assert set(total) <= {"connected", "accepted"} | (also or set()), total


@contextmanager
def best_path(*containers: Container, connections: int = 1, also: set[str] | None = None
              ) -> Iterator[dict[str, int]]:
    """Assert that the block's connections take the best path.

    Between hosts that is the host path.  On one host they go directly, with virtual addresses on
    their packets.
    """
    if len(_machines(*containers)) > 1:
        with host_path(*containers, connections=connections, also=also) as total:
            yield total
        return
    before = [flows(container) for container in containers]
    with counted(*containers) as total:
        yield total
        assert [flows(container) for container in containers] <= before
    assert total.get("local", 0) == connections, total
    assert total.get("overlay_local", 0) > 0, total
    assert set(total) <= {"local", "overlay_local"} | (also or set()), total


def counts(here: Container, there: Container, *, on_the_host_path: dict[str, int],
           directly: dict[str, int]) -> dict[str, int]:
    """Return the right counts for the two containers, on two hosts or on one."""
    return directly if here.machine is there.machine else on_the_host_path


@contextmanager
def overlay(*containers: Container, because: str | None = None) -> Iterator[dict[str, int]]:
    """Assert that the block's packets take the overlay path, for that reason.

    On one host the only reason is that it is one host.
    """
    with counted(*containers) as total:
        yield total
    if len(_machines(*containers)) == 1:
        assert total.get("overlay_local", 0) > 0, total
        because = "local" if because else None
    else:
        assert total.get("overlay_sent", 0) > 0, total
        assert total.get("overlay_received", 0) > 0, total
    assert not set(total) & {"connected", "accepted"}, total
    if because:
        assert total.get(because, 0) > 0, total


def refuser(container: Container) -> str:
    """Return the address of a new container on another host, in whose network nobody listens.

    A socket that it has refused is bound to the host's address (`tied`, in connect.c).  Only such
    a socket takes the host path even to a container on its own host.
    """
    own = container.endpoints[0][0]
    assert own.address is not None
    other = next(m for m in container.machine.cluster.machines if m is not container.machine)
    taken = {endpoint.address for endpoint in container.machine.cluster.endpoints}
    network = own.address.network
    free = next(address for address in (f"{network[-n]}/{network.prefixlen}" for n in range(2, 99))
                if IPv4Interface(address) not in taken)
    return other.container(free, vni=int(own.vni)).address


def flows(container: Container, *, state: int | None = None) -> int:
    """Count the container's flows in a state; without `state`, all but TIME_WAIT (3)."""
    cookie = container.netns.cookie
    return sum(1 for _, flow in bpf.entries(container.machine.loaded.table("flows"))
               if flow.sandbox == cookie
               and (flow.state == state if state else flow.state != 3))


def wait_for_no_flows(*containers: Container) -> None:
    """Wait until the containers have no flow but those in TIME_WAIT."""
    wait_until(lambda: not any(map(flows, containers)), RELEASE_S, "flows to be released")
