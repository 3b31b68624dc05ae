"""Feeds foreign text with control characters to all that commands print; none reaches a terminal.

tests/unit/house/test_printing.py keeps commands that come later to the same way of printing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from driver import __main__, doctor
from driver.commands import control_client, hosts, metrics, names, ss, why
from driver.commands import test as test_command
from driver.commands.cluster import care, status
from driver.doctor.finding import Finding
from driver.errors import Conflict
from driver.model import Host, HostId, KnownHost
from driver.services.testing.judging import judge
from driver.settings import Settings
from driver.store.format import keys, records
from driver.store.kv.protocol import Put
from tests.support.fakes.kv import FakeKeyValue
from tests.unit.cluster.test_status import HOSTS, WELL
from tests.unit.testing.rounds import collected, participant

# Clears a screen, sets a window's title, moves the cursor back, turns a line around, and begins a
# line as if it was ours.
EVIL = "e\x1b[2J\x1b]0;x\x07\r\x9b1A\u202e\u2028\n! f"
SETTINGS = Settings()


@contextmanager
def opened(kv: FakeKeyValue) -> Iterator[FakeKeyValue]:
    yield kv


def say_hosts(patch: pytest.MonkeyPatch) -> None:
    kv = FakeKeyValue()
    known = KnownHost(Host(HostId("1" * 32), EVIL, IPv4Address("10.0.0.1")), 0)
    kv.commit([], [Put(keys.known(known.host.id), records.encode(records.known_fields(known)))])
    patch.setattr(hosts, "open_etcd", lambda _: opened(kv))
    patch.setattr(hosts, "another_cluster", lambda *_: EVIL)
    hosts.run_hosts(SETTINGS)


def say_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hosts, "open_etcd", lambda _: opened(FakeKeyValue()))
    patch.setattr(hosts, "another_cluster", lambda *_: "")
    patch.setattr(hosts, "find_host", lambda *_: Host(
        HostId("1" * 32), EVIL, IPv4Address("10.0.0.1")))
    patch.setattr(hosts, "forget", lambda *_, **__: EVIL)
    hosts.run_forget_host(SETTINGS, EVIL, alive=True)


def say_cluster(patch: pytest.MonkeyPatch) -> None:
    found = replace(WELL, me=replace(WELL.me, cluster_name=EVIL), alive=frozenset(), trouble=EVIL,
                    alarms=(EVIL,), hosts=tuple(replace(each, name=EVIL, version=EVIL)
                                                for each in HOSTS),
                    health={number: replace(each, version=EVIL)
                            for number, each in WELL.health.items()})
    patch.setattr(status, "look", lambda _: found)
    status.run_status(SETTINGS, {})


def say_forgotten_by_the_cluster(patch: pytest.MonkeyPatch) -> None:
    kv = FakeKeyValue()
    known = KnownHost(Host(HostId("1" * 32), EVIL, IPv4Address("10.0.0.1")), 0)
    kv.commit([], [Put(keys.known(known.host.id), records.encode(records.known_fields(known)))])
    patch.setattr(care, "forget", lambda *_, **__: EVIL)
    care._forget(kv, known.host.id, alive=True)  # type: ignore[arg-type]


def say_test(_: pytest.MonkeyPatch) -> None:
    found = collected(participant(1, name=EVIL, version=EVIL), participant(2, guard=EVIL),
                      silent=[participant(3, name=EVIL)])
    test_command.show(judge(found), 1.0)


def answering(patch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    for module in (control_client, names, ss, why, metrics):
        patch.setattr(module, "ask", lambda *_: answer)


def say_names(patch: pytest.MonkeyPatch) -> None:
    answering(patch, {"Names": [dict.fromkeys(
        ("Network", "NetworkID", "Subnets", "Names", "Address", "Host"), EVIL)]})
    names.run_names(SETTINGS, "")


def say_sockets(patch: pytest.MonkeyPatch) -> None:
    answering(patch, {"Sockets": [{
        "Container": EVIL, "Local": EVIL, "LocalPort": 1, "Peer": EVIL, "PeerPort": 2,
        "PeerName": EVIL, "PeerHost": EVIL, "Path": EVIL, "State": EVIL, "AgeSeconds": None,
        "RttMicroseconds": None, "Retransmissions": 0, "BytesIn": 0, "BytesOut": 0}],
        "More": {EVIL: 1}, "Unread": {EVIL: EVIL}})
    ss.run_ss(SETTINGS, {"Listening": False}, as_json=False)


def say_why(patch: pytest.MonkeyPatch) -> None:
    check = {"Good": False, "Check": EVIL, "Says": EVIL, "Reason": EVIL, "Remedy": EVIL}
    answering(patch, {"Verdict": EVIL, "Container": EVIL, "Ways": [{
        "Port": 1, "Target": EVIL, "PeerName": EVIL, "PeerHost": EVIL, "Service": EVIL,
        "Source": EVIL, "Path": EVIL, "Checks": [check]}]})
    why.run_why(SETTINGS, EVIL, EVIL, as_json=False)


def say_metrics(patch: pytest.MonkeyPatch) -> None:
    answering(patch, {"Metrics": f'x{{name="{EVIL}"}} 1\n'})
    metrics.run_metrics(SETTINGS)


def say_state(patch: pytest.MonkeyPatch) -> None:
    answering(patch, {"Status": {"hosts": EVIL}, "Counters": {EVIL: 1}})
    __main__.status(SETTINGS)
    __main__.counters(SETTINGS)


def say_findings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(doctor, "findings", lambda _: [
        Finding("x", None, EVIL), Finding("x", EVIL), Finding(EVIL, None)])
    doctor.run_doctor(SETTINGS)


def say_an_error(patch: pytest.MonkeyPatch) -> None:
    def fails(_: Settings) -> int:
        raise Conflict(EVIL)

    patch.setattr(__main__, "hosts", fails)
    assert __main__.main(["hosts"]) == 1


SAY: list[Callable[[pytest.MonkeyPatch], None]] = [
    say_hosts, say_forgotten, say_cluster, say_forgotten_by_the_cluster, say_test, say_names,
    say_sockets, say_why, say_metrics, say_state, say_findings, say_an_error]
MANY_LINES = (say_metrics, say_an_error)  # each line of theirs is made fit by itself


@pytest.mark.parametrize("say", SAY, ids=lambda say: say.__name__)
def test_a_terminal_gets_nothing_that_it_obeys(
        say: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    say(monkeypatch)
    printed = "".join(capsys.readouterr())
    assert "[2J" in printed, "the foreign text is not shown at all"
    assert all(line.isprintable() for line in printed.split("\n")), repr(printed)
    if say not in MANY_LINES:
        assert not any(line.startswith("! f") for line in printed.split("\n"))
