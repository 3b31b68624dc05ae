"""Tests swarms: networks on all nodes, services by name and by vip, nodes that leave.

Rows 58-61 of the plugin contract's checklist.  `nodes` checks after each test that nothing is left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from bench.studies.services import HOST, compare
from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import address_of, call, ping, start
from tests.lab.docker.test_examples import folder, use_stack  # noqa: F401 - a fixture
from tests.lab.rig.dockers import MISSING, feature
from tests.lab.rig.hosts import CommandFailed, Host, Lab
from tests.lab.rig.plugged import (
    PLUGIN,
    create_network,
    create_service,
    enable,
    install,
    join,
    plugin_pid,
    published,
    running,
    task_containers,
    updated,
    wait_running,
)
from tests.lab.rig.seeds import BUSYBOX
from tests.lab.rig.standard_images import load_standard_images
from tests.lab.rig.traffic import made
from tests.support.run.wait import wait_until

pytestmark = pytest.mark.timeout(400)  # the first one builds the plugin

# Each task runs it once a second, so it is cheap: no Python.
HEALTH = ("--health-cmd", "nc 127.0.0.1 7000 < /dev/null", "--health-interval", "1s")
# Connects many times; prints {answering task: count} and the failures.
MANY = """
import json, socket, sys, collections
answered, failed = collections.Counter(), collections.Counter()
for _ in range(int(sys.argv[3])):
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as c:
            c.settimeout(5)
            seen = json.loads(c.makefile().readline())
            assert c.getpeername()[0] == socket.gethostbyname(sys.argv[1])
            answered[seen["local"][0]] += 1
    except OSError as error:
        failed[type(error).__name__] += 1
