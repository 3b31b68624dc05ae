"""Tests certificates that end, space that is used up, and a new authority, on two real hosts."""

from __future__ import annotations

import re

import pytest

from tests.lab.cluster.conftest import come_up, shell
from tests.lab.cluster.test_cluster import NETWORK, SETTLE_S, hello, refused, settled, status
from tests.lab.conftest import BUSYBOX
from tests.lab.rig.hosts import Host, Lab
from tests.support.run.wait import wait_until

CERTIFICATE_S = 60  # renewed after 40
FILES = ("host", "etcd", "peer", "root")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def hosts(up_lab: Lab) -> list[Host]:
    return come_up(up_lab, 2)


@pytest.fixture(scope="module")
def two(hosts: list[Host]) -> list[Host]:
    """A cluster of two hosts, the first one its member; the last test that uses it ends it."""
    return begin(hosts)


@pytest.fixture(scope="module")
def short_lived(hosts: list[Host]) -> list[Host]:
    """The same, with certificates that soon end; for tests after those of `two`."""
    return begin(hosts, f"--certificate-days {CERTIFICATE_S / 86400}")


def begin(hosts: list[Host], options: str = "") -> list[Host]:
    shell(hosts[0], f"slim cluster init --name blue {options}")
    shell(hosts[1], join_line(hosts[0]))
    for host in hosts:
        host.docker(*NETWORK)
    hosts[0].docker("run", "-d", "--name", "web", "--network", "app", BUSYBOX, "sh", "-c",
                    "echo hello > index.html; exec httpd -f")
    return hosts


def join_line(host: Host) -> str:
    return re.findall(r"slim cluster join .*", shell(host, "slim cluster token"))[0]


def ends(host: Host) -> dict[str, str]:
    """Return each certificate of the host, as a digest."""
    lines = host.exec("sh", "-c", "md5sum /etc/slim/cluster/*.crt").splitlines()
    return {line.split("/")[-1]: line.split()[0] for line in lines}


def pids(host: Host) -> str:
    """Return the processes of etcd, the driver and the keeper."""
    return host.exec("pgrep", "-f", "driver serve|driver cluster serve|/usr/bin/etcd")


def test_no_space_is_told_and_mended(two: list[Host]) -> None:
    h1, h2 = two
    etcdctl = (f"etcdctl --endpoints=https://{h1.address}:23790 --cacert=/etc/slim/cluster/ca.crt "
               "--cert=/etc/slim/cluster/root.crt --key=/etc/slim/cluster/root.key")

    def restart_etcd(quota: str) -> None:
        shell(h1, f"sed -i 's/^ETCD_QUOTA.*/ETCD_QUOTA_BACKEND_BYTES={quota}/' "
                  "/etc/slim/cluster/etcd.env; kill $(cat /run/slim/etcd.pid); make up")
        wait_until(settled(h1, "host1"), SETTLE_S, "etcd runs again")

    quota = h1.exec("sed", "-n", "s/^ETCD_QUOTA.*=//p", "/etc/slim/cluster/etcd.env").strip()
    restart_etcd("2000000")
    for _ in range(4):
        shell(h1, f"head -c 700000 /dev/zero | tr '\\0' x | {etcdctl} put /fill || true")
    assert "NOSPACE" in status(h2)
    assert "`slim cluster tidy` on a member" in shell(h1, "slim doctor || true")
    assert "on etcd's members only" in refused(h2, "slim cluster tidy")
    assert "lifted etcd's alarms" in shell(h1, "slim cluster tidy")
    assert "NOSPACE" not in status(h2)
    shell(h1, f"{etcdctl} del /fill")
    restart_etcd(quota)
    assert hello(h2) == "hello"


def test_a_new_authority_shuts_out_who_has_the_key_of_the_old_one(two: list[Host]) -> None:
    h1, h2 = two
    shell(h1, "slim cluster backup /var/lib/slim/backup; kill $(cat /run/slim/etcd.pid)")
    old = ends(h1)["ca.crt"]
    wait_until(lambda: "no majority" in status(h1) or "no member" in status(h1), SETTLE_S, "away")
    shell(h1, "slim cluster restore /var/lib/slim/backup --new-ca; slim cluster token --rotate")
    assert ends(h1)["ca.crt"] != old
    wait_until(settled(h1, "host1"), SETTLE_S, "etcd runs again")
    assert "has been" not in status(h2)
    assert h2.docker("ps", "-q") == ""
    shell(h2, f"{join_line(h1)} --again")
    assert ends(h2)["ca.crt"] == ends(h1)["ca.crt"]
    assert hello(h2) == "hello"
    for host in (h2, h1):
        if host is h1:
            host.docker("rm", "-f", "web")
        host.docker("network", "rm", "app")
    # The only member's host leaves: the other one takes the records over before.
    shell(h1, "slim cluster leave")
    wait_until(settled(h2, "host2"), SETTLE_S, "host2 has the records")
    assert "leave --last" in refused(h2, "slim cluster leave")
    shell(h2, "slim cluster leave --last")
    h2.exec("sh", "-c", "! pgrep -x etcd; ! ls /var/lib/slim/etcd; ! ls /etc/slim/cluster")


def test_certificates_renew_themselves_and_nothing_restarts(short_lived: list[Host]) -> None:
    h1, h2 = short_lived
    before, programs = [ends(host) for host in short_lived], [pids(host) for host in short_lived]
    for host, old, files in ((h1, before[0], FILES), (h2, before[1], FILES[:1])):
        for name in files:
            wait_until(lambda: ends(host)[f"{name}.crt"] != old[f"{name}.crt"],  # noqa: B023
                       SETTLE_S, f"{name} of {host.name} is renewed")
    # Beyond the life of the certificates with which everything was connected.
    old = [ends(host) for host in short_lived]
    wait_until(lambda: ends(h2)["host.crt"] != old[1]["host.crt"], SETTLE_S, "renewed once more")
    assert [pids(host) for host in short_lived] == programs
    assert hello(h2) == "hello"
    assert "has expired" not in status(h1) + status(h2)
    # With connections that are all new, too.
    for host in short_lived:
        shell(host, "kill $(cat /run/slim/slim.pid); make up")
    assert hello(h2) == "hello"


def test_a_host_whose_certificate_has_ended_joins_again(short_lived: list[Host]) -> None:
    h1, h2 = short_lived
    shell(h2, "kill $(cat /run/slim/cluster.pid)")
    wait_until(lambda: "`host` has expired" in status(h2), SETTLE_S, "its certificate has ended")
    line = join_line(h1)
    assert "--again gives it a new certificate" in refused(h2, line)
    shell(h2, f"{line} --again")
    assert "expired" not in status(h2)
    assert hello(h2) == "hello"
