"""Tests a cluster's life with real hosts: it grows, loses members, all of them, and comes back."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from driver.cluster import tokens
from driver.cluster.model import DOOR_PORT
from tests.lab.cluster.conftest import come_up, shell
from tests.lab.conftest import BUSYBOX
from tests.lab.rig.hosts import LAB_SH, CommandFailed, Host, Lab, run
from tests.support.run.wait import wait_until

SETTLE_S = 180  # beside other tests
PAUSE_S = 0.3  # between containers that are started all the time: other tests want to compute, too
NETWORK = ("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet", "10.32.0.0/16",
           "app")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def four(up_lab: Lab) -> list[Host]:
    """Four hosts after `make up`; on the first one runs a web server."""
    hosts = come_up(up_lab, 4)
    hosts[0].docker(*NETWORK)
    hosts[0].docker("run", "-d", "--name", "web", "--network", "app", BUSYBOX, "sh", "-c",
                    "echo hello > index.html; exec httpd -f")
    return hosts


def members(host: Host) -> dict[str, str]:
    """Return the members and their states, as `slim cluster status` shows them."""
    with suppress(CommandFailed):
        return dict(re.findall(r"(?m)^(\S+) +[\d.]+ +(leader|follower|learner|does not answer) ",
                               status(host)))
    return {}


def status(host: Host) -> str:
    return shell(host, "slim cluster status || true")


def seen(host: Host) -> str:
    """Return the status without what changes by itself."""
    return re.sub(r"\b(leader|follower)\b +[\d.]+ [KM]B +[\d.]+ [KM]B", "runs", status(host))


def settled(host: Host, *names: str) -> Callable[[], bool]:
    """Return a condition: these hosts run voting members, and no others do."""
    return lambda: sorted(members(host)) == sorted(names) and set(
        members(host).values()) == ({"leader", "follower"} if len(names) > 1 else {"leader"})


def refused(host: Host, line: str) -> str:
    """Type what must be refused; return the one line that says why."""
    with pytest.raises(CommandFailed) as caught:
        shell(host, line)
    said = str(caught.value).partition("ended with 1\n")[2].strip()
    assert said.startswith("slim cluster: "), caught.value
    assert "\n" not in said
    return said


def hello(host: Host) -> str:
    """Have a new container on the host ask the web server by its name."""
    return host.docker("run", "--rm", "--network", "app", BUSYBOX, "timeout", "5", "wget", "-qO-",
                       "http://web/")


@contextmanager
def again_and_again(act: Callable[[], object]) -> Iterator[list[str]]:
    """Do something in a loop during the block; yield what failed."""
    stop, failures = threading.Event(), list[str]()

    def loop() -> None:
        while not stop.is_set():
            try:
                act()
            except CommandFailed as error:
                failures.append(str(error))
            stop.wait(PAUSE_S)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()


def test_grows_while_containers_come_and_its_keepers_are_killed(four: list[Host]) -> None:
    h1, h2, h3, _ = four
    shell(h1, "slim cluster init")
    assert "web" in h1.docker("ps", "--format", "{{.Names}}")
    join = re.findall(r"slim cluster join .*", shell(h1, "slim cluster token"))[0]

    def kill_keepers() -> None:
        for host in (h1, h2, h3):
            with suppress(CommandFailed):
                host.exec("sh", "-c", "sleep 0.7; pkill -KILL -f 'driver cluster serve'")

    with again_and_again(lambda: hello(h1)) as failures:
        # The first join needs the door: its keeper must live for that long.
        shell(h2, join)
        with again_and_again(kill_keepers):
            wait_until(lambda: "host2" in status(h1), SETTLE_S, "host2 is on record")
        # What was killed again and again is started after a pause, longer than `join` waits.
        wait_until(lambda: str(DOOR_PORT) in h1.exec("ss", "-Hltn"), SETTLE_S, "the door is there")
        shell(h3, join)
        wait_until(settled(h1, "host1", "host2", "host3"), SETTLE_S, "three members")
    assert failures == []
    h2.docker(*NETWORK)
    assert hello(h2) == "hello"
    assert "member" not in re.findall(r"(?m)^host4 .*", status(h1))
    # A host with Docker networks of slim would leave them without a driver.
    assert "networks of slim (app)" in refused(h2, "slim cluster leave")


def test_who_is_not_let_in_has_changed_nothing(four: list[Host]) -> None:
    h1, _, _, h4 = four
    wait_until(lambda: "!" not in status(h1), SETTLE_S, "all is well, after what was killed")
    before, files = seen(h1), h4.exec("find", "/etc/slim", "-type", "f")
    right = shell(h1, "slim cluster token").split()[4]
    token = tokens.parse(right)
    other = str(tokens.Token(token.fingerprint, tokens.new_secret()))
    stranger = str(tokens.Token(bytes(32), tokens.new_secret()))
    address = str(h1.address)
    for line, why in (
            (f"slim cluster join {address} {right[:-1]}", "character of this token is missing"),
            (f"slim cluster join {address} {other}", "this token is not"),
            (f"slim cluster join {address} {stranger}", "token is of another cluster"),
            (f"slim cluster join 198.18.0.99 {right}", "198.18.0.99"),
            (f"slim cluster join {h4.address} {right}", "this host's own address"),
            (f"slim cluster join host1 {right}", "is no IPv4 or IPv6 address"),
            (f"slim cluster join {address} {right} --address 1.2.3.4", "no address of this host")):
        assert why in refused(h4, line), line
    newer = shell(h1, "slim cluster token --rotate --valid 0.000001").split()[4]
    assert "replaced by a newer one" in refused(h4, f"slim cluster join {address} {right}")
    assert "has expired" in refused(h4, f"slim cluster join {address} {newer}")
    assert "nothing listens" in refused(
        h1.lab.hosts[3], f"slim cluster join {h1.lab.gateway} {right}")
    # Who leads may change, and on a busy machine a host may be silent for a moment.
    wait_until(lambda: seen(h1) == before, SETTLE_S, f"all is as it was:\n{before}")
    assert h4.exec("find", "/etc/slim", "-type", "f") == files
    join = re.findall(r"slim cluster join .*", shell(h1, "slim cluster token --rotate"))[0]
    shell(h4, join)
    assert re.search(r"host4 .* client ", status(h1))
    # The same host once more: a copy, or a mistake.
    assert "is in the cluster host1 already" in refused(h4, join)


def test_a_dead_member_is_replaced(four: list[Host]) -> None:
    h1, _, h3, _ = four
    run([str(LAB_SH), "crash", h3.name], env=h3.lab.env)
    wait_until(lambda: members(h1).get("host3") == "does not answer", SETTLE_S, "host3 is silent")
    wait_until(lambda: re.search(r"host3 .* silent ", status(h1)), SETTLE_S, "so is its keeper")
    assert "does not run" in status(h1)
    with again_and_again(lambda: hello(h1)) as failures:
        shell(h1, "slim cluster remove host3")
        wait_until(settled(h1, "host1", "host2", "host4"), SETTLE_S, "host4 is a member")
    assert failures == []
    assert "host3" not in status(h1)


def test_all_but_one_are_lost_and_a_backup_is_restored(four: list[Host], tmp_path: Path) -> None:
    h1, h2, _, h4 = four
    backup = "/var/lib/slim/backup"
    assert "etcd works" in refused(h1, f"slim cluster backup {backup} >/dev/null; "
                                       f"slim cluster restore {backup}")
    h1.docker("run", "-d", "--name", "after", "--network", "app", BUSYBOX, "sleep", "100000")
    for host in (h2, h4):
        run([str(LAB_SH), "crash", host.name], env=host.lab.env)
    wait_until(lambda: "no majority" in status(h1), SETTLE_S, "etcd has no majority")
    assert "no backup of slim" in refused(h1, "slim cluster restore /etc/hostname")
    shell(h1, f"slim cluster restore {backup}")
    wait_until(settled(h1, "host1"), SETTLE_S, "etcd runs again")
    # What was made after the backup runs, and is on record again.
    assert "after" in h1.docker("ps", "--format", "{{.Names}}")
    wait_until(lambda: "after" in shell(h1, "slim names app"), SETTLE_S, "its name is known")
    assert hello(h1) == "hello"
    h1.lab.up(4)
    for host in (h2, h4):
        shell(host, "make up")
    wait_until(settled(h1, "host1", "host2", "host4"), SETTLE_S, "three members")
    assert hello(h2) == "hello"


def test_a_host_leaves_and_others_stay(four: list[Host]) -> None:
    h1, h2, _, h4 = four
    shell(h4, "slim cluster leave")
    wait_until(settled(h1, "host1"), SETTLE_S, "two hosts need no more than one member")
    assert "last host" not in status(h1)
    assert h4.exec("find", "/etc/slim", "-type", "f") == ""
    h4.exec("sh", "-c", "! pgrep -x etcd")
    # The only member's host leaves: the other one takes its place before.
    h1.docker("rm", "-f", "web", "after")
    h1.docker("network", "rm", "app")
    shell(h1, "slim cluster leave")
    wait_until(settled(h2, "host2"), SETTLE_S, "host2 has the records")
    assert "10.32." in h2.docker("run", "--rm", "--network", "app", BUSYBOX, "ip", "addr")
    h2.docker("network", "rm", "app")
    assert "leave --last" in refused(h2, "slim cluster leave")
    shell(h2, "slim cluster leave --last")
    h2.exec("sh", "-c", "! pgrep -x etcd; ! ls /var/lib/slim/etcd")