print(json.dumps([answered, failed]))
"""
# The same, until its standard input ends: for updates under load.
UNTIL_TOLD = MANY.replace("for _ in range(int(sys.argv[3])):", """
import select, time
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:""")


def many(host: Host, container: str, name: str, count: int) -> tuple[Counter[str], dict[str, int]]:
    answered, failed = json.loads(host.docker(
        "exec", container, "python3", "-c", MANY, name, "7000", str(count)))
    return Counter(answered), failed


@pytest.fixture
def web(nodes: list[Host], plugged: Lab) -> list[Host]:
    """A network with a client on the second node, and three tasks of `web`, one on each node."""
    manager, second, _ = nodes
    create_network(manager)
    # With a health command Docker calls a task running only once its server answers.
    create_service(manager, "web", "--replicas", "3", *HEALTH, command=SERVE)
    wait_running(manager, "web", 3)
    start(second, "client")
    wait_until(lambda: len(published(plugged).get("web", ())) == 3, 20, "web is published", 0.1)
    return nodes


def connections(hosts: list[Host]) -> int:
    return sum(made(host.counters()) for host in hosts)


@feature("Swarm: a network on all nodes, names, `--attachable`")
def test_a_network_that_all_nodes_have(nodes: list[Host]) -> None:
    """Options and subnet reach each node, names resolve by round robin, TCP takes its path."""
    manager = nodes[0]
    create_network(manager, "app", "-o", "com.docker.network.driver.mtu=1400")
    create_service(manager, "everywhere", "--mode", "global", "--endpoint-mode", "dnsrr",
                   *HEALTH, command=SERVE)
    wait_running(manager, "everywhere", len(nodes))
    addresses = {}
    for host in nodes:
        addresses[host.name] = start(host, f"on-{host.name}")
        assert addresses[host.name].startswith("10.40.")
        link = host.docker("exec", f"on-{host.name}", "ip", "link", "show", "eth0")
        assert "mtu 1400" in link
    tasks = [address_of(host, task) for host in nodes
             for task in task_containers(host, "everywhere")]
    assert len(tasks) == len(nodes)
    for host in nodes:
        for address in (*addresses.values(), *tasks):
            assert " 0% packet loss" in ping(host, f"on-{host.name}", address)
        for name in ("everywhere", "tasks.everywhere"):
            wait_until(partial(_resolves, host, f"on-{host.name}", name), 20, f"{name} has a name")
    # Now each host knows each task, and each task serves: each connection counts once, on one host.
    before = connections(nodes)
    for host in nodes:
        for name in ("everywhere", "tasks.everywhere"):
            seen = call(host, f"on-{host.name}", name, "--retry-s", "10")
            assert seen.client_local[0] == addresses[host.name]
            assert seen.client_peer == seen.server_local
    assert connections(nodes) - before == 2 * len(nodes)
    # Gossip brings the names of containers on other nodes, usually at once.
    wait_until(lambda: f"({addresses['h3']})" in nodes[1].docker(
        "exec", "on-h2", "ping", "-c", "1", "on-h3"), 20, "the name of a container elsewhere")


def _resolves(host: Host, container: str, name: str) -> bool:
    return _try(host, "exec", container, "ping", "-c", "1", "-W", "1", name) != ""


@feature("Swarm: services' addresses (`vip`), evenly spread, without IPVS")
def test_a_services_own_address(web: list[Host], plugged: Lab) -> None:
    """The default, `--endpoint-mode vip`: connections spread evenly, without IPVS."""
    manager, second, _ = web
    before = connections(web)
    answered, failed = many(second, "client", "web", 300)
    assert failed == {}
    assert set(answered) == published(plugged)["web"]
    # 100 each; 60 is five standard deviations away (binomial, n = 300, p = 1/3: 8.2).
    assert min(answered.values()) > 60, answered
    assert connections(web) - before == 300
    assert " 0% packet loss" in ping(second, "client", "web")
    manager.docker("service", "scale", "-d", "web=1")
    wait_until(lambda: len(published(plugged)["web"]) == 1, 30, "one task to be published", 0.1)
    answered, failed = many(second, "client", "web", 30)
    assert (set(answered), failed) == (published(plugged)["web"], {})
    manager.docker("service", "scale", "-d", "web=0")
    wait_until(lambda: published(plugged)["web"] == set(), 30, "no task to be published", 0.1)
    assert many(second, "client", "web", 3) == ({}, {"ConnectionRefusedError": 3})
    manager.docker("service", "scale", "-d", "web=2")
    wait_until(lambda: len(published(plugged)["web"]) == 2, 30, "two tasks to be published", 0.1)
    answered, failed = many(second, "client", "web", 30)
    assert (set(answered), failed) == (published(plugged)["web"], {})
    manager.docker("service", "rm", "web")
    wait_until(lambda: published(plugged) == {}, 10, "nothing to be published", 0.1)


@feature("Swarm: services' addresses (`vip`), evenly spread, without IPVS")
def test_a_task_that_dies_is_not_chosen(web: list[Host], plugged: Lab) -> None:
    """Its host tells all others, before any manager has noticed."""
    manager, second, _ = web
    victim_host = next(host for host in web if task_containers(host, "web"))
    victim, = task_containers(victim_host, "web")[:1]
    address = address_of(victim_host, victim)
    assert address in many(second, "client", "web", 60)[0]
    manager.docker("service", "update", "-d", "--restart-condition", "none", "web")
    # Ask the manager, since the tasks from before run as well, and are as many.
    wait_until(lambda: updated(manager, "web"), 90, "the update to be over", 0.2)
    wait_running(manager, "web", 3)
    wait_until(lambda: len(published(plugged)["web"]) == 3, 20, "all to be published", 0.1)
    victim_host = next(host for host in web if task_containers(host, "web"))
    victim, = task_containers(victim_host, "web")[:1]
    address = address_of(victim_host, victim)
    victim_host.docker("kill", victim)
    wait_until(lambda: not any(address in line for line in plugged.etcdctl(
        "get", "--prefix", "--print-value-only", "/slim/v1/endpoints/").splitlines()
        if '"left":' not in line), 20, "its end", 0.01)
    answered, failed = many(second, "client", "web", 60)
    assert failed == {}
    assert len(answered) == 2
    assert address not in answered


@feature("Swarm: an update (`start-first`) without a failed connection")
def test_an_update_under_load_fails_no_connection(web: list[Host]) -> None:
    manager, second, _ = web
    with Popen(second.command("docker", "exec", "-i", "client", "python3", "-c", UNTIL_TOLD, "web",
                              "7000"), stdin=PIPE, stdout=PIPE, text=True,
               env=second.lab.env) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        manager.docker("service", "update", "-q", "--no-resolve-image", "--force",
                       "--update-order", "start-first", "--update-delay", "1s", "web")
        output, _ = load.communicate("stop\n", timeout=60)
    answered, failed = json.loads(output)
    assert failed == {}
    assert len(answered) >= 4, "tasks of before and after"


@feature("Swarm: leaders, nodes and plugins that go")
def test_who_publishes_goes(web: list[Host], plugged: Lab) -> None:
    """The publishing manager's plugin is killed."""
    manager = web[0]

    def holder() -> str:
        text = plugged.etcdctl("get", "--prefix", "--print-value-only", "/slim/v1/publishers/")
        return str(json.loads(text)["host"]) if text.strip() else ""

    def name_of(host_id: str) -> str:
        text = plugged.etcdctl("get", "--print-value-only", f"/slim/v1/known/{host_id}")
        return str(json.loads(text)["name"])

    first = holder()
    publisher = next(host for host in web if host.name == name_of(first))
    publisher.exec("kill", "-KILL", str(plugin_pid(publisher)))
    manager.docker("service", "scale", "-d", "web=4")
    wait_until(lambda: len(published(plugged)["web"]) == 4, 60, "the list to follow", 0.1)
    # Docker starts it again; the plugin's id stays.
    wait_until(lambda: plugin_pid(publisher) > 0, 20, "the plugin is back")


