"""Tests that forty containers run again after a crash of their host, whatever is missing at first.

Five of them have addresses of their own choice, in a subnet so small that others would soon be
given these.  The drivers run as under a supervisor: one that cannot start answers with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.lab.conftest import BUSYBOX, SERVE
from tests.lab.docker.test_docker import address_of, call, check_views, create_network, start
from tests.lab.restarts.test_etcd_cluster import cluster
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.engine import containers
from tests.lab.rig.hosts import LAB_SH, CommandFailed, Host, Lab, run
from tests.support.run.wait import wait_until
from tests.support.world.etcd import EtcdCluster

__all__ = ["cluster"]

pytestmark = [every_docker, pytest.mark.timeout(600)]

COUNT = 40
SUBNET = "10.32.0.0/26"  # 61 addresses for containers: each is soon given to somebody
POOL = f"slim-local/{SUBNET}"
FIXED = {f"fixed-{number}": f"10.32.0.{number * 11}" for number in range(1, 6)}
NAMES = [*FIXED, "server", *(f"other-{number}" for number in range(COUNT - len(FIXED) - 1))]
ALWAYS = ("--restart", "always")
SUPERVISED = {"SLIM_SUPERVISED": "1"}
BACK_S = 180  # on a busy machine, after what was missing is there
# dockerd's last wait in a look-up of a plugin that comes to nothing: 15 s in all.
IN_VAIN = re.compile(r"Unable to (?:locate|connect to) plugin: .*retrying in 8s")


class Missing:
    """What a boot lacks."""

    def __init__(self, h1: Host, cluster: EtcdCluster) -> None:
        self.h1, self._cluster = h1, cluster
        self._etcd = ("--etcd", ",".join(cluster.urls))

    def serve(self, *options: str) -> None:
        """Start the driver as a supervisor does."""
        self.h1.driver = self.h1.launch_driver(*self._etcd, *options, env=SUPERVISED)
        wait_until(self._socket_is_there, BACK_S, "a socket")

    def _socket_is_there(self) -> bool:
        try:
            return bool(self.h1.call("/Plugin.Activate"))
        except OSError:
            return False

    @contextmanager
    def nothing(self) -> Iterator[None]:
        self.serve()
        yield

    @contextmanager
    def right_option(self) -> Iterator[None]:
        self.serve("--port-range", "7000")
        yield
        self.h1.stop_driver()  # as `systemctl restart` does
        self.serve()

    @contextmanager
    def underlay(self) -> Iterator[None]:
        self.h1.exec("ip", "address", "flush", "dev", "eth0", "scope", "global")
        self.serve("--underlay", "eth0")
        yield
        self.h1.exec("ip", "address", "add", f"{self.h1.address}/24", "dev", "eth0")
        self.h1.exec("ip", "route", "replace", "default", "via", str(self.h1.lab.gateway))

    @contextmanager
    def etcd(self) -> Iterator[None]:
        """Two of three members are away."""
        away = self._cluster.members[1:]
        for member in away:
            member.stop()
        self.serve()
        yield
        for member in away:
            member.launch()
        self._cluster.wait_healthy()


def start_all(host: Host) -> dict[str, str]:
    """Start the forty; return each one's address."""
    def begin(name: str) -> str:
        named = ("--ip", FIXED[name]) if name in FIXED else ()
        command, image = (SERVE, "tools") if name == "server" else ((), BUSYBOX)
        return start(host, name, *command, image=image, options=[*ALWAYS, *named])

    begun = [begin(name) for name in FIXED]  # as a user does: before others have these addresses
    rest = NAMES[len(FIXED):]
    with ThreadPoolExecutor(6) as pool:
        return dict(zip(NAMES, [*begun, *pool.map(begin, rest)], strict=True))


def run_now(host: Host) -> set[str]:
    return {found["Names"][0].removeprefix("/") for found in containers(host, only_running=True)}


def given_meanwhile(host: Host) -> set[str]:
    """Have the host's driver give addresses until none is left; return them, released again."""
    given: list[str] = []

    def ask(call: str, **fields: object) -> dict[str, str]:
        answer = json.loads(host.call(f"/IpamDriver.{call}", json.dumps(fields).encode())[1])
        assert isinstance(answer, dict)
        return answer

    while "Address" in (said := ask("RequestAddress", PoolID=POOL)):
        given.append(said["Address"].partition("/")[0])
    assert "no free address" in said["Err"], said
    for address in given:
        assert not ask("ReleaseAddress", PoolID=POOL, Address=address).get("Err")
    return set(given)


def take(host: Host, address: str) -> None:
    host.docker("run", "--rm", "--network", "app", "--ip", address, BUSYBOX, "true")


def nobody_else_has_them(host: Host, taken: set[str]) -> None:
    assert not given_meanwhile(host) & taken
    for address in FIXED.values():
        with pytest.raises(CommandFailed, match=r"belongs to endpoint|is kept for a container"):
            take(host, address)


def fixed_are_refused(host: Host) -> None:
    """Whoever answers: the address has an owner, or etcd is away."""
    with pytest.raises(CommandFailed, match=r"belongs to|is kept for|etcd is not available"):
        take(host, next(iter(FIXED.values())))


@feature("a host's boot: containers run again by themselves")
@pytest.mark.parametrize("missing", ["nothing", "right_option", "underlay", "etcd"])
def test_forty_containers_run_again(missing: str, cluster: EtcdCluster, lab: Lab, h1: Host,
                                    h2: Host) -> None:
    for host in (h1, h2):  # with the usual --collect-after
        host.stop_driver()
        host.driver = host.launch_driver("--etcd", ",".join(cluster.urls), env=SUPERVISED)
        host.start_driver()
    create_network([h1, h2], subnet=SUBNET)
    bob = start(h2, "bob", *SERVE)
    addresses = start_all(h1)
    assert len({*addresses.values(), bob}) == COUNT + 1
    run([str(LAB_SH), "crash", h1.name], env=lab.env)
    assert h1.driver is not None
    h1.driver.join()
    nobody_else_has_them(h2, set(addresses.values()))
    run([str(LAB_SH), "boot", h1.name], env=lab.env)
    log = Path(lab.state / h1.name / "dockerd.log")
    before = log.stat().st_size
    lacks: Callable[[], contextmanager[None]] = getattr(Missing(h1, cluster), missing)  # type: ignore[type-arg]
    with lacks():
        run([str(LAB_SH), "start", h1.name], env=lab.env, timeout_s=300)
        h1.docker("info")
        h1.docker("ps")
        assert IN_VAIN.findall(log.read_text(errors="replace")[before:]) == []
        if missing != "nothing":
            assert run_now(h1) == set()
            fixed_are_refused(h2)
    wait_until(lambda: run_now(h1) == set(NAMES), BACK_S, "all run again")
    assert {name: address_of(h1, name) for name in FIXED} == FIXED
    server = address_of(h1, "server")
    assert len({bob, *(address_of(h1, name) for name in NAMES)}) == COUNT + 1
    check_views(call(h2, "bob", server), client=bob, server=server)
    check_views(call(h1, "server", bob), client=server, server=bob)
    wait_until(partial(_nothing_outstanding, h1), BACK_S, "nothing is outstanding")
    if missing == "right_option":  # Docker 20.10 may count endpoints wrongly: docs/compatibility.md
        h1.docker("rm", "-f", *NAMES)
        for step in ("stop", "start"):
            run([str(LAB_SH), step, h1.name], env=lab.env)


def _nothing_outstanding(host: Host) -> bool:
    said = json.loads(host.call("/Slim.Status")[1])["Status"]["outstanding"]
    return bool(said.startswith("nothing"))
