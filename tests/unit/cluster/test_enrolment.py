"""Tests who is let in: each refusal is one sentence that says what to do, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from driver.cluster import tokens
from driver.cluster.authority import new_request
from driver.cluster.door.enrolment import CLOCK_S, NotLetIn, canonical
from driver.cluster.model import ClusterHost, Member, Role, client_url, peer_url
from driver.cluster.records import JoinSecret
from driver.errors import (
    Conflict,
    InvalidArgument,
    InvalidRequest,
    NotFound,
    SlimError,
    StoreUnavailable,
)
from driver.store.format import keys
from driver.store.kv.protocol import Delete
from tests.unit.cluster.house import HERE, HOUR_S, NOW_S, SECRET, House

TWO = "2" * 32
FROM = "192.0.2.2"
REQUEST, KEY = new_request("two")
Change = Callable[[dict[str, Any]], object]


def request(secret: bytes = SECRET, **changed: Any) -> dict[str, Any]:
    """What a host sends that wants to join."""
    token = tokens.Token(bytes(32), secret)
    fields = {"host": TWO, "name": "two", "address": FROM, "csr": REQUEST.decode(),
              "token": token.name, "now": NOW_S, "version": "1", **changed}
    return {"proof": token.proof(canonical(fields)), **fields}


def refused(house: House, fields: dict[str, Any], source: str = FROM) -> str:
    before = house.state()
    with pytest.raises(SlimError) as caught:
        house.enrolment.join(fields, source)
    assert house.state() == before
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET.hex() not in text
    return text


def test_a_host_is_let_in(house: House) -> None:
    answer = house.enrolment.join(request(), FROM)
    host = house.records.host(TWO)
    assert host == ClusterHost(TWO, "two", FROM, NOW_S, Role.CLIENT, "1", NOW_S + HOUR_S)
    assert house.members.users == {TWO}
    assert answer["endpoints"] == [client_url(HERE)]
    assert answer["hosts"] == [HERE, FROM]
    assert (answer["cluster"], answer["generation"], answer["again"]) == ("c" * 32, 1, False)
    assert "ca_key" not in answer


def test_it_may_ask_again(house: House) -> None:
    """Its first answer was lost; or its certificate has ended.  What it is stays."""
    house.enrolment.join(request(), FROM)
    assert house.enrolment.join(request(), FROM)["again"] is True
    house.records.set_role(TWO, Role.MEMBER)
    house.now_s += 100
    assert house.enrolment.join(request(), FROM)["again"] is True
    host = house.records.host(TWO)
    assert host is not None
    assert (host.joined_s, host.role) == (NOW_S, Role.MEMBER)
    assert len(house.records.hosts()) == 2


def test_a_wrong_token(house: House) -> None:
    assert re.search("not .*this cluster's.*`slim cluster token`", refused(
        house, request(b"another one's 16")))


def test_an_expired_token(house: House) -> None:
    house.now_s += HOUR_S + 1
    assert re.search("has expired: `slim cluster token --rotate`", refused(
        house, request(now=house.now_s)))


def test_a_token_without_end(house: House) -> None:
    house.records.put_secret(JoinSecret(SECRET, 0.0))
    house.now_s += 10 ** 9
    assert house.enrolment.join(request(now=house.now_s), FROM)


def test_an_old_token(house: House) -> None:
    assert re.search("replaced by a newer one: `slim cluster token`", refused(
        house, request(b"o" * 16)))


def test_no_token(house: House) -> None:
    house.kv.commit([], [Delete(keys.CLUSTER_TOKEN)])
    assert "`slim cluster token --rotate`" in refused(house, request())


@pytest.mark.parametrize("off_s", [3600.0, -3600.0, CLOCK_S + 1, -CLOCK_S - 1])
def test_a_clock_that_is_off(house: House, off_s: float) -> None:
    text = refused(house, request(now=NOW_S + off_s))
    assert re.search("the clock of two is .* (ahead of|behind) that of one: set it", text)
    assert ("ahead" in text) == (off_s > 0)


def test_a_clock_that_is_none(house: House) -> None:
    for now in (float("nan"), float("inf")):
        refused(house, request(now=now))
    for off_s in (CLOCK_S - 1, 1 - CLOCK_S):
        assert house.enrolment.join(request(now=NOW_S + off_s), FROM)


def test_it_comes_from_elsewhere(house: House) -> None:
    assert re.search(r"two says that its address is 192.0.2.2, and comes from 198.51.100.9: .*"
                     "--address", refused(house, request(), "198.51.100.9"))


def test_its_address_is_taken(house: House) -> None:
    house.enter(ClusterHost("3" * 32, "three", FROM, 1.0))
    assert re.search("address of three already.*slim cluster remove three", refused(
        house, request()))


def test_its_id_is_taken(house: House) -> None:
    """A virtual machine was copied."""
    house.enter(ClusterHost(TWO, "other", "192.0.2.3", 1.0))
    house.records.tell_alive(TWO, 0)
    assert re.search("other .* has this host's id: .* copy", refused(house, request()))
    house.records.forget_alive()
    assert house.enrolment.join(request(), FROM)  # it has moved


@pytest.mark.parametrize("spoil", [
    lambda fields: fields.update(name="other"), lambda fields: fields.update(host="9" * 32),
    lambda fields: fields.update(csr=new_request("x")[0].decode()),
    lambda fields: fields.update(now=NOW_S + 1), lambda fields: fields.update(more="x"),
    lambda fields: fields.update(client_only=True), lambda fields: fields.pop("version"),
    lambda fields: fields.update(proof=""), lambda fields: fields.update(proof="é"),
    lambda fields: fields.update(proof="\ud800"), lambda fields: fields.update(proof=None),
    lambda fields: fields.update(proof=[]), lambda fields: fields.pop("proof"),
    lambda fields: fields.update(proof=fields["proof"][:-1]),
    lambda fields: fields.update(token=""), lambda fields: fields.pop("token")])
def test_the_proof_is_over_the_whole_request(house: House, spoil: Change) -> None:
    """What somebody in between has changed is not what the token's owner asked for."""
    fields = request()
    spoil(fields)
    assert "this cluster's" in refused(house, fields)


