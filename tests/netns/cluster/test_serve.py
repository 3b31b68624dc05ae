"""Tests `slim serve` as a process, on a host that is a namespace, with a real etcd."""

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

from driver.commands.control_client import ask
from tests.conftest import PROJECT
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns
from tests.support.world.served import (
    EP,
    NET,
    POOL,
    START_S,
    UNDERLAY,
    Host,
    attach,
    create_network,
    delete_network,
    detach,
    one_host,
)


@pytest.fixture
def host(make_netns: Callable[[str], Netns], tmp_path: Path) -> Iterator[Host]:
    with one_host(make_netns, tmp_path, Host) as made:
        yield made


def run_container(host: Host, sandbox: Netns) -> str:
    """Do all that dockerd does for `network create` and `run`; return the address."""
    create_network(host)
    return attach(host, sandbox)


def remove_container(host: Host, address: str) -> None:
    detach(host, address)
    delete_network(host)


def takes_calls(host: Host) -> bool:
    """A socket is there a moment before it takes calls; dockerd tries again."""
    try:
        return host.dockerd.raw("Plugin.Activate", b"").status > 0  # whatever it answers
    except (FileNotFoundError, ConnectionRefusedError):
        return False


def finished(host: Host) -> bool:
    return host.status()["sandboxes"].startswith("1 finished")