@feature("managed plugin: disabled, killed, installed anew; containers run on")
def test_the_plugin_is_installed_anew_under_running_containers(
        nodes: list[Host], plugged: Lab) -> None:
    """To etcd and its peers it is the same host as before; containers run on."""
    def hosts() -> str:
        return plugged.etcdctl("get", "--prefix", "--keys-only", "/slim/v1/known/")

    manager, second, _ = nodes
    create_network(manager)
    here, there = (start(host, f"on-{host.name}", *SERVE) for host in (manager, second))
    call(manager, "on-h1", there)
    before = hosts()
    install(second)
    assert hosts() == before
    assert call(manager, "on-h1", there).client_peer == [there, 7000]
    assert call(second, "on-h2", here).client_peer == [here, 7000]
    second.docker("restart", "-t", "0", "on-h2")
    start(second, "later")
    assert call(second, "later", here).client_peer == [here, 7000]


@feature("Swarm: 0 to 50 tasks and back")
def test_fifty_tasks_come_and_go(nodes: list[Host], plugged: Lab) -> None:
    manager = nodes[0]
    create_network(manager)
    create_service(manager, "crowd", "--replicas", "0", image=BUSYBOX, command=("sleep", "9999"))
    manager.docker("service", "scale", "-d", "crowd=50")
    wait_until(lambda: len(published(plugged).get("crowd", ())) == 50, 150, "50 tasks", 0.5)
    assert running(manager, "crowd") == 50
    manager.docker("service", "scale", "-d", "crowd=0")
    wait_until(lambda: not any(task_containers(host, "crowd") for host in nodes), 90,
               "no task", 0.5)


def _try(host: Host, *argv: str) -> str:
    try:
        return host.docker(*argv)
    except CommandFailed:
        return ""


@feature("Swarm: leaders, nodes and plugins that go")
def test_a_node_without_the_plugin_gets_no_tasks(nodes: list[Host]) -> None:
    manager, _, third = nodes
    third.docker("swarm", "leave", "--force")
    manager.docker("node", "demote", "h3")
    wait_until(lambda: _try(manager, "node", "rm", "--force", "h3") == "h3", 30, "h3 leaves", 0.2)
    third.docker("plugin", "disable", "-f", PLUGIN)
    join(third, manager, "worker")
    try:
        create_network(manager)
        create_service(manager, "web", "--replicas", "6", command=SERVE)
        wait_running(manager, "web", 6)
        assert task_containers(third, "web") == []
    finally:
        manager.docker("service", "rm", "web")
        third.docker("swarm", "leave", "--force")
        wait_until(lambda: _try(manager, "node", "rm", "--force", "h3") == "h3", 30, "h3 leaves",
                   0.2)
        enable(third)
        join(third, manager, "manager")


