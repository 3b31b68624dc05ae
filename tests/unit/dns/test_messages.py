"""Tests reading queries and writing answers against dnspython, and against what is no message."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
import dns.update
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driver.dns.messages import UDP_MAX, read_question, write_answer, write_failure
from driver.services.ports import NameReply, Question, QuestionKind

V4 = (IPv4Address("10.32.0.2"), IPv4Address("10.32.0.3"))
V6 = (IPv6Address("fd00::2"), IPv6Address("fd00::3"))
HEADER = struct.Struct(">HHHHHH")  # id, flags, and the counts of the four sections


def query(name: str = "web", kind: str = "A", payload: int | None = None, *,
          number: int = 0xABCD) -> bytes:
    """Return a query.  payload: bytes that the asker can take, if it has EDNS0."""
    message = dns.message.make_query(name, kind, id=number, use_edns=payload is not None,
                                     payload=payload or 0)
    return bytes(message.to_wire())


def answered(asked: bytes, *addresses: IPv4Address | IPv6Address, names: tuple[str, ...] = (),
             udp: bool = True) -> dns.message.Message:
    """Return the answer as dnspython reads it."""
    wire = write_answer(asked, NameReply(addresses, names), udp=udp)
    assert wire is not None
    answer = dns.message.from_wire(wire)
    assert dns.message.from_wire(asked).is_response(answer), "same number, same question"
    return answer


def texts(answer: dns.message.Message) -> set[str]:
    return {each.to_text() for found in answer.answer for each in found}


# ------------------------------------------------------------------- questions
@pytest.mark.parametrize(("name", "kind", "question"), [
    ("web", "A", Question(QuestionKind.ADDRESS, "web")),
    ("web.", "A", Question(QuestionKind.ADDRESS, "web")),
    ("WEB.App", "AAAA", Question(QuestionKind.ADDRESS6, "web.app")),
    ("my_web-1", "A", Question(QuestionKind.ADDRESS, "my_web-1")),
    ("web", "MX", Question(QuestionKind.OTHER, "web")),
    ("web", "ANY", Question(QuestionKind.OTHER, "web")),
    ("web", "TYPE65280", Question(QuestionKind.OTHER, "web")),
    (".", "NS", Question(QuestionKind.OTHER, ".")),
    ("2.0.32.10.in-addr.arpa", "PTR", Question(
        QuestionKind.NAME, "2.0.32.10.in-addr.arpa", ip_address("10.32.0.2")))])
def test_a_question(name: str, kind: str, question: Question) -> None:
    assert read_question(query(name, kind)) == question
    assert read_question(query(name, kind, 1232)) == question


@given(st.ip_addresses())
def test_the_name_of_an_address(address: IPv4Address | IPv6Address) -> None:
    reverse = dns.reversename.from_address(str(address)).to_text()
    question = read_question(query(reverse.upper(), "PTR"))
    assert question is not None
    assert question.kind is QuestionKind.NAME
    assert question.name == reverse.removesuffix(".").lower()
    # As an IPv4 address within IPv6, or as itself: dnspython may read it either way.
    assert question.address in (address, getattr(address, "ipv4_mapped", None))


@pytest.mark.parametrize("name", [
    "web", "0.32.10.in-addr.arpa", "300.0.32.10.in-addr.arpa", "x.0.32.10.in-addr.arpa",
    "in-addr.arpa", "ip6.arpa", "0.0.ip6.arpa", "1.2.0.32.10.in-addr.arpa"])
def test_a_name_of_no_address_is_not_ours(name: str) -> None:
    assert read_question(query(name, "PTR")) is None


def test_a_label_with_a_dot_is_not_two_labels() -> None:
    assert read_question(query(r"web\.app")) != read_question(query("web.app"))


def test_what_is_no_question_of_the_internet() -> None:
    made = dns.message.make_query("web", "A", rdclass="CH")
    assert read_question(bytes(made.to_wire())) is None
    made = dns.message.make_query("web", "A")
    made.flags |= dns.flags.QR
    assert read_question(bytes(made.to_wire())) is None, "an answer"
    for opcode in (dns.opcode.IQUERY, dns.opcode.STATUS, dns.opcode.NOTIFY):
        made = dns.message.make_query("web", "A")
        made.set_opcode(opcode)
        assert read_question(bytes(made.to_wire())) is None
    update = dns.update.UpdateMessage("web")
    update.add("web", 0, "A", "10.32.0.2")
    assert read_question(bytes(update.to_wire())) is None


def test_no_question_and_two() -> None:
    one = query()
    assert read_question(HEADER.pack(1, 0, 0, 0, 0, 0)) is None
    assert read_question(HEADER.pack(1, 0, 2, 0, 0, 0) + one[HEADER.size:] * 2) is None
    assert read_question(HEADER.pack(1, 0, 1, 0, 0, 0) + one[HEADER.size:]) is not None


# --------------------------------------------------------------------- answers
@pytest.mark.parametrize("payload", [None, 1232])
def test_addresses(payload: int | None) -> None:
    answer = answered(query("web", "A", payload), *V4)
    assert texts(answer) == {"10.32.0.2", "10.32.0.3"}
    assert texts(answered(query("web", "AAAA", payload), *V6)) == {"fd00::2", "fd00::3"}
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.RA
    assert not answer.flags & dns.flags.TC
    assert [each.ttl for each in answer.answer] == [0]
    assert answer.edns == (-1 if payload is None else 0), "EDNS0 for those who speak it only"


def test_upper_case_stays_in_the_question() -> None:
    """Some askers choose it at random, and take no answer that lacks it."""
    answer = answered(query("wEb.APP"), *V4)
    assert answer.question[0].name.to_text() == "wEb.APP."
    assert answer.answer[0].name.to_text() == "wEb.APP."


@pytest.mark.parametrize("kind", ["A", "AAAA", "MX", "ANY", "PTR"])
def test_a_name_without_such_an_address(kind: str) -> None:
    answer = answered(query("web", kind))
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.answer == []


def test_a_name() -> None:
    answer = answered(query("2.0.32.10.in-addr.arpa", "PTR"), names=("web.app.",))
    assert texts(answer) == {"web.app."}
    assert answer.answer[0].rdtype == dns.rdatatype.PTR


@pytest.mark.parametrize("name", ["web..app.", "l" * 64 + ".", "web\\"])
def test_a_name_that_cannot_be_written_is_left_to_docker(name: str) -> None:
    asked = query("2.0.32.10.in-addr.arpa", "PTR")
    assert write_answer(asked, NameReply(names=(name,)), udp=True) is None


def many(count: int) -> list[IPv4Address]:
    return [IPv4Address("10.32.1.0") + each for each in range(count)]


# A header, the question, and 16 bytes for each address; EDNS0 takes 11.
FITS = (UDP_MAX - len(query())) // 16


@pytest.mark.parametrize(("payload", "fits"), [
    (None, FITS), (0, FITS), (100, FITS), (UDP_MAX, FITS), (UDP_MAX + 16, FITS + 1), (4096, 254)])
def test_a_datagram_that_the_asker_cannot_take_is_cut(payload: int | None, fits: int) -> None:
    asked = query(payload=payload)
    whole = answered(asked, *many(fits))
    assert texts(whole) == set(map(str, many(fits)))
    assert not whole.flags & dns.flags.TC
    too_many = many(fits + 1)
    cut = answered(asked, *too_many)
    assert cut.flags & dns.flags.TC
    assert cut.answer == []
    assert cut.edns == (-1 if payload is None else 0)
    by_tcp = answered(asked, *too_many, udp=False)
    assert texts(by_tcp) == set(map(str, too_many))
    assert not by_tcp.flags & dns.flags.TC


def test_what_does_not_even_fit_into_a_connections_message() -> None:
    cut = answered(query(), *many(5000), udp=False)
    assert cut.flags & dns.flags.TC


@given(addresses=st.lists(st.ip_addresses(v=4), unique=True, min_size=1, max_size=60),
       payload=st.none() | st.integers(0, 65535), number=st.integers(0, 65535))
def test_no_datagram_is_larger_than_allowed(addresses: list[IPv4Address], payload: int | None,
                                            number: int) -> None:
    asked = query(payload=payload, number=number)
    wire = write_answer(asked, NameReply(tuple(addresses)), udp=True)
    assert wire is not None
    assert len(wire) <= max(payload or 0, UDP_MAX)
    answer = dns.message.from_wire(wire)
    assert answer.id == number
    assert bool(answer.flags & dns.flags.TC) != (texts(answer) == set(map(str, addresses)))


def test_options_of_the_asker_are_no_hindrance() -> None:
    made = dns.message.make_query("web", "A", use_edns=True, options=[
        dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(8))])
    assert texts(answered(bytes(made.to_wire()), *V4)) == {"10.32.0.2", "10.32.0.3"}


# -------------------------------------------------------------------- failures
@pytest.mark.parametrize("wanted", [True, False])
def test_a_failure(wanted: bool) -> None:
    made = dns.message.make_query("web", "A", id=0x1234)
    made.flags = dns.flags.RD if wanted else dns.flags.Flag(0)
    answer = dns.message.from_wire(write_failure(bytes(made.to_wire())))
    assert (answer.id, answer.rcode()) == (0x1234, dns.rcode.SERVFAIL)
    assert answer.opcode() == dns.opcode.QUERY
    assert answer.flags & dns.flags.QR
    assert bool(answer.flags & dns.flags.RD) is wanted
    assert answer.flags & dns.flags.RA
    assert made.is_response(answer)
    assert answer.question == made.question, "some askers take no answer without it"


def test_a_failure_of_what_cannot_be_read() -> None:
    failure = write_failure(HEADER.pack(0x1234, 0x2900, 1, 0, 0, 0) + b"\xff")
    assert failure == HEADER.pack(0x1234, 0xA982, 0, 0, 0, 0), "opcode and RD are the query's"


# ----------------------------------------------------------------- other bytes
LOOPS = [
    b"\xc0\x0c",  # the name is where it is
    b"\x03web\xc0\x0c",
    b"\xc0\x0e\xc0\x0c",  # two that point at each other
    b"\xff\xff",  # beyond the end
    b"\x40web", b"\x80web",  # labels of kinds that do not exist
    b"\x3f" + b"l" * 10,  # cut off
    (b"\x3f" + b"l" * 63) * 4 + b"\0",  # too long
    (b"\x01l" * 200) + b"\0",
]


@pytest.mark.parametrize("name", LOOPS)
def test_a_hostile_name(name: bytes) -> None:
    for end in (b"", bytes((0, 1, 0, 1))):
        message = HEADER.pack(1, 0x100, 1, 0, 0, 0) + name + end
        assert read_question(message) is None
        assert write_answer(message, NameReply(V4), udp=True) is None


def test_many_pointers_take_no_time() -> None:
    """A chain of them, each to the one before, is followed once."""
    chain = b"".join(struct.pack(">H", 0xC000 | max(12, 12 + 2 * each - 2)) for each in range(8000))
    message = HEADER.pack(1, 0x100, 1, 0, 0, 0) + b"\0" + chain
    assert read_question(message) is None


@pytest.mark.parametrize("length", range(len(query("web", "A", 1232))))
def test_a_query_that_is_cut_off(length: int) -> None:
    part = query("web", "A", 1232)[:length]
    if length < len(query()):
        assert read_question(part) is None
    assert write_answer(part, NameReply(V4), udp=True) is None, "the asker did not send that"


@pytest.mark.parametrize("counts", [(0, 0, 2), (0, 0, 65535), (1, 0, 0), (0, 1, 0)])
def test_a_query_with_more_records_is_left_to_docker(counts: tuple[int, int, int]) -> None:
    """Reading thousands of them would take the thread for a while."""
    record = b"\0" + struct.pack(">HHIH", dns.rdatatype.OPT, 1232, 0, 0)
    message = HEADER.pack(1, 0x100, 1, *counts) + query()[HEADER.size:] + record * sum(counts)
    assert read_question(message) is None


@pytest.mark.parametrize(("kind", "extended"), [
    (dns.rdatatype.OPT, 1 << 16), (dns.rdatatype.OPT, 1 << 24), (dns.rdatatype.TSIG, 0),
    (dns.rdatatype.A, 0)])
def test_what_is_not_edns0_is_left_to_docker(kind: int, extended: int) -> None:
    """A later version of it, too: Docker's name server knows how to refuse that."""
    record = b"\0" + struct.pack(">HHIH", kind, 1232, extended, 0)
    message = HEADER.pack(1, 0x100, 1, 0, 0, 1) + query()[HEADER.size:] + record
    assert read_question(message) is None


