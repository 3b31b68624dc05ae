"""Tests that a sandbox's name server that cannot be opened leaves nothing of itself.

Every step of Resolving.open fails once.  Then files, the settings of lo, its filters and its port
are as before; Docker's names go on; the ledger says what is wrong; and it is opened later.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import dns.message
import pytest

from driver.datapath.tables.names_map import NamesMap
from driver.dns.server import NameServer
from driver.errors import LinkError
from driver.link.netlink import filters
from driver.link.netlink.names import NAME_SERVER, NAMES_PORT
from driver.link.sandbox import resolving as module
from driver.link.sandbox.resolving import Resolving
from driver.services.names.resolver import Resolver
from driver.services.names.serving import NameServing
from driver.services.names.table import NameTable
from driver.services.ports import NamesView
from driver.work.ledger import Ledger
from tests.netns.names.neighbours import WAIT_S, open_files
from tests.netns.names.programs import STAND_IN
from tests.netns.talk import started
from tests.support.fakes.ports import FakeListener
from tests.support.run.wait import wait_until
from tests.support.world.machines import Container, Machine

STEPS = ("socket", "setsockopt", "bind", "listen", "send", "qdisc", "filter")
MOST = 20


class Steps:
    """What stands for the module's sockets and filters: the step with this number fails."""

    def __init__(self, fails: int) -> None:
        self.fails = fails
        self.made: list[str] = []

    def step(self, name: str) -> None:
        self.made.append(name)
        if len(self.made) == self.fails:
            raise OSError(errno.ENOBUFS, "no memory")

    def put(self, patch: pytest.MonkeyPatch) -> None:
        step = self.step

        class Socket(socket.socket):
            def __init__(self, *arguments: Any) -> None:
                step("socket")
                super().__init__(*arguments)

            def setsockopt(self, *arguments: Any) -> None:
                step("setsockopt")
                super().setsockopt(*arguments)

            def bind(self, address: Any) -> None:
                step("bind")
                super().bind(address)

            def listen(self, *arguments: Any) -> None:
                step("listen")
                super().listen(*arguments)

            def send(self, *arguments: Any) -> int:
                step("send")
                return super().send(*arguments)

        def failing(name: str, act: Any) -> Any:
            def acts(*arguments: Any) -> None:
                try:
                    step(name)
                except OSError as error:
                    raise LinkError(f"{name}: {error.strerror}") from error
                act(*arguments)

            return acts

        patch.setattr(module, "socket", SimpleNamespace(**vars(socket) | {"socket": Socket}))
        patch.setattr(filters, "_add_qdisc", failing("qdisc", filters._add_qdisc))
        patch.setattr(filters, "_replace_filter", failing("filter", filters._replace_filter))


@dataclass(frozen=True)
class State:
    """What opening changes."""

    settings: str
    qdiscs: str
    filters: str
    ports: str
    files: int