@pytest.mark.parametrize("changed", [
    {"host": "x"}, {"host": "A" * 32}, {"host": "../" + "a" * 29}, {"host": None}, {"name": ""},
    {"name": "a\nb"}, {"name": "a/b"}, {"name": "x" * 254}, {"address": "x"}, {"address": "::1"},
    {"address": None}, {"now": "x"}, {"now": None}, {"now": []}])
def test_a_request_that_makes_no_sense(house: House, changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        house.enrolment.join(request(**changed), FROM)
    refused(house, request(**changed))


@pytest.mark.parametrize("missing", ["host", "name", "address", "now", "csr"])
def test_a_request_without(house: House, missing: str) -> None:
    fields = request()
    del fields[missing]
    refused(house, fields)


def test_a_certificate_request_that_is_none(house: House) -> None:
    before = house.state()
    with pytest.raises(InvalidArgument):
        house.enrolment.join(request(csr="garbage"), FROM)
    assert house.state() == before


def test_the_configuration_is_missing(house: House) -> None:
    house.kv.commit([], [Delete(keys.CLUSTER_CONFIG)])
    assert "slim cluster init" in refused(house, request())
    with pytest.raises(NotFound):
        house.enrolment.tell("1" * 32)


def test_etcd_refuses_the_user(house: House) -> None:
    house.members.refuses_users = True
    refused(house, request())


def test_who_is_removed_is_told_so(house: House) -> None:
    for ask in (lambda: house.enrolment.tell(TWO), lambda: house.enrolment.become_member(TWO),
                lambda: house.enrolment.renew(TWO, {"csr": REQUEST.decode()})):
        before = house.state()
        with pytest.raises(NotLetIn, match="has been removed"):
            ask()
        assert house.state() == before
    assert house.enrolment.stay(TWO) == {}
    assert house.records.host(TWO) is None


def test_renewing(house: House) -> None:
    house.enrolment.join(request(), FROM)
    house.now_s += 50
    answer = house.enrolment.renew(TWO, {"csr": REQUEST.decode(), "version": "2"})
    assert "BEGIN CERTIFICATE" in answer["certificate"]
    host = house.records.host(TWO)
    assert host is not None
    assert (host.certificate_until_s, host.version) == (house.now_s + HOUR_S, "2")
    for wrong in ({}, {"csr": None}, {"csr": "garbage"}):
        with pytest.raises(InvalidArgument):
            house.enrolment.renew(TWO, wrong)


def second_member(house: House, role: Role = Role.MEMBER) -> Member:
    house.enter(ClusterHost(TWO, "two", FROM, 2.0, role))
    member = Member(8, TWO, (peer_url(FROM),), (client_url(FROM),))
    house.members.listed.append(member)
    house.members.running.add(8)
    return member


def test_only_who_is_to_be_a_member_gets_the_cas_key(house: House) -> None:
    house.enrolment.join(request(), FROM)
    with pytest.raises(NotLetIn):
        house.enrolment.become_member(TWO)
    house.records.set_role(TWO, Role.MEMBER)
    with pytest.raises(NotLetIn):  # etcd does not expect it
        house.enrolment.become_member(TWO)
    second_member(house)
    answer = house.enrolment.become_member(TWO)
    assert answer["ca_key"] == house.authority.key.decode()
    assert {each["url"] for each in answer["members"]} == {peer_url(HERE), peer_url(FROM)}
    house.records.set_role(TWO, Role.CLIENT)
    with pytest.raises(NotLetIn):
        house.enrolment.become_member(TWO)


def test_a_client_leaves(house: House) -> None:
    house.enrolment.join(request(), FROM)
    assert house.enrolment.leave(TWO, {}) == {"out": True}
    host = house.records.host(TWO)
    assert host is not None
    assert host.leaving
    house.enrolment.stay(TWO)
    assert house.records.host(TWO) == replace(host, leaving=False)
    assert house.enrolment.leave(TWO, {"done": True}) == {"out": True}
    assert house.records.host(TWO) is None
    assert house.members.users == set()


def test_a_member_is_not_out_before_its_member_is(house: House) -> None:
    second_member(house)
    assert house.enrolment.leave(TWO, {"done": True}) == {"out": False}
    host = house.records.host(TWO)
    assert host is not None
    assert host.leaving


def test_leaving_that_was_interrupted_is_asked_again(house: House) -> None:
    """Never is a host off the record whose certificate still opens etcd."""
    house.enrolment.join(request(), FROM)
    house.members.refuses_users = True
    with pytest.raises(StoreUnavailable):
        house.enrolment.leave(TWO, {"done": True})
    assert house.records.host(TWO) is not None
    house.members.refuses_users = False
    house.enrolment.leave(TWO, {"done": True})
    assert house.members.users == set()


def test_who_has_left_may_ask_again(house: House) -> None:
    """It did not get the answer, or a person has removed it."""
    before = house.state()
    for fields in ({}, {"done": True}):
        assert house.enrolment.leave(TWO, fields) == {"out": True, "gone": True}
    assert house.state() == before
    second_member(house)
    house.records.change_host(TWO, lambda _: None)  # lost: its member is there
    with pytest.raises(NotLetIn):
        house.enrolment.leave(TWO, {"done": True})


def test_the_last_member_does_not_leave_others_alone(house: House) -> None:
    second_member(house)
    house.members.running.discard(8)
    before = house.state()
    house.members.leads = 7
    with pytest.raises(SlimError):
        house.enrolment.leave("1" * 32, {})
    assert house.state() == before


def test_the_only_member_leaves_if_another_host_can_take_its_place(house: House) -> None:
    with pytest.raises(Conflict, match="all records would be lost"):
        house.enrolment.leave("1" * 32, {})
    house.enrolment.join(request(), FROM)
    with pytest.raises(Conflict):
        house.enrolment.leave("1" * 32, {})
    house.records.tell_alive(TWO, 0)
    assert house.enrolment.leave("1" * 32, {}) == {"out": False}