def test_a_query_with_something_behind_it_is_left_to_docker() -> None:
    assert write_answer(query() + b"x", NameReply(V4), udp=True) is None


names_in_wire = st.lists(st.binary(min_size=1, max_size=63), max_size=6).map(
    lambda labels: b"".join(bytes((len(label),)) + label for label in labels) + b"\0")
structured = st.builds(
    lambda header, name, kind, rdclass, rest: (
        HEADER.pack(*header) + name + struct.pack(">HH", kind, rdclass) + rest),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 2), st.integers(0, 2),
              st.integers(0, 2), st.integers(0, 2)),
    names_in_wire | st.sampled_from(LOOPS), st.sampled_from([1, 12, 28, 41, 255]) |
    st.integers(0, 65535), st.sampled_from([1, 3, 255]) | st.integers(0, 65535),
    st.binary(max_size=40))
mutated = st.builds(
    lambda made, at, value: made[:at % len(made)] + bytes((value,)) + made[at % len(made) + 1:],
    st.sampled_from([query(), query(payload=1232), query("2.0.32.10.in-addr.arpa", "PTR")]),
    st.integers(0, 100), st.integers(0, 255))


@given(st.binary(max_size=200) | structured | mutated,
       st.sampled_from([NameReply(), NameReply(V4), NameReply(V6), NameReply(names=("web.app.",))]),
       st.booleans())
@example(b"", NameReply(V4), True)
@example(bytes(12), NameReply(V4), True)
@example(HEADER.pack(1, 0x0100, 0, 0, 0, 0), NameReply(V4), True)  # no question at all
def test_nothing_that_comes_raises_an_error(message: bytes, reply: NameReply, udp: bool) -> None:
    question = read_question(message)
    if question is not None:
        assert question.name == question.name.lower()
        assert (question.address is not None) is (question.kind is QuestionKind.NAME)
    answer = write_answer(message, reply, udp=udp)
    if answer is not None:
        assert answer[:2] == message[:2]
    if len(message) >= HEADER.size:
        failure = write_failure(message)
        assert failure[:2] == message[:2]
        assert failure[2] & 0x80, "it is an answer"
        assert failure[3] & 0x0F == dns.rcode.SERVFAIL
