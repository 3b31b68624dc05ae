"""Tests how much work one query can be, in calls of functions: as many on any machine.

A container chooses what it asks, and how; one thread answers all containers.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from types import FrameType

import pytest

from driver.dns.messages import read_question, write_answer, write_failure
from driver.model import Endpoint, EndpointId, NetworkId
from driver.services.names.resolver import Resolver
from driver.services.names.table import FOUND_MAX, NameTable
from driver.services.ports import Container, NameReply, NamesView, Question, QuestionKind
from tests.support.fakes.ports import FakeListener
from tests.support.faults.dns_messages import LARGEST, at_random, costly, query, unusual
from tests.unit.names.world import NETWORK, endpoint, view

WEB = NameReply((IPv4Address("10.32.0.2"),))
MOST = 5000  # calls: a millisecond or so; an ordinary query takes a thousand at most
KEY = "/var/run/docker/netns/k"
ASKER = endpoint(1, "alice")


def calls(act: Callable[[], object]) -> int:
    """Count the calls that it makes."""
    count = 0

    def note(_frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def answered(message: bytes) -> None:
    """Do all that may be done for a message."""
    if read_question(message) is not None:
        write_answer(message, WEB, udp=True)
    write_failure(message)


def test_an_ordinary_query() -> None:
    answered(query())  # whatever is done only once
    assert 0 < calls(lambda: answered(query())) <= MOST / 3


@pytest.mark.parametrize("size", [512, 1472, LARGEST])
@pytest.mark.parametrize("kind", costly(512))
def test_a_message_that_is_slow_to_read(kind: str, size: int) -> None:
    message = costly(size)[kind]
    assert calls(lambda: answered(message)) <= MOST


def test_no_other_message_is_slow_to_read() -> None:
    messages = [message for _, message in unusual() if len(message) >= 12]
    messages += [each for each in at_random(random.Random(1), 1000) if len(each) >= 12]
    most = max(messages, key=lambda each: calls(lambda: answered(each)))
    assert calls(lambda: answered(most)) <= MOST, most.hex()


def test_a_name_that_many_have() -> None:
    """More addresses are never found; see test_a_name_of_many for finding them."""
    many = NameReply(tuple(IPv4Address("10.32.0.0") + each for each in range(FOUND_MAX)))
    for udp in (True, False):
        assert calls(lambda udp=udp: write_answer(  # type: ignore[misc]
            query(), many, udp=udp)) <= 3 * MOST


# ------------------------------------------------------------------- finding it
def resolver(endpoints: int, containers: int = 0) -> Resolver:
    """Return one that knows so many endpoints, and other containers of the same host."""
    bridge, alices = NetworkId("d" * 64), EndpointId("ab" * 32)
    table = NameTable(FakeListener(), lambda _vni, _id: True)
    table.put(ASKER)
    for number in range(endpoints):
        table.put(place(number))
    alice = Container("alice", {ASKER.id: frozenset({"alice"}), alices: frozenset({"alice"})},
                      frozenset())
    others = [Container(f"c{number}", {EndpointId(f"{number:064d}"): frozenset({f"c{number}"})},
                        frozenset()) for number in range(containers)]
    networks = {each: bridge for other in others for each in other.names} | {
        ASKER.id: NETWORK, alices: bridge}
    said: NamesView = view(*others, alice, networks={NETWORK: "app"}, network_of=networks)
    made = Resolver(table, lambda: said)
    made.enter(KEY, [ASKER])
    return made


def place(number: int) -> Endpoint:
    return replace(
        ASKER, id=EndpointId(f"{number:064x}"), names=(f"n{number}", "task"),
        address=IPv4Interface(f"{IPv4Address('10.32.1.0') + number}/16"))


QUESTIONS = {
    "a name": Question(QuestionKind.ADDRESS, "n7"),
    "a name of nobody's": Question(QuestionKind.ADDRESS, "nobody"),
    "a name with its network": Question(QuestionKind.ADDRESS, "n7.app"),
    "an address": Question(QuestionKind.NAME, "", IPv4Address("10.32.1.7")),
    "an address of nobody's": Question(QuestionKind.NAME, "", IPv4Address("10.32.200.1"))}


def work(made: Resolver, question: Question) -> int:
    made.resolve(KEY, question)
    return calls(lambda: made.resolve(KEY, question))


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_network_of_many(kind: str) -> None:
    few, many = (work(resolver(count), QUESTIONS[kind]) for count in (10, 2000))
    assert many <= 2 * few


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_host_of_many(kind: str) -> None:
    """Containers of a bridge that the asker is in, too: names there are Docker's to tell."""
    few, many = (work(resolver(10, count), QUESTIONS[kind]) for count in (10, 500))
    assert many <= 2 * few


def test_a_name_of_many() -> None:
    question = Question(QuestionKind.ADDRESS, "task")
    some, many = (work(resolver(count), question) for count in (100, 2000))
    assert many <= 2 * some
