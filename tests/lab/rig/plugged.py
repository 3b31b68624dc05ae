"""Provides a swarm of three hosts with the managed plugin, of one Docker release or of one each.

All three are managers; h1 begins as leader.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.lab.rig import dockers
from tests.lab.rig.engine import containers, engine, networks
from tests.lab.rig.hosts import PROJECT, CommandFailed, Host, Lab, lab_of_this_process, run
from tests.lab.rig.seeds import TOOLS, images_seed, plugin_seed
from tests.lab.rig.snapshot import HostState, host_state, store_keys
from tests.support.run.wait import wait_until

PLUGIN = "slim:latest"
SUBNET = "10.40.0.0/16"
SOURCES = ("driver", "kernel", "plugin.json", "requirements.txt", "scripts/plugin.sh",
           "scripts/page.sh", "packaging/page")
STAMP = PROJECT / "build/plugin.sources"  # digest of the sources of build/plugin
ENABLED_S = 120  # a try takes 9 s
CLEAN_S = 30  # a swarm needs time to tell all nodes
# Collect what a killed Docker forgets soon, not after the usual five minutes.
SETTINGS = {"COLLECT_AFTER": "10"}
REMOVED_S = 60  # how long Docker takes


@functools.cache
def built_plugin() -> Path:
    """Return build/plugin; scripts/plugin.sh builds it if the sources have changed."""
    digest = hashlib.sha256()
    for source in SOURCES:
        top = PROJECT / source
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path).encode() + path.read_bytes())
    STAMP.parent.mkdir(exist_ok=True)
    with STAMP.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # only one test process builds
        _build_plugin(digest.hexdigest())
    return PROJECT / "build/plugin"


def _build_plugin(digest: str) -> None:
    if not STAMP.exists() or STAMP.read_text() != digest:
        run([str(PROJECT / "scripts/plugin.sh")], timeout_s=600)
        STAMP.write_text(digest)


def seeds(tree: str) -> list[Path]:
    return [images_seed(tree), plugin_seed(tree, PLUGIN, built_plugin(), STAMP)]


def configure(host: Host, **settings: str) -> None:
    """Set and enable the plugin, as `make plugin-install` does."""
    given = [f"{name}={value}" for name, value in wanted(host, settings).items()]
    host.docker("plugin", "set", PLUGIN, *given)
    enable(host)


def enable(host: Host) -> None:
    wait_until(partial(_enabled, host), ENABLED_S, f"{PLUGIN} starts on {host.name}")
    find_socket(host)


def _enabled(host: Host) -> bool:
    """Try to enable: a plugin on a busy machine may miss the 9 s that dockerd gives its socket."""
    try:
        host.docker("plugin", "enable", PLUGIN)
    except CommandFailed as error:
        if "slim.sock: connect: no such file or directory" not in str(error):
            raise
        return False
    return True


def wanted(host: Host, settings: Mapping[str, str]) -> dict[str, str]:
    # Not /var/lib itself, the default: it is the machine's, and all hosts of a lab share it.
    return {"ETCD": host.lab.etcd_url, "state.source": "/var/lib/slim", **settings}


def install(host: Host, **settings: str) -> None:
    """Install from outside, as users do: `make plugin-install` with DOCKER_HOST."""
    run([str(PROJECT / "scripts/plugin-install.sh")], timeout_s=300, env={
        **host.lab.env, "DOCKER_HOST": host.docker_socket,
        "SET": " ".join(f"{name}={value}" for name, value in wanted(host, settings).items())})
    find_socket(host)


def find_socket(host: Host) -> None:
    """Find where the plugin listens; each installation has a new id."""
    plugin = host.docker("plugin", "inspect", "-f", "{{.ID}}", PLUGIN)
    host.socket = f"/run/docker/plugins/{plugin}/slim.sock"


def answers(host: Host) -> bool:
    try:
        return host.call("/NetworkDriver.GetCapabilities")[0] == 200
    except OSError:
        return False


def plugin_pid(host: Host) -> int:
    """Return the plugin's process id in the host's PID namespace; 0 if it does not run."""
    found = host.exec("sh", "-c", "pgrep -f '[-]m driver serve' | head -1").strip()
    return int(found or 0)


def all_at_once(act: Callable[[Host], object], hosts: Sequence[Host]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(act, hosts))


@contextlib.contextmanager
def plugged_lab(prefix: str, *docker_trees: str, **settings: str) -> Iterator[Lab]:
    """A host for each of the trees, with the plugin."""
    with lab_of_this_process(prefix, *docker_trees, seeds=seeds) as lab:
        hosts = lab.up(len(docker_trees))
        lab.start_etcd()
        all_at_once(lambda host: configure(host, **settings), hosts)
        yield lab


@pytest.fixture(scope="package")
def plugged(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The swarm; errors: CannotBeDownloaded (a release)."""
    with plugged_lab("slimswarm", *dockers.trees(request.param, 3), **SETTINGS) as lab:
        # After the plugin, since a node tells its managers of plugins when it joins.
        leader, *others = lab.hosts
        leader.docker("swarm", "init", "--advertise-addr", str(leader.address))
        for host in others:
            join(host, leader, "manager")
        yield lab