class Sandbox:
    """A container whose name server is opened by the ledger."""

    def __init__(self, stack: ExitStack, container: Container) -> None:
        self.container = container
        self.key = container.netns.path
        started(container, STAND_IN)
        loaded = container.machine.loaded
        self.ledger = Ledger(pause_s=lambda _failed, _error: 0.0)
        self.endpoint = replace(container.endpoints[0][0], names=("web",))
        table = NameTable(FakeListener(), lambda _vni, _id: True)
        table.put(self.endpoint)
        resolver = Resolver(table, lambda: NamesView((), {}, {}))
        names = NamesMap(loaded)
        self.server = NameServer(resolver.resolve, names.renew)
        self.server.start()
        stack.callback(self.server.stop)
        self.resolving = Resolving(loaded.programs["name_query"])
        self.serving = NameServing(self.resolving, self.server, resolver, self.ledger)

    def enter(self) -> None:
        self.serving.enter(self.key, self.container.netns.cookie, self.endpoint)
        self.ledger.run()

    def leave(self) -> None:
        self.serving.leave(self.key, self.endpoint.id)
        self.ledger.run()

    def state(self) -> State:
        inside = self.container.netns
        settings, qdiscs, shown, ports = (inside.run(*command.split()).stdout for command in (
            "cat /proc/sys/net/ipv4/conf/lo/accept_local /proc/sys/net/ipv4/conf/lo/route_localnet",
            "tc qdisc show dev lo", "tc filter show dev lo ingress", "cat /proc/net/udp"))
        ours = f":{NAMES_PORT:04X} "
        return State(settings, qdiscs, shown, "".join(
            line for line in ports.splitlines() if ours in line), open_files())

    def is_as(self, before: State) -> None:
        wait_until(lambda: self.state().files <= before.files, WAIT_S, "files are closed")
        assert self.state() == before

    def asked(self, name: str) -> str:
        """Return the address, or how Docker's name server says that there is none."""
        with self.container.netns.call(
                lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
            asking.settimeout(WAIT_S)
            asking.connect((NAME_SERVER, 53))
            asking.send(dns.message.make_query(name, "A").to_wire())
            answer = dns.message.from_wire(asking.recv(4096))
        found = [str(each) for rrset in answer.answer for each in rrset]
        return found[0] if found else answer.rcode().name

    def is_served(self) -> None:
        wait_until(lambda: self.asked("web") == self.container.address, WAIT_S, "it is served")
        assert self.ledger.outstanding() == []


@pytest.fixture
def sandbox(machines: list[Machine]) -> Iterator[Sandbox]:
    with ExitStack() as stack:
        yield Sandbox(stack, machines[0].container("10.32.0.2/16"))


def test_every_step_fails(sandbox: Sandbox) -> None:
    before = sandbox.state()
    made: list[str] = []
    left: dict[str, str] = {}
    for fails in range(1, MOST):
        steps = Steps(fails)
        with pytest.MonkeyPatch.context() as patch:
            steps.put(patch)
            sandbox.enter()
        made = steps.made
        if len(made) < fails:
            break
        assert [step.what for step in sandbox.ledger.outstanding()] == [
            f"name server of sandbox {sandbox.key}"], made
        assert "no memory" in sandbox.ledger.outstanding()[0].error
        assert sandbox.serving.count() == 0
        assert sandbox.asked("web") == "NXDOMAIN", "Docker's answers"
        if sandbox.state() != before:
            left[f"{fails}: {made[-1]}"] = f"{sandbox.state()}"
        sandbox.leave()
        assert sandbox.ledger.outstanding() == []
        sandbox.resolving.remove(sandbox.key)  # whatever the next one would find
    assert set(made) == set(STEPS), "each kind of step has failed"
    sandbox.is_served()
    sandbox.leave()
    sandbox.is_as(before)
    assert left == {}, f"of {before}"


def test_a_program_that_the_kernel_refuses(sandbox: Sandbox) -> None:
    """It fails at the last step, in the kernel itself."""
    before = sandbox.state()
    other = Resolving(sandbox.container.machine.loaded.programs["connect4"])
    with pytest.raises(LinkError, match="filter"):
        other.open(sandbox.key)
    assert sandbox.asked("web") == "NXDOMAIN"
    sandbox.is_as(before)


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_port_that_is_taken_and_free_again(sandbox: Sandbox, kind: str) -> None:
    before = sandbox.state()
    with sandbox.container.netns.call(lambda: socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)) as taken:
        taken.bind((NAME_SERVER, NAMES_PORT))
        sandbox.enter()
        (step,) = sandbox.ledger.outstanding()
        assert "Address already in use" in step.error
        assert sandbox.asked("web") == "NXDOMAIN"
        assert sandbox.state().settings == before.settings
        assert sandbox.state().qdiscs == before.qdiscs
    sandbox.ledger.run()
    sandbox.is_served()
    sandbox.leave()
    sandbox.is_as(before)


@pytest.mark.parametrize("qdisc", ["clsact", "ingress"])
@pytest.mark.parametrize("filtered", [True, False], ids=["with a filter", "without"])
def test_what_a_container_has_on_its_lo_stays(sandbox: Sandbox, qdisc: str, filtered: bool) -> None:
    inside = sandbox.container.netns
    inside.run("tc", "qdisc", "add", "dev", "lo", qdisc)
    if filtered:
        inside.run("tc", "filter", "add", "dev", "lo", "ingress", "prio", "5", "bpf", "bytecode",
                   "1,6 0 0 0,", "classid", "1:1")
    before = sandbox.state()
    sandbox.enter()
    sandbox.is_served()
    sandbox.leave()
    sandbox.is_as(before)


def test_settings_that_a_container_has_on_its_lo_stay(sandbox: Sandbox) -> None:
    """As by `docker run --sysctl`."""
    for setting in ("route_localnet", "accept_local"):
        sandbox.container.netns.sysctl(f"ipv4.conf.lo.{setting}", 1)
    before = sandbox.state()
    sandbox.enter()
    sandbox.is_served()
    sandbox.leave()
    sandbox.is_as(before)


