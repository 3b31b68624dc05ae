"""Tests row 49 of the plugin contract's checklist on a real dockerd: each call fails.

A proxy between dockerd and the driver answers one call with an error, before or after the
driver has served it, or cuts the connection.  In each test the user sees the text, the same
command works the second time, and the driver collects what the failed call left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from tests.lab.conftest import BUSYBOX, difference, wait_for_none
from tests.lab.docker.test_docker import SUBNET, create_network, ping, start
from tests.lab.rig.hosts import SOCKET, CommandFailed, Host, Lab
from tests.lab.rig.snapshot import host_state, store_keys
from tests.support.faults.fault_proxy import (
    Fault,
    FaultProxy,
    changed,
    cut,
    do_and_cut,
    do_and_refuse,
    refuse,
)
from tests.support.run.wait import wait_until

TEXT = "slim: injected failure"
BEHIND = "/run/slim-behind.sock"
COLLECT_S = 2  # until the driver collects what Docker does not know; minutes by default
FINISHED_S = 30  # for a sandbox, on a busy machine
COLLECTED_S = 30  # how long a test waits for the collection
# dockerd repeats a call whose connection broke, without a body, and shows the answer to that.
CUT_TEXT = "run the command again"

FAULTS: dict[str, tuple[Fault, str]] = {
    "refused": (refuse(TEXT), TEXT),
    "done and refused": (do_and_refuse(TEXT), TEXT),
    "cut": (cut, CUT_TEXT),
    "done and cut": (do_and_cut, CUT_TEXT),
}
every_fault = pytest.mark.parametrize("how", FAULTS)


@pytest.fixture(scope="module")
def proxy(lab: Lab) -> Iterator[FaultProxy]:
    """A proxy between h1's dockerd and its driver, which collects left-overs soon."""
    h1 = lab.hosts[0]
    h1.stop_driver()
    try:
        with FaultProxy(f"{h1.root}{SOCKET}", f"{h1.root}{BEHIND}") as made:
            h1.start_driver("--socket", BEHIND, "--collect-after", str(COLLECT_S))
            yield made
            h1.stop_driver()
    finally:
        h1.stop_driver()


