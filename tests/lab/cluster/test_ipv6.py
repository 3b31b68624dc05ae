"""Tests a cluster of hosts that have IPv6 addresses only: from `init` to the last `leave`."""

from __future__ import annotations

import re

import pytest

from tests.lab.cluster.conftest import shell
from tests.lab.cluster.test_cluster import SETTLE_S, refused, status
from tests.lab.conftest import BUSYBOX
from tests.lab.rig import images
from tests.lab.rig.hosts import Host, Lab
from tests.support.run.wait import wait_until

NETWORK = ("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", "10.32.0.0/16",
           "app")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def three(up_lab: Lab) -> list[Host]:
    """Hosts after `make up`, whose network has no IPv4 any more."""
    hosts = up_lab.up(3)
    for host in hosts:
        host.exec("hostname", host.name.replace("h", "host"))
        host.exec("ip", "-4", "addr", "flush", "dev", "eth0")
        host.exec("sh", "-c", "mkdir -p /etc/slim; echo 'underlay = \"eth0/ipv6\"' "
                  "> /etc/slim/slim.toml")
        shell(host, "make up")
    up_lab.load_image(BUSYBOX, images.busybox())
    return hosts


def members(host: Host) -> dict[str, str]:
    """Return the members' addresses and states."""
    return dict(re.findall(r"(?m)^\S+ +([0-9a-f:]+) +(leader|follower|learner|does not answer) ",
                           status(host)))


def voters(host: Host, *numbers: int) -> bool:
    """Tell whether these hosts, and no others, run members that vote."""
    found = members(host)
    return found.keys() == {f"fd5a:18::{number}" for number in numbers} and (
        set(found.values()) <= {"leader", "follower"})


def test_from_the_first_host_to_the_last(three: list[Host]) -> None:
    one, two, third = three
    one.docker(*NETWORK)
    one.docker("run", "-d", "--name", "web", "--network", "app", BUSYBOX, "sh", "-c",
               "echo hello > index.html; exec httpd -f")
    begun = shell(one, "slim cluster init")
    join = re.findall(r"slim cluster join fd5a:18::1 SLIM-1-\S+", begun)[0]
    token = join.rpartition(" ")[2]

    assert "is an IPv4 address, this host's fd5a:18::2 an IPv6 one" in refused(
        two, f"slim cluster join 192.0.2.1 {token}")
    assert "link-local" in refused(two, f"slim cluster join [fe80::1%eth0] {token}")
    assert "nothing listens at [fd5a:18::3]:23780" in refused(
        two, f"slim cluster join fd5a:18::3 {token}")
    shell(two, f"slim cluster join [fd5a:18::1]:23780 {token}")
    shell(third, join)
    wait_until(lambda: voters(one, 1, 2, 3), SETTLE_S, "three members")
    shell(one, "slim cluster status")  # its exit status is 0
    print(status(one))

    for host in (two, third):
        wait_until(lambda h=host: "app" in h.docker("network", "ls") or h.docker(*NETWORK),  # type: ignore[misc]
                   SETTLE_S, "a network")
        assert host.docker("run", "--rm", "--network", "app", BUSYBOX, "timeout", "9", "wget",
                           "-qO-", "http://web/") == "hello"
    tested = shell(one, "slim test")
    assert "3 hosts, 3 took part; 6 of 6 ways tested" in tested
    print(tested)

    saved = shell(one, "slim cluster backup /var/lib/slim/backup && ls -l /var/lib/slim")
    assert re.search(r"(?m)^-rw-------.* backup$", saved)
    third.docker("network", "rm", "app")
    assert "is in no cluster any more" in shell(third, "slim cluster leave")
    wait_until(lambda: "host3" not in status(one), SETTLE_S, "it is off the record")


def test_etcd_is_lost_and_restored_and_everybody_goes(three: list[Host]) -> None:
    one, two, _ = three
    wait_until(lambda: len(members(one)) == 1, SETTLE_S, "one member, for two hosts")
    member = one if "fd5a:18::1" in members(one) else two
    shell(member, "kill $(cat /run/slim/etcd.pid)")
    wait_until(lambda: "no majority" in status(one) or "no member" in status(one), SETTLE_S, "away")
    assert "the cluster runs again on this host" in shell(
        one, "slim cluster restore /var/lib/slim/backup", timeout_s=300)
    assert "restoring" not in one.exec("ls", "/var/lib/slim")
    wait_until(lambda: "alive" in "".join(re.findall(r"(?m)^host2 .*fd5a:18::2 .*", status(one))),
               SETTLE_S, "host2 follows")
    assert one.docker("exec", "web", "wget", "-qO-", "http://web/") == "hello"
    two.docker("network", "rm", "app")
    shell(two, "make down")
    assert "host2 (fd5a:18::2) is out of the cluster" in shell(
        one, "slim cluster remove host2 --alive")
    # host3 was in the backup, and had left after it.
    assert "host3 (fd5a:18::3) is out of the cluster" in shell(
        one, "slim cluster remove host3 --alive")
    one.docker("rm", "-f", "web")
    one.docker("network", "rm", "app")
    shell(one, "slim cluster leave --last")
    one.exec("sh", "-c", "! pgrep -x etcd; ! ls /var/lib/slim/etcd; ! ls /etc/slim/cluster")
