"""Tests what `slim cluster status` complains about, and that each complaint says what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from driver.cluster.folder import Identity
from driver.cluster.model import (
    ClusterHost,
    Member,
    MemberHealth,
    Role,
    client_url,
    peer_url,
)
from driver.commands.cluster.status import Found, complaints, show

NOW_S, DAY_S = 1_700_000_000.0, 86400.0
MEMBERS = tuple(Member(number, f"h{number}", (peer_url(f"192.0.2.{number}"),),
                       (client_url(f"192.0.2.{number}"),)) for number in (1, 2, 3))
HEALTH = {each.id: MemberHealth("3.4.23", 1000, 5 << 20, 1, False) for each in MEMBERS}
HOSTS = tuple(ClusterHost(f"{number}" * 32, f"h{number}", f"192.0.2.{number}", 1.0, Role.MEMBER,
                          "1", NOW_S + DAY_S) for number in (1, 2, 3, 4))
WELL = Found(Identity("c" * 32, "test", 1, "1" * 32, "h1", "192.0.2.1"), MEMBERS, HEALTH, HOSTS,
             frozenset(host.id for host in HOSTS), (),
             {"host": NOW_S + 60 * DAY_S, "ca": NOW_S + 3000 * DAY_S})


def without(*ids: int) -> dict[int, MemberHealth]:
    return {member: said for member, said in HEALTH.items() if member not in ids}


LEARNER = Member(9, "", (peer_url("192.0.2.5"),), is_learner=True)
CASES: dict[str, tuple[Found, list[str]]] = {
    "all is well": (WELL, []),
    "a learner that has not started": (replace(WELL, members=(*MEMBERS, LEARNER)), []),
    "a member is down": (replace(WELL, health=without(2)), ["192.0.2.2.*start it.*remove"]),
    "no majority": (replace(WELL, health=without(2, 3)),
                    ["no majority: 192.0.2.2, 192.0.2.3 .*slim cluster restore"]),
    "a member knows no leader": (
        replace(WELL, health={**HEALTH, 3: replace(HEALTH[3], leader=0)}), ["192.0.2.3"]),
    "etcd does not answer": (
        replace(WELL, members=(), health={}, hosts=None, alive=frozenset(), trouble="why"),
        ["no member of etcd answers.*why.*go on.*slim cluster restore"]),
    "it refuses this host": (replace(WELL, hosts=None, alive=frozenset(), trouble="refused"),
                             ["refused"]),
    "a host is silent": (replace(WELL, alive=WELL.alive - {"4" * 32}),
                         [r"h4 \(192.0.2.4\) is silent.*slim-cluster"]),
    "no space": (replace(WELL, alarms=("NOSPACE",)), ["slim cluster tidy"]),
    "corrupt": (replace(WELL, alarms=("CORRUPT",)), ["CORRUPT.*docs/recovery"]),
    "a certificate has ended": (
        replace(WELL, certificates={"host": NOW_S - 1, "ca": NOW_S + 3000 * DAY_S}),
        ["`host` has expired on 20..-..-.. ..:..: .*slim cluster join"]),
    "the authority ends": (
        replace(WELL, certificates={"host": NOW_S + DAY_S, "ca": NOW_S + 3 * DAY_S}),
        ["certificate authority ends"]),
}


@pytest.mark.parametrize("case", CASES)
def test_complaints(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re
    found, wanted = CASES[case]
    said = complaints(found, NOW_S)
    assert len(said) == len(wanted)
    for line, pattern in zip(said, wanted, strict=True):
        assert re.search(pattern, line)
        assert "\n" not in line
    show(found)
    shown = capsys.readouterr().out
    assert "test" in shown
    assert all(member.address in shown for member in found.members)


def test_each_host_and_member_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    hosts = (HOSTS[0], replace(HOSTS[1], leaving=True), *HOSTS[2:])
    show(replace(WELL, hosts=hosts, health=without(2), alive=WELL.alive - {"3" * 32},
                 members=(*MEMBERS, LEARNER)))
    lines = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()}
    assert "leader" in lines["h1", "192.0.2.1"] or "alive" in lines["h1", "192.0.2.1"]
    shown = "\n".join(lines.values())
    for word in ("leaving", "silent", "alive", "client", "expected to start"):
        assert word in shown
