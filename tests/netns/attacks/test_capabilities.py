"""Tests that the driver works with the capabilities that its unit grants, and needs each of them.

packaging/slim.service and docs/security.md must have the same list; the test reads the unit.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from driver.commands.control_client import ask
from driver.errors import SlimError
from driver.process.priority import NICE
from tests.conftest import PROJECT
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns
from tests.support.world.served import (
    Host,
    attach,
    create_network,
    delete_network,
    detach,
    one_host,
)

UNIT = (PROJECT / "packaging" / "slim.service").read_text()
GRANTED = tuple(re.findall(r"CAP_\w+", next(
    line for line in UNIT.splitlines() if line.startswith("CapabilityBoundingSet="))))


@pytest.fixture
def host(make_netns: Callable[[str], Netns], tmp_path: Path) -> Iterator[Host]:
    with one_host(make_netns, tmp_path, Host) as made:
        yield made


def _only(*capabilities: str) -> tuple[str, ...]:
    """Return the prefix that runs a command as root with only these."""
    names = ",".join(["-all", *("+" + name.removeprefix("CAP_").lower()
                                for name in capabilities)])
    return ("setpriv", "--no-new-privs", f"--inh-caps={names}", f"--bounding-set={names}")


def _finished(host: Host) -> bool:
    return host.status()["sandboxes"].startswith("1 finished")


def test_it_works_with_what_the_unit_grants(
        host: Host, make_netns: Callable[[str], Netns]) -> None:
    """A container's life works, also across a restart over what a killed driver left."""
    host.prefix = _only(*GRANTED)
    host.start_driver()
    host.start_etcd()
    before, sandbox = host.stored_keys(), make_netns("box")
    create_network(host)
    address = attach(host, sandbox)
    wait_until(lambda: _finished(host), 30, "the sandbox is finished")
    assert host.driver is not None
    assert os.getpriority(os.PRIO_PROCESS, host.driver.pid) == NICE
    assert host.status()["guard"] == "0 hosts, 0 packets dropped"
    assert "bpf" in sandbox.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    host.end_driver(signal.SIGKILL)
    host.start_driver()
    wait_until(lambda: _finished(host), 30, "the sandbox is taken over")
    detach(host, address)
    delete_network(host)
    wait_until(lambda: not host.links(), 30, "the link is deleted, behind the answer")
    assert host.stored_keys() == before
    assert host.end_driver(signal.SIGTERM) == 0, host.log()
    assert "not permitted" not in host.log()
    assert "level=error" not in host.log()


# What a driver says without a capability; what does not need it goes on.
COMPLAINTS = {
    "CAP_NET_ADMIN": r"slim-vxlan.*not permitted",
    "CAP_SYS_ADMIN": r"cannot enter it: Operation not permitted|programs do not compile",
    "CAP_NET_RAW": r"", "CAP_SYS_NICE": r"", "CAP_NET_BIND_SERVICE": r"",
}


def test_every_capability_has_its_reason_below() -> None:
    assert set(COMPLAINTS) == set(GRANTED)


@pytest.mark.parametrize("missing", [name for name, text in COMPLAINTS.items() if text])
def test_it_needs_each_of_them(host: Host, make_netns: Callable[[str], Netns], missing: str
                               ) -> None:
    """Without one the driver does not start, or cannot finish a sandbox, and says so."""
    host.prefix = _only(*(name for name in GRANTED if name != missing), "CAP_BPF", "CAP_PERFMON")
    host.launch_driver()

    def answers() -> bool:
        with suppress(SlimError):  # the driver may refuse to start
            ask(host.socket, "Slim.Status")
            return True
        return False

    def ended() -> bool:
        assert host.driver is not None
        return host.driver.poll() is not None

    wait_until(lambda: ended() or answers(), 30, "the driver to answer or to end")
    if not ended():
        host.start_etcd()
        create_network(host)
        attach(host, make_netns("box"))
    wait_until(lambda: re.search(COMPLAINTS[missing], host.log()), 30, "a complaint")
    assert ended() or not _finished(host)