@feature("Swarm: Docker's own addresses")
def test_with_dockers_own_addresses(nodes: list[Host]) -> None:
    manager, second, _ = nodes
    create_network(manager, "plain", ipam=("--subnet", "10.41.0.0/24"))
    create_service(manager, "web", "--mode", "global", *HEALTH, network="plain",
                   command=SERVE)
    wait_running(manager, "web", len(nodes))
    start(second, "client", network="plain")
    wait_until(lambda: len(many(second, "client", "web", 20)[0]) == len(nodes), 20,
               "all tasks of web", 0.2)
    answered, failed = many(second, "client", "web", 60)
    assert (len(answered), failed) == (len(nodes), {})


@feature("Swarm: IPv6 addresses of tasks")
def test_ipv6_tasks_have_addresses_of_their_own(nodes: list[Host]) -> None:
    manager = nodes[0]
    create_network(manager, "six", "--ipv6", ipam=(
        "--ipam-driver", PLUGIN, "--subnet", "10.42.0.0/24", "--subnet", "fd42::/64"))
    found = set()
    for host in nodes:
        start(host, f"on-{host.name}", network="six")
        settings = host.inspect(f"on-{host.name}")["NetworkSettings"]
        found.add(settings["Networks"]["six"]["GlobalIPv6Address"])
    assert len(found) == len(nodes)
    assert all(address.startswith("fd42::") for address in found)
    for address in found:
        assert " 0% packet loss" in ping(nodes[0], "on-h1", address)


@feature("Swarm: `--publish mode=host`")
def test_ports_published_by_hosts(nodes: list[Host]) -> None:
    manager, second, _ = nodes
    create_network(manager)
    create_service(manager, "web", "--mode", "global", "--publish",
                   "mode=host,published=8080,target=7000", command=SERVE)
    wait_running(manager, "web", len(nodes))  # there is no health command, so it may not listen yet
    for host in nodes:
        caller = second if host is manager else manager
        wait_until(partial(_serves, caller, host, 8080), 20, f"the port on {host.name}")


@feature("Swarm: `--publish` (ingress)")
def test_ports_published_by_ingress(
        nodes: list[Host], record_property: Callable[[str, object], None]) -> None:
    """Docker itself publishes them, by IPVS.  Without IPVS only the port does not work."""
    manager, second, _ = nodes
    create_network(manager)
    create_service(manager, "web", "--publish", "published=8081,target=7000", command=SERVE)
    wait_running(manager, "web", 1)
    start(second, "client")
    wait_until(lambda: many(second, "client", "web", 1)[1] == {}, 20, "the service's own address")
    if kernel_has_ipvs(manager):
        for host in nodes:
            other = second if host is manager else manager
            wait_until(partial(_serves, other, host, 8081), 20, f"the port on {host.name}")
        return
    record_property(MISSING, "this kernel has no IPVS")
    for host in nodes:
        assert not _serves(second if host is manager else manager, host, 8081)


def kernel_has_ipvs(host: Host) -> bool:
    """Try to load the module."""
    return host.exec("sh", "-c", "modprobe -q ip_vs; test -e /proc/net/ip_vs && echo yes; true"
                     ).strip() == "yes"


def _serves(caller: Host, host: Host, port: int) -> bool:
    code = ("import socket, sys; "
            "print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
            ".makefile().readline())")
    try:
        return '"local"' in caller.exec("python3", "-c", code, str(host.address), str(port))
    except CommandFailed:
        return False


@feature("Swarm: services' addresses beside Docker's overlay (bench.studies.services)")
def test_the_benchmark_of_services(nodes: list[Host]) -> None:
    """It runs, and finds all ways that work; the test does not judge figures."""
    found = compare(nodes[0], nodes[1], rounds=1, seconds=0.2)
    wanted = {HOST, "slim, a task", "slim, the service", "Docker's overlay, a task"}
    if kernel_has_ipvs(nodes[0]):
        wanted.add("Docker's overlay, the service")
    for workload, ways in found.items():
        assert set(ways) == wanted
        assert all(sample.value > 0 for [sample] in ways.values()), workload


@feature("Swarm: `docker stack deploy` (examples/visits)")
def test_the_example_is_deployed_as_a_stack(
        nodes: list[Host], plugged: Lab, folder: Path) -> None:  # noqa: F811 - the fixture
    load_standard_images(plugged)
    use_stack(nodes[0], nodes, folder)