class Before:
    """The lab's state, for comparison with its state later."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self._lab, self._host = lab, host
        self._keys, self._state = store_keys(lab), host_state(host)

    def again(self) -> Before:
        """Return the state now."""
        return Before(self._lab, self._host)

    def check(self) -> None:
        """Assert that everything is as it was, within some seconds."""
        wait_for_none(partial(difference, self._host, self._state), "left on h1", COLLECTED_S)
        wait_for_none(self._keys_changed, "changed in etcd", COLLECTED_S)

    def _keys_changed(self) -> str:
        return ", ".join(sorted(store_keys(self._lab) ^ self._keys))


def start_finished(host: Host, name: str) -> None:
    """Start the first container; its sandbox is finished after `docker run` has ended."""
    start(host, name, image=BUSYBOX)
    wait_until(lambda: any("/netns-" in pin for pin in host_state(host).pins), FINISHED_S,
               f"the sandbox of {name} to be finished")


def fails(host: Host, text: str, *command: str) -> None:
    with pytest.raises(CommandFailed, match=text):
        host.docker(*command)


CREATE = ("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", SUBNET, "app")
RUN = ("run", "-d", "--init", "--name", "alice", "--network", "app", BUSYBOX, "sleep", "infinity")


@every_fault
@pytest.mark.parametrize("call", ["RequestPool", "RequestAddress", "CreateNetwork"])
def test_creating_a_network(call: str, how: str, proxy: FaultProxy, lab: Lab, h1: Host) -> None:
    fault, text = FAULTS[how]
    before = Before(lab, h1)
    proxy.fail(call, fault)
    fails(h1, text, *CREATE)
    assert proxy.pending() == 0, proxy.calls
    before.check()
    h1.docker(*CREATE)
    h1.docker("network", "rm", "app")
    before.check()


@every_fault
@pytest.mark.parametrize("call", ["RequestAddress", "CreateEndpoint", "Join"])
def test_starting_a_container(call: str, how: str, proxy: FaultProxy, lab: Lab, h1: Host) -> None:
    fault, text = FAULTS[how]
    fails_to_start(proxy, h1, (call, fault, text), Before(lab, h1))


def test_interface_name_that_does_not_exist(proxy: FaultProxy, lab: Lab, h1: Host) -> None:
    fault = changed(lambda answer: answer["InterfaceName"].update(SrcName="nowhere"))
    fails_to_start(proxy, h1, ("Join", fault, "nowhere"), Before(lab, h1))


def fails_to_start(proxy: FaultProxy, h1: Host, plan: tuple[str, Fault, str],
                   before: Before) -> None:
    call, fault, text = plan
    create_network([h1])
    start_finished(h1, "bob")
    with_bob = before.again()
    proxy.fail(call, fault)
    fails(h1, text, *RUN)
    assert proxy.pending() == 0, proxy.calls
    assert "NetworkDriver.ProgramExternalConnectivity" not in proxy.calls
    h1.docker("start", "alice")
    address = h1.docker("inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}", "alice")
    ping(h1, "bob", address)
    h1.docker("rm", "-f", "alice")
    with_bob.check()


@every_fault
def test_operational_information_is_not_needed(how: str, proxy: FaultProxy, lab: Lab,
                                               h1: Host) -> None:
    """A container starts whatever happens to this call, which only some releases make."""
    create_network([h1])
    start_finished(h1, "bob")
    before = Before(lab, h1)
    proxy.fail("EndpointOperInfo", FAULTS[how][0])
    ping(h1, "bob", start(h1, "alice", image=BUSYBOX))
    h1.docker("rm", "-f", "alice")
    before.check()


@every_fault
@pytest.mark.parametrize("call", ["Leave", "DeleteEndpoint", "ReleaseAddress"])
def test_removing_a_container(call: str, how: str, proxy: FaultProxy, lab: Lab, h1: Host) -> None:
    """Docker logs the error and forgets the endpoint; the driver finds that out."""
    create_network([h1])
    start_finished(h1, "bob")
    before = Before(lab, h1)
    given = start(h1, "alice", image=BUSYBOX, options=("--ip", "10.32.0.99"))
    proxy.fail(call, FAULTS[how][0])
    with suppress(CommandFailed):
        h1.docker("rm", "-f", "alice")
    assert proxy.pending() == 0, proxy.calls
    with suppress(CommandFailed):  # Docker may have kept the container
        h1.docker("rm", "-f", "alice")
    before.check()
    assert start(h1, "alice", image=BUSYBOX, options=("--ip", given)) == given
    ping(h1, "bob", given)


@every_fault
@pytest.mark.parametrize("call", ["ReleaseAddress", "ReleasePool", "DeleteNetwork"])
def test_removing_a_network(call: str, how: str, proxy: FaultProxy, lab: Lab, h1: Host) -> None:
    before = Before(lab, h1)
    create_network([h1])
    proxy.fail(call, FAULTS[how][0])
    with suppress(CommandFailed):
        h1.docker("network", "rm", "app")
    assert proxy.pending() == 0, proxy.calls
    with suppress(CommandFailed):
        h1.docker("network", "rm", "app")
    before.check()
    create_network([h1])
    h1.docker("network", "rm", "app")
    before.check()


def test_a_network_of_dockers_own_ipam(proxy: FaultProxy, lab: Lab, h1: Host) -> None:
    """Only Docker can tell whether such a network still exists: it has no pool of ours."""
    before = Before(lab, h1)
    command = ("network", "create", "-d", "slim", "--subnet", SUBNET, "app")
    for call in ("CreateNetwork", "DeleteNetwork"):
        proxy.fail(call, do_and_refuse(TEXT) if call == "CreateNetwork" else refuse(TEXT))
        if call == "CreateNetwork":
            fails(h1, TEXT, *command)
        else:
            h1.docker(*command)
            h1.docker("network", "rm", "app")
        assert proxy.pending() == 0, proxy.calls
        before.check()