def join(host: Host, manager: Host, role: str) -> None:
    """Make `host` a node of the manager's swarm."""
    token = manager.docker("swarm", "join-token", "-q", role)
    host.docker("swarm", "join", "--advertise-addr", str(host.address), "--token", token,
                f"{manager.address}:2377")


@pytest.fixture
def nodes(request: pytest.FixtureRequest, plugged: Lab) -> Iterator[list[Host]]:
    """The three hosts; checks that they are as before within a module's CLEAN_S."""
    with as_before(plugged, remove_all, getattr(request.module, "CLEAN_S", CLEAN_S)):
        yield plugged.hosts


@contextlib.contextmanager
def as_before(lab: Lab, remove: Callable[[Sequence[Host]], None],
              clean_s: float = CLEAN_S) -> Iterator[None]:
    """Assert that `remove` leaves nothing on the hosts and in etcd."""
    before, keys = [_state(host) for host in lab.hosts], store_keys(lab)
    try:
        yield
    finally:
        remove(lab.hosts)
    last = [""]

    def clean() -> bool:
        last[0] = "; ".join([*filter(None, map(_difference, lab.hosts, before)),
                             *sorted(store_keys(lab) ^ keys)])
        return not last[0]

    try:
        wait_until(clean, clean_s, "nothing is left", 0.2)
    except AssertionError:
        values = lab.etcdctl("get", "--prefix", "/slim/v1/addresses/")
        raise AssertionError(f"left: {last[0]}\n{values}") from None


def _state(host: Host) -> HostState:
    """Leave out Docker's own interfaces: joining a swarm makes those of `ingress` anew."""
    found = host_state(host)
    return replace(found, links=frozenset(
        link for link in found.links if not link.startswith("veth")))


def _difference(host: Host, before: HostState) -> str:
    found = before.difference(_state(host))
    return f"{host.name}: {found}" if found else ""


def remove_all(hosts: Sequence[Host]) -> None:
    """Remove services, containers and slim networks, through Docker alone."""
    wait_until(partial(_has_no_service, hosts[0]), REMOVED_S, "all services to be removed", 0.2)
    for host in hosts:
        wait_until(partial(_has_no_container, host), REMOVED_S, "all containers to be removed", 0.2)
    for host in hosts:
        for network in networks(host, driver=PLUGIN):
            wait_until(partial(network_removed, host, network["Id"]), REMOVED_S,
                       "the network to be removed", 0.2)


def _has_no_service(manager: Host) -> bool:
    """Remove all services; False while managers that were cut off still elect a leader."""
    try:
        services = manager.docker("service", "ls", "-q").split()
        if services:
            manager.docker("service", "rm", *services)
    except CommandFailed as error:
        if "does not have a leader" in str(error):
            return False
        raise
    return not services


def _has_no_container(host: Host) -> bool:
    found = [each["Id"] for each in containers(host)]
    with contextlib.suppress(CommandFailed):  # a task that its node removes meanwhile
        if found:
            host.docker("rm", "-f", "-v", *found)
    return not found


def network_removed(host: Host, network: str) -> bool:
    """Try to remove it; it is in use until the managers learn of its last task's end."""
    try:
        host.docker("network", "rm", network)
    except CommandFailed as error:
        return "not found" in str(error) or "No such network" in str(error)
    return True


def create_network(manager: Host, name: str = "app", *options: str,
                   ipam: Sequence[str] = ("--ipam-driver", PLUGIN, "--subnet", SUBNET)) -> None:
    manager.docker("network", "create", "-d", PLUGIN, "--attachable", *ipam, *options, name)


def create_service(manager: Host, name: str, *options: str, network: str = "app",
                   image: str = TOOLS, command: Sequence[str] = ()) -> None:
    """Create it and return at once; the nodes have the image, so no registry is asked."""
    # A short grace period: PID 1 ignores SIGTERM, and Docker would wait 10 s for its end.
    manager.docker("service", "create", "-q", "--detach", "--no-resolve-image", "--name", name,
                   "--stop-grace-period", "2s", "--network", network, *options, image, *command)


def running(manager: Host, service: str) -> int:
    """Count the service's running tasks."""
    with engine(manager) as client:
        tasks = client.tasks(filters={"service": service, "desired-state": "running"})
    return sum(task["Status"]["State"] == "running" for task in tasks)


def updated(manager: Host, service: str) -> bool:
    """Whether the service's last update is over."""
    with engine(manager) as client:
        status = client.inspect_service(service).get("UpdateStatus", {})
    return bool(status.get("State") == "completed")


def wait_running(manager: Host, service: str, count: int, timeout_s: float = 90) -> None:
    wait_until(lambda: running(manager, service) == count, timeout_s,
               f"{count} tasks of {service} run", 0.2)


def published(lab: Lab) -> dict[str, set[str]]:
    """Return the services in etcd by name, with their tasks' addresses."""
    text = lab.etcdctl("get", "--prefix", "--print-value-only", "/slim/v1/services/")
    found = [json.loads(line) for line in text.splitlines() if line]
    return {each["name"]: set(each["backends"]) for each in found if "left" not in each}


def task_containers(host: Host, service: str) -> list[str]:
    """Return the service's containers on this host."""
    label = f"com.docker.swarm.service.name={service}"
    return [found["Id"] for found in containers(host, only_running=True, label=label)]
