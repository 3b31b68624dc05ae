"""Reads DNS queries and writes answers (RFC 1035), by dnspython."""

from __future__ import annotations

import functools
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from driver.services.ports import NameReply, Question, QuestionKind

TTL_S: Final = 0  # a name may be another container's in a moment
ID_BYTES: Final = 2
HEADER_BYTES: Final = 12
UDP_MAX: Final = 512  # bytes of an answer by UDP, unless the query allows more (RFC 6891)
ADDITIONAL_MAX: Final = 2  # records: EDNS0 (RFC 6891), a signature (RFC 8945)
# Questions and answers that are kept: so many, of queries of at most so many bytes.  More addresses
# hardly come in one order twice.
KEPT_MAX: Final = 4096
KEPT_BYTES_MAX: Final = 512
KEPT_ADDRESSES_MAX: Final = 4
_COUNTS_AT: Final = 6  # byte of the header from which records of other sections are counted
_KINDS: Final = {dns.rdatatype.A: QuestionKind.ADDRESS, dns.rdatatype.AAAA: QuestionKind.ADDRESS6,
                 dns.rdatatype.PTR: QuestionKind.NAME}


def read_question(query: bytes) -> Question | None:
    """Return what a query asks; None: nothing that a container's name could answer."""
    if len(query) > KEPT_BYTES_MAX:
        return _read_question(query)
    return _kept_question(query[ID_BYTES:])


@functools.lru_cache(KEPT_MAX)
def _kept_question(query: bytes) -> Question | None:
    """query: without its number.  Programs ask for few names, and the same way each time."""
    return _read_question(bytes(ID_BYTES) + query)


def _read_question(query: bytes) -> Question | None:
    if len(query) < HEADER_BYTES:
        return None
    answers, authorities, additional = struct.unpack_from("!3H", query, _COUNTS_AT)
    if answers or authorities or additional > ADDITIONAL_MAX:
        return None  # no program asks like that, and reading thousands of records takes time
    try:
        message = dns.message.from_wire(query, question_only=True)
        if (message.flags & dns.flags.QR or message.opcode() != dns.opcode.QUERY
                or len(message.question) != 1
                or message.question[0].rdclass != dns.rdataclass.IN):
            return None
        asked = message.question[0]
        kind = _KINDS.get(asked.rdtype, QuestionKind.OTHER)
        name = asked.name.to_text(omit_final_dot=True).lower()
        if kind is QuestionKind.NAME:
            return Question(kind, name, ip_address(dns.reversename.to_address(asked.name)))
        return Question(kind, name)
    except (dns.exception.DNSException, ValueError):
        return None


def write_answer(query: bytes, reply: NameReply, *, udp: bool) -> bytes | None:
    """Return the answer to a query; None: the query cannot be read after all.

    udp: an answer that the asker cannot take as one datagram is cut, and says so.
    """
    if len(query) > KEPT_BYTES_MAX or len(reply.addresses) > KEPT_ADDRESSES_MAX:
        return _write_answer(query, reply, udp=udp)
    answer = _kept_answer(query[ID_BYTES:], reply, udp)
    return query[:ID_BYTES] + answer[ID_BYTES:] if answer is not None else None


@functools.lru_cache(KEPT_MAX)
def _kept_answer(query: bytes, reply: NameReply, udp: bool) -> bytes | None:
    """query: without its number."""
    return _write_answer(bytes(ID_BYTES) + query, reply, udp=udp)


def _write_answer(query: bytes, reply: NameReply, *, udp: bool) -> bytes | None:
    try:
        asked = dns.message.from_wire(query)
        answer = dns.message.make_response(asked, recursion_available=True)
        question = asked.question[0]
        found = [_of_address(each) for each in reply.addresses] or [
            _of_name(each) for each in reply.names]
        if found:
            answer.answer.append(dns.rrset.from_rdata_list(question.name, TTL_S, found))
        largest = max(asked.payload, UDP_MAX) if udp else 65535
        try:
            return answer.to_wire(max_size=largest)
        except dns.exception.TooBig:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            return answer.to_wire()
    except (dns.exception.DNSException, ValueError, IndexError):
        return None


@functools.lru_cache(KEPT_MAX)
def _of_address(address: IPv4Address | IPv6Address) -> dns.rdata.Rdata:
    kind = dns.rdatatype.A if address.version == 4 else dns.rdatatype.AAAA
    return dns.rdata.from_wire(dns.rdataclass.IN, kind, address.packed, 0, len(address.packed))


def _of_name(name: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.PTR, name)


def write_failure(query: bytes) -> bytes:
    """Return the answer "server failure" to a query, readable or not."""
    with suppress(dns.exception.DNSException, ValueError):
        answer = dns.message.make_response(dns.message.from_wire(query),
                                           recursion_available=True)
        answer.set_rcode(dns.rcode.SERVFAIL)
        return answer.to_wire()
    # QR and the query's opcode and RD; RA and SERVFAIL; no question, as none is readable.
    flags = bytes((0x80 | (query[2] & 0x79), 0x80 | dns.rcode.SERVFAIL))
    return query[:ID_BYTES] + flags + bytes(8)
