"""Tests that certificates are renewed before their end, by whom, and what a failure leaves."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from driver import __version__
from driver.api.door import DoorServer
from driver.cluster.authority import HOST_PREFIX, Usage, new_authority, validity
from driver.cluster.door.visitor import NobodyAnswers, Refused, ask_as_host
from driver.cluster.etcd import etcd_member
from driver.cluster.folder import ClusterFolder
from driver.cluster.keeping.renewal import MEMBER_CERTIFICATES, Renewal
from driver.cluster.model import ClusterHost
from driver.errors import SettingsError, StateError
from tests.unit.cluster.house import HERE, HOUR_S, House

TWO = ClusterHost("2" * 32, "two", HERE, 2.0, version=__version__)


def renewal(folder: ClusterFolder, later_s: float = 0.0) -> Renewal:
    return Renewal(folder, replace(folder.identity(), address=HERE),
                   lambda: time.time() + later_s)


def until_s(folder: ClusterFolder, name: str = "host") -> float:
    return validity(folder.read(f"{name}.crt"), name).until_s


def test_a_hosts_own_is_renewed_when_a_third_is_left(house: House, door: DoorServer) -> None:
    house.enter(TWO)
    folder = house.visitor_folder(TWO.id, house.authority.issue(
        HOST_PREFIX + TWO.id, Usage.CLIENT, seconds=300))
    before, key = until_s(folder), folder.key("host")
    for later_s in (0.0, 190.0):
        renewal(folder, later_s).act(TWO)
        assert until_s(folder) == before
    renewal(folder, 210.0).act(TWO)
    assert until_s(folder) > before + 3000
    assert folder.key("host") == key  # no moment has a pair that does not fit
    assert ask_as_host(folder, HERE, HERE, "tell", {})["name"] == "test"
    host = house.records.host(TWO.id)
    assert host is not None
    assert host.certificate_until_s == house.now_s + HOUR_S


def test_a_new_version_tells_its_name(house: House, door: DoorServer) -> None:
    old = house.enter(replace(TWO, version="0.0"))
    folder = house.visitor_folder(TWO.id)
    renewal(folder).act(old)
    assert house.records.host(TWO.id) == replace(
        TWO, certificate_until_s=house.now_s + HOUR_S)


def test_nobody_answers_and_nothing_is_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.enter(TWO)
    folder = house.visitor_folder(TWO.id)
    with house.opened(monkeypatch):
        pass
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(NobodyAnswers):
        renewal(folder, HOUR_S * 0.9).act(TWO)
    folder.put_lines("endpoints", ())
    with pytest.raises(NobodyAnswers, match="no member of etcd is known"):
        renewal(folder, HOUR_S * 0.9).act(TWO)
    folder.put_lines("endpoints", tuple(
        before[folder.path / "endpoints"].decode().split()))
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_the_next_member_is_asked(house: House, door: DoorServer) -> None:
    house.enter(TWO)
    folder = house.visitor_folder(TWO.id)
    folder.put_lines("endpoints", ("https://127.0.0.77:23790", *folder.endpoints()))
    before = until_s(folder)
    house.records.put_config(replace(house.enrolment._config(), certificate_s=9 * HOUR_S))
    renewal(folder, HOUR_S * 0.9).act(TWO)
    assert until_s(folder) > before + 7 * HOUR_S


def test_a_removed_host_gets_none(house: House, door: DoorServer) -> None:
    folder = house.visitor_folder(TWO.id)
    before = until_s(folder)
    with pytest.raises(Refused, match="has been removed"):
        renewal(folder, HOUR_S * 0.9).act(TWO)
    assert until_s(folder) == before


def member(house: House, seconds: float = HOUR_S) -> ClusterFolder:
    house.folder.write("etcd.env", "")
    etcd_member.issue_files(house.folder, house.authority, HERE, seconds)
    house.folder.put_issued("host", house.authority.issue(
        HOST_PREFIX + house.me.host, Usage.CLIENT, seconds=seconds))
    return house.folder


@pytest.mark.parametrize("which", MEMBER_CERTIFICATES)
def test_a_member_signs_its_own(house: House, which: str) -> None:
    folder = member(house)
    before = {name: until_s(folder, name) for name in MEMBER_CERTIFICATES}
    own, keys = until_s(folder), [folder.key(name) for name in MEMBER_CERTIFICATES]
    renewal(folder, HOUR_S * 0.6).act_alone()
    assert {name: until_s(folder, name) for name in MEMBER_CERTIFICATES} == before
    name = {"peer": "slim-peer", "etcd": "slim-etcd", "root": "root"}[which]
    folder.put_issued(which, house.authority.issue(
        name, Usage.PEER, seconds=100, key=folder.key(which)))
    renewal(folder, 80.0).act_alone()
    assert until_s(folder, which) > time.time() + 90 if which == "etcd" else (
        until_s(folder, which) > before[which] - 5)
    assert [folder.key(name) for name in MEMBER_CERTIFICATES] == keys
    assert until_s(folder) == own


def test_it_needs_no_etcd_and_no_door_after_a_long_time(house: House) -> None:
    """Else an only member that was switched off for months would never come up again."""
    folder = member(house, -10.0)
    for name in (*MEMBER_CERTIFICATES, "host"):
        folder.put_issued(name, house.authority.issue("x", Usage.CLIENT, seconds=100))
    renewal(folder, 1000.0).act_alone()
    for name in (*MEMBER_CERTIFICATES, "host"):
        assert until_s(folder, name) > time.time() + 90
    subject = folder.read("host.crt")
    from cryptography import x509
    assert x509.load_pem_x509_certificate(subject).subject.rfc4514_string() == (
        f"CN=host-{house.me.host}")


def test_who_is_no_member_signs_nothing(house: House) -> None:
    folder = house.visitor_folder(TWO.id)
    renewal(folder, 10 * HOUR_S).act_alone()
    assert not (folder.path / "etcd.crt").exists()


def test_files_that_cannot_be_read_are_named(house: House) -> None:
    folder = member(house)
    folder.write("peer.crt", "garbage")
    with pytest.raises(SettingsError, match=r"peer\.crt"):
        renewal(folder).act_alone()
    (folder.path / "peer.crt").unlink()
    with pytest.raises(StateError, match=r"peer\.crt"):
        renewal(folder).act_alone()
    folder.write("host.crt", "garbage")
    with pytest.raises(SettingsError, match=r"host\.crt"):
        renewal(folder).act(TWO)


def test_another_cas_key_signs_nothing_that_others_believe(house: House) -> None:
    folder = member(house)
    folder.write("ca.key", new_authority("other").key)
    renewal(folder, HOUR_S).act_alone()
    with pytest.raises(NobodyAnswers):
        ask_as_host(folder, HERE, HERE, "tell", {})
