"""Tests `slim cluster` on hosts whose driver is the managed plugin: etcd and keeper beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab.cluster.conftest import LINK, shell
from tests.lab.cluster.test_cluster import SETTLE_S, refused, settled, status
from tests.lab.rig import dockers
from tests.lab.rig.hosts import PROJECT, Host, lab_of_this_process
from tests.lab.rig.plugged import PLUGIN, enable, find_socket, seeds
from tests.lab.rig.seeds import TOOLS
from tests.support.run.wait import wait_until

pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


@pytest.fixture
def two() -> Iterator[list[Host]]:
    """Two hosts with the plugin, not enabled yet, and the command of a checkout."""
    tree = dockers.trees(dockers.VERSIONS[0])[0]
    with lab_of_this_process("slimclplug", tree, tree, seeds=seeds) as lab:
        lab.up(2)
        for number, host in enumerate(lab.hosts, 1):
            host.exec("hostname", f"host{number}")
            # The plugin's folder is one below the one given: usually /var/lib.
            shell(host, f"ln -sf {PROJECT}/scripts/slim {LINK}; ln -sfn . /var/lib/slim/slim")
        yield lab.hosts


def follow_advice(host: Host, said: str) -> None:
    """Type what the command printed."""
    lines = re.findall(r"    docker (plugin .*)", said)
    assert len(lines) == 3, said
    host.docker(*lines[0].split())
    host.docker(*lines[1].split(), "state.source=/var/lib/slim", "SCOPE=local")
    enable(host)
    assert lines[2].split()[:2] == ["plugin", "enable"]


def begin(host: Host, line: str) -> None:
    enable_first(host)
    follow_advice(host, shell(host, line))


def enable_first(host: Host) -> None:
    """As after `docker plugin install`, with an etcd that is not there."""
    host.docker("plugin", "set", PLUGIN, "state.source=/var/lib/slim", "SCOPE=local")
    enable(host)


def test_the_plugin_follows_the_cluster(two: list[Host]) -> None:
    h1, h2 = two
    begin(h1, "slim cluster init --plugin")
    begin(h2, re.findall(r"slim cluster join .*", shell(h1, "slim cluster token"))[0] + " --plugin")
    wait_until(settled(h1, "host1"), SETTLE_S, "one member")
    for host in two:
        find_socket(host)
        host.docker("network", "create", "-d", PLUGIN, "--ipam-driver", PLUGIN, "--subnet",
                    "10.33.0.0/16", "app")
    h1.docker("run", "-d", "--name", "web", "--network", "app", TOOLS, "sleep", "100000")
    h2.docker("run", "-d", "--name", "asks", "--network", "app", TOOLS, "sleep", "100000")
    wait_until(lambda: "0% packet loss" in h2.docker(
        "exec", "asks", "ping", "-c1", "-w5", "web"), SETTLE_S, "web is reached by its name")
    # The commands beside the plugin find it, and it has the rights for what they ask.
    assert "web" in shell(h1, "slim names app")
    assert "CONTAINER" in shell(h1, "slim ss web")
    assert "slim_endpoints 1.0" in shell(h1, "slim metrics")
    assert "2 hosts, 2 took part; 2 of 2 ways tested" in shell(h1, "slim test")
    assert "networks of slim (app)" in refused(h2, "slim cluster leave")
    for host, name in ((h1, "web"), (h2, "asks")):
        host.docker("rm", "-f", name)
        host.docker("network", "rm", "app")
    # The etcd that the plugin uses moves to the other host: it follows by itself.
    h1.docker("plugin", "disable", "-f", PLUGIN)
    shell(h1, "slim cluster leave")
    wait_until(settled(h2, "host2"), SETTLE_S, "host2 has the records")
    h2.docker("network", "create", "-d", PLUGIN, "--ipam-driver", PLUGIN, "again")
    h2.docker("network", "rm", "again")
    assert "alive" in status(h2)
    h2.docker("plugin", "disable", "-f", PLUGIN)
    shell(h2, "slim cluster leave --last")
    h2.exec("sh", "-c", "! pgrep -x etcd; ! ls /etc/slim/cluster")
