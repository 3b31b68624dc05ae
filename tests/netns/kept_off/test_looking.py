"""Tests who calls a container while the driver looks at what iptables-legacy has changed there.

The verdict is a moment away, and most changes come to nothing: dockerd sets its DNS rules.  So a
caller's SYN is not answered, and sent again.  Maps, programs and the look are real; the test says
when the look goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

import pytest

from driver.datapath.tables import withheld as module
from driver.datapath.tables.withheld import NOTE_RULES, WITHHELD_LOOKING, WithheldMaps
from driver.link.sandbox.inspection import KernelInspector
from driver.link.underlay.vxlan import overlay_mtu
from driver.model import Endpoint, HostPath
from driver.services.ports import Findings, Veth, Why
from driver.services.sandboxes.withholding import Withholding
from tests.netns.both_families import THERE6, Pair
from tests.netns.kept_off.noted import noted, withheld
from tests.netns.talk import host_path, overlay, run, server, start
from tests.support.run.wait import wait_until
from tests.support.world.machines import MTU, Container

WAIT_S = 10
CALL = """
    c = connected(sys.argv[1], 80, family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    print(asked(c).decode())
"""
FAILS = "print(error_of(lambda: connected(sys.argv[1], 80)))"
TOOLS = {4: "iptables-legacy", 6: "ip6tables-legacy"}


class Held:
    """ports.Inspector: looks, once the test lets it."""

    def __init__(self, real: KernelInspector) -> None:
        self._real = real
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def hold(self) -> None:
        self.reached.clear()
        self.go_on.clear()

    def look(self, sandbox_key: str, members: Sequence[tuple[Endpoint, Veth]], *,
             underlay: IPv4Address, just_set_up: bool = False) -> Findings:
        self.reached.set()
        assert self.go_on.wait(WAIT_S)
        return self._real.look(sandbox_key, members, underlay=underlay, just_set_up=just_set_up)


class NoWatch:
    """ports.Watch: only what the kernel notes is looked at."""

    def add(self, sandbox_key: str) -> None:
        pass

    def remove(self, sandbox_key: str) -> None:
        pass

    def sweep(self) -> None:
        pass


class Driver:
    """What a driver has for the containers of one host."""

    def __init__(self, container: Container, choice: HostPath) -> None:
        self.container = container
        self.inspector = Held(KernelInspector(overlay_mtu=lambda: overlay_mtu(MTU)))
        self.withholding = Withholding(
            verdicts=WithheldMaps(container.machine.loaded), inspector=self.inspector,
            watch=NoWatch(), underlay=container.machine.underlay, choice_of=lambda _: choice)
        self.withholding.start()
        container.machine.stack.callback(self.end)

    def enter(self) -> None:
        netns = self.container.netns
        self.withholding.enter(netns.path, netns.cookie, self.container.endpoints)

    def end(self) -> None:
        self.inspector.go_on.set()
        self.withholding.stop()


@pytest.fixture(autouse=True)
def no_notes(across6: Pair) -> Iterator[None]:
    """Notes outlive a sandbox: its container may join a network again."""
    yield
    across6[1].machine.loaded.table("notes").clear()


def change(container: Container, tool: str, *, to_nothing: bool) -> None:
    """Add a rule of its own; `to_nothing`: and remove it again."""
    container.run(tool, "-A", "INPUT", "-p", "udp", "-j", "DROP")
    if to_nothing:
        container.run(tool, "-F", "INPUT")


@pytest.mark.parametrize("called", [4, 6])
@pytest.mark.parametrize("changed", [4, 6])
@pytest.mark.parametrize("choice", [HostPath.ON, HostPath.AUTO], ids=str)
def test_a_caller_waits_for_the_verdict(across6: Pair, choice: HostPath, changed: int, called: int
                                        ) -> None:
    here, there = across6
    server(there, address="::")
    driver = Driver(there, choice)
    driver.enter()
    driver.inspector.hold()
    change(there, TOOLS[changed], to_nothing=choice is HostPath.AUTO)
    driver.withholding.tick()
    assert driver.inspector.reached.wait(WAIT_S)

    with overlay(here, there, because="own_rules"):  # to others nothing changes
        seen = server(here, address="::")
        assert run(there, CALL, here.address) == "hello"
    seen.end()
    before = there.machine.counters()["syn_withheld"]
    caller = start(here, CALL, there.address if called == 4 else THERE6)
    wait_until(lambda: there.machine.counters()["syn_withheld"] > before, WAIT_S, "its SYN")
    driver.inspector.go_on.set()
    assert caller.rest() == "hello"
    assert (noted(there), withheld(there)) == (0, None)
    with host_path(here, there):
        assert run(here, CALL, there.address) == "hello"


def test_what_a_driver_that_died_was_looking_at(across6: Pair) -> None:
    """The next one looks, and its verdict is like any other."""
    here, there = across6
    server(there, address="::")
    change(there, TOOLS[4], to_nothing=False)
    WithheldMaps(there.machine.loaded).settle_rules(there.netns.cookie)  # it died after that
    with there.machine.counting() as grown:
        assert run(here, FAILS.replace("80", "80, timeout_s=0.5"), there.address) == "timeout"
    assert grown["syn_withheld"] == 1

    Driver(there, HostPath.AUTO).enter()
    assert withheld(there) == "own_rules"
    assert run(here, FAILS, there.address) == "EHOSTUNREACH"
    there.run(TOOLS[4], "-F", "INPUT")
    WithheldMaps(there.machine.loaded).settle_rules(there.netns.cookie)
    Driver(there, HostPath.AUTO).enter()
    assert withheld(there) is None
    with host_path(here, there):
        assert run(here, CALL, there.address) == "hello"


def test_what_it_was_looking_at_is_no_sandbox_any_more(across6: Pair) -> None:
    _, there = across6
    change(there, TOOLS[4], to_nothing=False)
    WithheldMaps(there.machine.loaded).settle_rules(there.netns.cookie)
    assert withheld(there) == "own_rules"
    Driver(there, HostPath.AUTO).withholding.tick()
    assert withheld(there) is None


@pytest.mark.parametrize("program_is_late", [False, True])
def test_at_every_moment_a_caller_is_told_nothing(
        across6: Pair, monkeypatch: pytest.MonkeyPatch, program_is_late: bool) -> None:
    """The mark is there before the note goes; the program, which enters the note first, may have
    entered nothing else yet."""
    _, there = across6
    loaded, take = there.machine.loaded, module.bpf.take
    maps, table = WithheldMaps(loaded), loaded.table("withheld")
    cookie = there.netns.cookie
    change(there, TOOLS[4], to_nothing=True)
    if program_is_late:
        maps.release(cookie)
    marks: list[int] = []

    def take_and_look(*of: object) -> object:
        marks.append(int(table[table.Key(cookie)].value) & WITHHELD_LOOKING)
        return take(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(module.bpf, "take", take_and_look)
    assert noted(there) == NOTE_RULES
    maps.settle_rules(cookie)
    assert marks
    assert all(marks)
    assert noted(there) == 0
    maps.release(cookie)
    maps.settle_rules(cookie)  # nothing has changed since
    assert withheld(there) is None


def test_other_reasons_are_told_all_the_same(across6: Pair) -> None:
    here, there = across6
    maps, cookie = WithheldMaps(there.machine.loaded), there.netns.cookie
    change(there, TOOLS[4], to_nothing=True)
    maps.withhold(cookie, Why.KEYS)
    maps.settle_rules(cookie)
    assert withheld(there) == "keys"
    assert run(here, FAILS, there.address) == "EHOSTUNREACH"
