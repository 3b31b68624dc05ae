"""`slim serve` as a process of its own, on a host that is a namespace, with a real etcd."""

from __future__ import annotations

import os
import secrets
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from driver.control_client import ask
from tests.conftest import PROJECT
from tests.support.netns import Netns
from tests.support.served import (
    EP,
    NET,
    POOL,
    Host,
    attach,
    create_network,
    delete_network,
    detach,
    one_host,
)
from tests.support.wait import wait_until


@pytest.fixture
def host(make_netns: Callable[[str], Netns], tmp_path: Path) -> Iterator[Host]:
    with one_host(make_netns, tmp_path, Host) as made:
        yield made


def run_container(host: Host, sandbox: Netns) -> str:
    """Everything dockerd does for `network create` and `run`; returns the address."""
    create_network(host)
    return attach(host, sandbox)


def remove_container(host: Host, address: str) -> None:
    detach(host, address)
    delete_network(host)


def finished(host: Host) -> bool:
    return host.status()["sandboxes"].startswith("1 finished")


def test_from_no_etcd_to_an_empty_etcd(host: Host, make_netns: Callable[[str], Netns]) -> None:
    host.start_driver()
    assert stat.S_IMODE(os.stat(host.socket).st_mode) == 0o600
    assert host.dockerd.raw("NetworkDriver.GetCapabilities", b"").json["Scope"] == "local"
    reply = host.dockerd.call("NetworkDriver.CreateNetwork", NetworkID=NET, IPv4Data=[
        {"AddressSpace": "slim-local", "Pool": POOL}])
    assert (reply.status, "etcd" in reply.error) == (200, True), reply

    assert "http://127.0.0.1:2379" in host.status()["etcd"]
    host.start_etcd()
    before = host.stored_keys()
    wait_until(lambda: host.status()["etcd"] == "answers, 1 hosts registered", 10, "registered")
    sandbox = make_netns("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 10, "the sandbox is finished")
    wait_until(lambda: host.status()["directory"] == "1 endpoints", 10, "the directory is fed")
    assert "from 198.18.7.1" in sandbox.ip("rule show")
    assert set(ask(host.socket, "Slim.Counters")["Counters"]) >= {"connected", "accepted"}  # type: ignore[call-overload]
    remove_container(host, address)
    wait_until(lambda: not host.links(), 10, "the link is deleted, behind the answer")
    assert host.stored_keys() == before
    wait_until(lambda: host.status()["directory"] == "0 endpoints", 10, "the directory is empty")
    assert host.end_driver(signal.SIGTERM) == 0, host.log()
    assert not os.path.exists(host.socket)
    assert "Traceback" not in host.log()


def test_killed_and_started_again(host: Host, make_netns: Callable[[str], Netns]) -> None:
    host.start_driver()
    host.start_etcd()
    before = host.stored_keys()
    sandbox = make_netns("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 10, "the sandbox is finished")
    stray = secrets.token_hex(6)[:11]
    host.netns.ip(f"link add sl{stray} type veth peer name sc{stray}")
    assert host.end_driver(signal.SIGKILL) == -signal.SIGKILL
    assert os.path.exists(host.socket)  # nobody could unlink it

    host.start_driver()
    wait_until(lambda: finished(host), 10, "the sandbox is taken over")
    assert [line.split("@")[0] for line in host.links()] == ["sl" + EP[:11]]
    remove_container(host, address)
    wait_until(lambda: not host.links(), 10, "the link is deleted, behind the answer")
    assert host.stored_keys() == before


@pytest.mark.parametrize(("state", "status", "text"), [
    ("state", 2, "another driver runs with it"), ("other", 1, "another process serves ")])
def test_a_second_driver_is_refused(host: Host, state: str, status: int, text: str) -> None:
    host.start_driver()
    second = host.netns.run(
        sys.executable, "-m", "driver", "serve", "--underlay", "eth0", "--cgroup",
        str(host.cgroup), "--bpffs", str(host.pins), "--socket", host.socket, "--state",
        str(host.folder / state), "--config", os.devnull, check=False)
    assert second.returncode == status
    assert text in second.stderr
    assert second.stderr.count("\n") == 1
    assert host.answers()


def test_a_managed_plugin_says_what_is_wrong_with_its_settings(host: Host) -> None:
    """One that ends would only "not start"; this one starts for good when it can."""
    environment = {"SLIM_PLAIN_NAMES": "yes", "PORT_RANGE": "7000", "SLIM_SOCKET": host.socket}
    process = subprocess.Popen(
        host.netns.command("env", *(f"{name}={text}" for name, text in environment.items()),
                           sys.executable, "-m", "driver", "serve"), stderr=subprocess.PIPE,
        text=True, cwd=PROJECT)
    try:
        wait_until(lambda: os.path.exists(host.socket), 20, "the socket is there")
        assert host.dockerd.ok("Plugin.Activate")["Implements"] == ["NetworkDriver", "IpamDriver"]
        for call in ("NetworkDriver.GetCapabilities", "IpamDriver.RequestPool"):
            error = host.dockerd.call(call).error
            assert error.startswith("slim does not start: PORT_RANGE='7000': want ")
    finally:
        process.terminate()
    assert process.communicate(timeout=10)[1].count("PORT_RANGE='7000'") == 3
    assert process.returncode == 1
    assert not os.path.exists(host.socket)


def test_removed_while_etcd_is_away(host: Host, make_netns: Callable[[str], Netns]) -> None:
    host.start_driver()
    host.start_etcd()
    before = host.stored_keys()
    sandbox = make_netns("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 10, "the sandbox is finished")
    assert host.etcd is not None
    host.etcd.send_signal(signal.SIGSTOP)
    try:
        host.dockerd.ok("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)  # needs no etcd
        # dockerd forgets the endpoint whatever it is answered, and asks no second time.
        reply = host.dockerd.call("NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
        assert "etcd" in reply.error, reply
        wait_until(lambda: not host.links(), 10, "the link is deleted, behind the answer")
    finally:
        host.etcd.send_signal(signal.SIGCONT)
    wait_until(lambda: not any(EP in key for key in host.stored_keys()), 30,
               "the record to be removed")
    remove_container(host, address)
    # The fence, with which what etcd did not answer was ended, stays.
    assert [key for key in host.stored_keys() if not key.endswith("/fence")] == before
