"""Reads DNS queries and writes answers (RFC 1035), by dnspython."""

from __future__ import annotations

import functools
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

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
QUERY_MAX: Final = 512  # bytes of a query that we read: twice what a name and EDNS0 take
LABELS_MAX: Final = 35  # of a name, as of an IPv6 address and the root: writing more takes long
EDNS_PAYLOAD: Final = 1232  # bytes that we say that we take
KEPT_MAX: Final = 4096  # questions, and answers, that are kept
KEPT_ADDRESSES_MAX: Final = 4  # of an answer that is kept
_COUNTS: Final = struct.Struct("!4H")  # of questions, answers, authorities, additional records
_COUNTS_AT: Final = 4  # byte of the header
_END: Final = 4  # bytes of a question after its name
# Root, type, payload, extended code and version and flags, length of the options (RFC 6891).
_OPT: Final = struct.Struct("!BHHIH")
_KINDS: Final = {dns.rdatatype.A: QuestionKind.ADDRESS, dns.rdatatype.AAAA: QuestionKind.ADDRESS6,
                 dns.rdatatype.PTR: QuestionKind.NAME}


class _Query(NamedTuple):
    message: dns.message.Message  # with the question only
    payload: int | None  # bytes that the asker takes by UDP, if it has said so by EDNS0


def read_question(query: bytes) -> Question | None:
    """Return what a query asks; None: nothing that a container's name could answer."""
    return _kept_question(query[ID_BYTES:]) if len(query) <= QUERY_MAX else None


@functools.lru_cache(KEPT_MAX)
def _kept_question(query: bytes) -> Question | None:
    """query: without its number.  Programs ask for few names, and the same way each time."""
    read = _read(bytes(ID_BYTES) + query)
    if read is None:
        return None
    asked = read.message.question[0]
    kind = _KINDS.get(asked.rdtype, QuestionKind.OTHER)
    name = asked.name.to_text(omit_final_dot=True).lower()
    if kind is not QuestionKind.NAME:
        return Question(kind, name)
    try:
        return Question(kind, name, ip_address(dns.reversename.to_address(asked.name)))
    except (dns.exception.DNSException, ValueError):
        return None


def _read(query: bytes) -> _Query | None:
    """Read what programs send: a question with its name written out, and EDNS0 behind it.

    None: anything else.  Reading it could take seconds, so nobody does.
    """
    if not HEADER_BYTES <= len(query) <= QUERY_MAX:
        return None
    *sections, more = _COUNTS.unpack_from(query, _COUNTS_AT)
    if sections != [1, 0, 0] or more > 1:
        return None
    try:
        message = dns.message.from_wire(query, question_only=True)
        (asked,) = message.question
        name = asked.name.to_wire() or b""
        end = HEADER_BYTES + len(name) + _END
        payload = _payload(query[end:]) if more or end != len(query) else None
    except (dns.exception.DNSException, ValueError, struct.error):
        return None
    is_plain = (message.opcode() == dns.opcode.QUERY and not message.flags & dns.flags.QR
                and asked.rdclass == dns.rdataclass.IN and query[HEADER_BYTES:].startswith(name)
                and more == (end != len(query)) and len(asked.name.labels) <= LABELS_MAX)
    return _Query(message, payload) if is_plain else None


def _payload(record: bytes) -> int:
    """Return what EDNS0 says.  Errors: struct.error, ValueError: it is another record."""
    root, kind, payload, extended, length = _OPT.unpack_from(record)
    if root or kind != dns.rdatatype.OPT or extended >> 16 or _OPT.size + length != len(record):
        raise ValueError("not EDNS0")
    return int(payload)


def write_answer(query: bytes, reply: NameReply, *, udp: bool) -> bytes | None:
    """Return the answer to a query; None: the query cannot be read after all.

    udp: an answer that the asker cannot take as one datagram is cut, and says so.
    """
    if len(query) > QUERY_MAX:
        return None
    if len(reply.addresses) > KEPT_ADDRESSES_MAX:  # they hardly come in one order twice
        return _write_answer(query, reply, udp=udp)
    answer = _kept_answer(query[ID_BYTES:], reply, udp)
    return query[:ID_BYTES] + answer[ID_BYTES:] if answer is not None else None


@functools.lru_cache(KEPT_MAX)
def _kept_answer(query: bytes, reply: NameReply, udp: bool) -> bytes | None:
    """query: without its number."""
    return _write_answer(bytes(ID_BYTES) + query, reply, udp=udp)


def _write_answer(query: bytes, reply: NameReply, *, udp: bool) -> bytes | None:
    read = _read(query)
    if read is None:
        return None
    answer = _response(read)
    try:
        found = [_of_address(each) for each in reply.addresses] or [
            _of_name(each) for each in reply.names]
        if found:
            answer.answer.append(dns.rrset.from_rdata_list(
                read.message.question[0].name, TTL_S, found))
        try:
            return answer.to_wire(max_size=max(read.payload or 0, UDP_MAX) if udp else 65535)
        except dns.exception.TooBig:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            return answer.to_wire()
    except (dns.exception.DNSException, ValueError):
        return None


def _response(read: _Query) -> dns.message.Message:
    answer = dns.message.make_response(read.message, recursion_available=True)
    if read.payload is not None:
        answer.use_edns(0, payload=EDNS_PAYLOAD, request_payload=read.payload)
    return answer


@functools.lru_cache(KEPT_MAX)
def _of_address(address: IPv4Address | IPv6Address) -> dns.rdata.Rdata:
    kind = dns.rdatatype.A if address.version == 4 else dns.rdatatype.AAAA
    return dns.rdata.from_wire(dns.rdataclass.IN, kind, address.packed, 0, len(address.packed))


def _of_name(name: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.PTR, name)


def write_failure(query: bytes) -> bytes:
    """Return the answer "server failure" to a query (12 bytes or more), readable or not."""
    read = _read(query)
    if read is not None:
        answer = _response(read)
        answer.set_rcode(dns.rcode.SERVFAIL)
        return answer.to_wire()
    # QR and the query's opcode and RD; RA and SERVFAIL; no question, as none is readable.
    flags = bytes((0x80 | (query[2] & 0x79), 0x80 | dns.rcode.SERVFAIL))
    return query[:ID_BYTES] + flags + bytes(8)
