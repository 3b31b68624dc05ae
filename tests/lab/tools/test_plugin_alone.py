"""Tests row 62 of the plugin contract's checklist: the managed plugin on engines without a swarm.

They share an etcd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.lab.conftest import SERVE
from tests.lab.docker.test_docker import call, check_views, ping, start
from tests.lab.docker.test_names import lookup, wait_for
from tests.lab.rig import dockers
from tests.lab.rig.dockers import feature
from tests.lab.rig.hosts import CommandFailed, Host, Lab
from tests.lab.rig.plugged import PLUGIN, SUBNET, as_before, built_plugin, enable, plugged_lab
from tests.lab.rig.snapshot import remove_everything

pytestmark = pytest.mark.timeout(400)  # the first one builds the plugin

SIZE_MAX = 200_000_000  # bytes


@pytest.fixture(scope="module")
def alone(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two hosts; if mixed, one of the oldest release and one of the newest."""
    oldest, *_, newest = dockers.trees(request.param, 2)
    with plugged_lab("slimalone", oldest, newest, SCOPE="local") as lab:
        yield lab


@pytest.fixture
def pair(alone: Lab) -> Iterator[list[Host]]:
    """Both hosts; checks afterwards that they are as before."""
    def remove(hosts: Sequence[Host]) -> None:
        for host in hosts:
            remove_everything(host)

    with as_before(alone, remove):
        yield alone.hosts


def create(host: Host) -> None:
    host.docker("network", "create", "-d", PLUGIN, "--ipam-driver", PLUGIN, "--subnet", SUBNET,
                "app")


def test_it_has_no_compiler() -> None:
    """Which would be two thirds of it: the eBPF programs come compiled."""
    files = [each for each in (built_plugin() / "rootfs").rglob("*")
             if each.is_file() and not each.is_symlink()]
    assert sum(each.stat().st_size for each in files) < SIZE_MAX
    assert [each for each in files if "libLLVM" in each.name or "libbcc" in each.name] == []


@feature("managed plugin: engines in no swarm share a network")
def test_two_engines_have_one_network(pair: list[Host]) -> None:
    addresses = []
    for host in pair:
        create(host)
        addresses.append(start(host, f"on-{host.name}", *SERVE))
    first, second = pair
    assert " 0% packet loss" in ping(first, "on-h1", addresses[1])
    seen = call(first, "on-h1", addresses[1], "--retry-s", "10")
    check_views(seen, addresses[0], addresses[1])
    # Removing one host's network does not affect the other host's.
    remove_everything(second)
    assert " 0% packet loss" in ping(first, "on-h1", addresses[0])
    create(second)
    addresses[1] = start(second, "on-h2", *SERVE)
    seen = call(second, "on-h2", addresses[0], "--retry-s", "10")
    check_views(seen, addresses[1], addresses[0])


@feature("managed plugin: names across hosts")
def test_names(pair: list[Host]) -> None:
    """Without a driver Docker's go on; the plugin's come back by themselves."""
    first, second = pair
    for host in pair:
        create(host)
    asker = start(first, "asker")
    web = start(second, "web", options=("--network-alias", "www"))
    for name in ("web", "www", "web.app"):
        wait_for(first, "asker", name, web)
    wait_for(second, "web", "asker", asker)
    own = start(first, "own")
    first.docker("plugin", "disable", "-f", PLUGIN)
    wait_for(first, "asker", "web")
    assert lookup(first, "asker", "own") == [own]
    enable(first)
    wait_for(first, "asker", "web", web)


@feature("managed plugin: a wrong setting is explained")
@pytest.mark.parametrize(("setting", "text"), [
    ("PORT_RANGE=7000", "PORT_RANGE='7000': want "),
    ("UNDERLAY=eth9", "there is no interface eth9"), ("ETCD=nowhere", "ETCD='nowhere': ")],
    ids=["PORT_RANGE", "UNDERLAY", "ETCD"])
def test_a_wrong_setting(pair: list[Host], setting: str, text: str) -> None:
    """The user sees the error at once, where users look, and nothing is left."""
    for host in pair:
        before = host.docker("plugin", "inspect", "-f", "{{json .Settings.Env}}", PLUGIN)
        name = setting.partition("=")[0]
        right = next(line for line in before.strip('[]"\n').split('","')
                     if line.startswith(f"{name}="))
        configure(host, setting)
        try:
            with pytest.raises(CommandFailed, match=f"slim does not start: .*{text}"):
                create(host)
        finally:
            configure(host, right)
        create(host)
        start(host, "late")


def configure(host: Host, setting: str) -> None:
    host.docker("plugin", "disable", "-f", PLUGIN)
    host.docker("plugin", "set", PLUGIN, setting)
    enable(host)