def test_from_no_etcd_to_an_empty_etcd(host: Host, make_sandbox: Callable[[str], Netns]) -> None:
    host.start_driver()
    assert stat.S_IMODE(os.stat(host.socket).st_mode) == 0o600
    assert host.dockerd.raw("NetworkDriver.GetCapabilities", b"").json["Scope"] == "local"
    reply = host.dockerd.call("NetworkDriver.CreateNetwork", NetworkID=NET, IPv4Data=[
        {"AddressSpace": "slim-local", "Pool": POOL}])
    assert (reply.status, "etcd" in reply.error) == (200, True), reply

    assert "http://127.0.0.1:2379" in host.status()["etcd"]
    host.start_etcd()
    before = host.stored_keys()
    wait_until(lambda: host.status()["etcd"] == "answers, 1 hosts registered", 30, "registered")
    sandbox = make_sandbox("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 30, "the sandbox is finished")
    wait_until(lambda: host.status()["directory"] == "1 endpoints", 30, "the directory is fed")
    assert "from 198.18.7.1" in sandbox.ip("rule show")
    assert set(ask(host.socket, "Slim.Counters")["Counters"]) >= {"connected", "accepted"}  # type: ignore[call-overload]
    remove_container(host, address)
    wait_until(lambda: not host.links(), 30, "the link is deleted, behind the answer")
    assert host.stored_keys() == before
    wait_until(lambda: host.status()["directory"] == "0 endpoints", 30, "the directory is empty")
    assert host.end_driver(signal.SIGTERM) == 0, host.log()
    assert not os.path.exists(host.socket)
    assert "Traceback" not in host.log()


def test_killed_and_started_again(host: Host, make_sandbox: Callable[[str], Netns]) -> None:
    host.start_driver()
    host.start_etcd()
    before = host.stored_keys()
    sandbox = make_sandbox("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 30, "the sandbox is finished")
    stray = secrets.token_hex(6)[:11]
    host.netns.ip(f"link add sl{stray} type veth peer name sc{stray}")
    assert host.end_driver(signal.SIGKILL) == -signal.SIGKILL
    assert os.path.exists(host.socket)  # nobody could unlink it

    host.start_driver()
    assert "/libLLVM" not in host.mapped_files()  # the cache keeps what the first one compiled
    wait_until(lambda: finished(host), 30, "the sandbox is taken over")
    assert [line.split("@")[0] for line in host.links()] == ["sl" + EP[:11]]
    remove_container(host, address)
    wait_until(lambda: not host.links(), 30, "the link is deleted, behind the answer")
    assert host.stored_keys() == before


def reserved(host: Host) -> str:
    return host.netns.run("cat", "/proc/sys/net/ipv4/ip_local_reserved_ports").stdout.strip()


def cleanup(host: Host) -> None:
    host.netns.run(sys.executable, "-m", "driver", "cleanup", "--bpffs", str(host.pins),
                   "--socket", host.socket, "--state", str(host.folder / "state"),
                   "--config", os.devnull)


def test_endpoint_ports_are_reserved_until_cleanup(host: Host) -> None:
    host.netns.sysctl("ipv4.ip_local_reserved_ports", "8080,32768-32770")
    host.options = ("--port-range", "32768-40000")
    host.start_driver()
    assert reserved(host) == "8080,32768-40000"
    assert host.status()["ports"] == "0 endpoint ports in use"
    assert host.end_driver(signal.SIGKILL) == -signal.SIGKILL
    host.options = ("--port-range", "61000-61999")
    host.start_driver()
    assert reserved(host) == "8080,32768-32770,61000-61999"
    host.end_driver(signal.SIGTERM)
    assert reserved(host) == "8080,32768-32770,61000-61999"  # pins and containers are still there
    cleanup(host)
    assert reserved(host) == "8080,32768-32770"


def test_reserved_ports_that_cannot_be_set(host: Host) -> None:
    """A managed plugin cannot set them: nothing fails, and the driver says it where it matters."""
    host.prefix = ("unshare", "--mount", "sh", "-c",
                   'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && '
                   'exec "$@"', "sh")
    host.options = ("--port-range", "32768-40000")
    host.start_driver()
    assert reserved(host) == ""
    advice = "sysctl -w net.ipv4.ip_local_reserved_ports=32768-40000"
    assert advice in host.status()["ports"]
    assert 'level=warning logger=slim msg="net.ipv4.ip_local_reserved_ports cannot be set' in (
        host.folder / "driver.log").read_text()
    host.netns.sysctl("ipv4.ip_local_reserved_ports", "32768-40000")
    assert host.status()["ports"] == "0 endpoint ports in use"
    host.end_driver(signal.SIGTERM)
    host.options = ()
    host.start_driver()
    log = (host.folder / "driver.log").read_text()
    assert log.count(
        'level=info logger=slim msg="net.ipv4.ip_local_reserved_ports cannot be set') == 1
    host.end_driver(signal.SIGTERM)
    cleanup(host)
    assert reserved(host) == "32768-40000"  # somebody else's


def test_a_port_range_that_leaves_no_source_ports_is_refused(host: Host) -> None:
    """Driver and doctor refuse it in the same words, and change nothing."""
    links = host.netns.ip("-br link show")
    words = ("--port-range", "1024-65535", "--underlay", "eth0", "--state",
             str(host.folder / "state"), "--socket", host.socket, "--config", os.devnull)
    refused = host.netns.run(sys.executable, "-m", "driver", "serve", *words, check=False)
    assert refused.returncode == 2
    reason = refused.stderr.strip().removeprefix("slim: ")
    assert reason.startswith("--port-range=1024-65535 leaves 0 source ports")
    doctor = host.netns.run(sys.executable, "-m", "driver", "doctor", *words, check=False)
    assert f"FAIL  ports        {reason}" in doctor.stdout.splitlines()
    assert reserved(host) == ""
    assert host.netns.ip("-br link show") == links


@pytest.mark.parametrize(("state", "status", "text"), [
    ("state", 2, "another driver runs on this host"),
    ("other", 2, "another driver runs on this host")])
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
    """If it ended, Docker would only report that it did not start; it goes on once it can."""
    environment = {"SLIM_PLAIN_NAMES": "yes", "PORT_RANGE": "7000", "SLIM_SOCKET": host.socket}
    process = subprocess.Popen(
        host.netns.command("env", *(f"{name}={text}" for name, text in environment.items()),
                           sys.executable, "-m", "driver", "serve"), stderr=subprocess.PIPE,
        text=True, cwd=PROJECT)
    try:
        wait_until(lambda: takes_calls(host), 30, "the socket takes calls")
        # Nothing that dockerd would remember: the scope is not known.
        for call in ("Plugin.Activate", "NetworkDriver.GetCapabilities"):
            error = host.dockerd.call(call).error
            assert error.startswith("slim does not start: PORT_RANGE='7000': want ")
    finally:
        process.terminate()
    # At its start, and for each call: the one that found it listening, and two.
    assert process.communicate(timeout=10)[1].count("PORT_RANGE='7000'") == 4
    assert process.returncode == 0
    assert not os.path.exists(host.socket)


def test_under_a_supervisor_it_answers_until_it_can_start(host: Host) -> None:
    """dockerd would look 15 s for its socket at each call; typed by somebody it would end."""
    host.netns.ip(f"address del {UNDERLAY}/24 dev eth0")
    host.launch_driver()
    assert host.driver is not None
    assert host.driver.wait(START_S) == 1
    assert "interface eth0 has no IPv4 address" in host.log()
    host.prefix = ("env", "SLIM_SUPERVISED=1")
    host.launch_driver()
    wait_until(lambda: takes_calls(host), START_S, "the socket takes calls")
    assert host.dockerd.ok("Plugin.Activate")["Implements"] == ["NetworkDriver", "IpamDriver"]
    assert host.dockerd.ok("NetworkDriver.GetCapabilities")["Scope"] == "local"
    error = host.dockerd.call("NetworkDriver.CreateNetwork", NetworkID=NET).error
    assert error.startswith("slim does not start: underlay: interface eth0 has no IPv4 address")
    host.netns.ip(f"address add {UNDERLAY}/24 dev eth0")
    wait_until(host.answers, START_S, "the driver answers")  # the same process
    assert host.end_driver(signal.SIGTERM) == 0


def test_removed_while_etcd_is_away(host: Host, make_sandbox: Callable[[str], Netns]) -> None:
    host.start_driver()
    host.start_etcd()
    before = host.stored_keys()
    sandbox = make_sandbox("box")
    address = run_container(host, sandbox)
    wait_until(lambda: finished(host), 30, "the sandbox is finished")
    assert host.etcd is not None
    host.etcd.send_signal(signal.SIGSTOP)
    try:
        host.dockerd.ok("NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)  # needs no etcd
        # dockerd forgets the endpoint whatever the answer, and does not ask again.
        reply = host.dockerd.call("NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
        assert "etcd" in reply.error, reply
        wait_until(lambda: not host.links(), 30, "the link is deleted, behind the answer")
    finally:
        host.etcd.send_signal(signal.SIGCONT)
    wait_until(lambda: not any(EP in key for key in host.stored_keys()), 30,
               "the record to be removed")
    remove_container(host, address)
    # The fence that ended the unanswered write stays.
    assert [key for key in host.stored_keys() if not key.endswith("/fence")] == before


def test_a_subnet_that_a_route_of_the_host_overlaps(host: Host) -> None:
    """All calls refuse it; a pool on record goes on, and the doctor names it."""
    def bridge(name: str, address: str) -> None:
        host.netns.ip(f"link add {name} type bridge")
        host.netns.ip(f"addr add {address} dev {name} nodad" if ":" in address else
                      f"addr add {address} dev {name}")
        host.netns.ip(f"link set {name} up")

    def requested(pool: str) -> str:
        return host.dockerd.call("IpamDriver.RequestPool", AddressSpace="slim-local", Pool=pool,
                                 SubPool="", Options=None, V6=False).error

    def created(network: str, space: str, *pools: str) -> str:
        data = [{"AddressSpace": space, "Pool": pool} for pool in pools]
        return host.dockerd.call("NetworkDriver.CreateNetwork", NetworkID=network, IPv4Data=[
            each for each in data if "." in each["Pool"]], IPv6Data=[
            each for each in data if ":" in each["Pool"]]).error

    bridge("docker_gwbridge", "172.18.0.1/16")
    bridge("br-0123456789ab", "fd00:77::1/64")
    host.start_driver()
    host.start_etcd()
    before = host.stored_keys()
    for pool in ("198.18.7.128/25", "172.18.0.0/16"):
        assert requested(pool) == ""
    assert "198.18.7.0/24, to which this host has a route over eth0" in created(
        NET, "slim-local", "198.18.7.128/25")
    assert "docker_gwbridge (Docker's network" in created(NET, "slim-local", "172.18.0.0/16")
    for pool in ("198.18.7.128/25", "172.18.0.0/16"):  # as dockerd then does
        host.dockerd.ok("IpamDriver.ReleasePool", PoolID=f"slim-local/{pool}")
    assert "docker_gwbridge" in created(NET, "LocalDefault", "172.18.128.0/20")
    assert "br-0123456789ab (Docker network 0123456789ab)" in created(
        NET, "slim-global", "10.60.0.0/16", "fd00:77::/64")
    assert host.stored_keys() == before
    create_network(host)
    doctor = (sys.executable, "-m", "driver", "doctor", "--underlay", "eth0", "--state",
              str(host.folder / "state"), "--config", os.devnull)
    assert ("ok    networks     1, none overlaps a network of the host"
            in host.netns.run(*doctor, check=False).stdout)
    host.netns.ip("route add 10.48.0.0/14 via 198.18.7.9")
    assert (f"FAIL  networks     network {NET[:12]} has {POOL}, which overlaps 10.48.0.0/14, to "
            "which this host has a route over eth0" in host.netns.run(*doctor, check=False).stdout)
    assert requested(POOL) == ""
    assert created(NET, "slim-local", POOL) == ""
    assert "10.48.0.0/14" in created("9" * 64, "slim-local", POOL)
    host.dockerd.ok("IpamDriver.ReleasePool", PoolID=f"slim-local/{POOL}")
    delete_network(host)
    assert host.stored_keys() == before
