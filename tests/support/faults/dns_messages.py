"""DNS messages that no honest program sends, and some that are merely unusual."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

HEADER = struct.Struct(">HHHHHH")  # number, flags, and how many: questions, answers, 2 x others
RD, QR = 0x0100, 0x8000
A, PTR, OPT, ANY, IN, CH = 1, 12, 41, 255, 1, 3
LARGEST = 65507  # bytes of a datagram
LONG_NAME = b"\1a" * 126 + b"\0"


def question(name: bytes = b"\3web\0", kind: int = A, rdclass: int = IN) -> bytes:
    return name + struct.pack(">HH", kind, rdclass)


def query(body: bytes = question(), *, flags: int = RD, number: int = 7,
          counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    """Return a header and what is behind it."""
    return HEADER.pack(number, flags, *counts) + body


def record(kind: int, data: bytes = b"", *, name: bytes = b"\0", rdclass: int = IN, ttl: int = 0,
           length: int | None = None) -> bytes:
    return name + struct.pack(">HHIH", kind, rdclass, ttl,
                              len(data) if length is None else length) + data


def pointer(at: int) -> bytes:
    return struct.pack(">H", 0xC000 | at)


NAMES = {
    "a loop": pointer(12), "a loop behind a label": b"\3web" + pointer(12),
    "two that point at each other": pointer(14) + pointer(12), "forward": pointer(40),
    "beyond the end": pointer(0x3FFF), "into the header": pointer(0),
    "254 bytes": (b"\x3e" + b"l" * 62) * 4 + b"\0", "255 bytes": LONG_NAME[2:] + b"\1a\0",
    "256 bytes": (b"\x3f" + b"l" * 63) * 4 + b"\0", "a label of 63": b"\x3f" + b"l" * 63 + b"\0",
    "a label of 64": b"\x40" + b"l" * 64 + b"\0", "of a kind that is no more": b"\x80web\0",
    "127 labels": LONG_NAME, "128 labels": b"\1a" + LONG_NAME, "no end": b"\3web",
    "a null byte": b"\3w\0b\0", "no text": b"\4\xff\xfe\x1b[\0", "a dot": b"\4w.eb\0",
    "the root": b"\0", "shorter than it says": b"\x3fweb"}
OPTS = {
    "a huge size": (65535, 0, b""), "no size": (0, 0, b""), "version 255": (1232, 255 << 16, b""),
    "all flags": (1232, 0xFFFFFFFF, b""), "an option that is cut": (1232, 0, b"\0\x0a\xff\xff"),
    "a wrong subnet": (1232, 0, struct.pack(">HHHBB", 8, 4, 9, 255, 255)),
    "text that is none": (1232, 0, struct.pack(">HH", 15, 3) + b"\0\0\xff"),
    "an empty cookie": (1232, 0, struct.pack(">HH", 10, 0)),
    "many options": (1232, 0, struct.pack(">HH", 65001, 0) * 200)}


def unusual() -> Iterator[tuple[str, bytes]]:
    """Yield each kind by name."""
    whole = query()
    for length in range(len(whole)):
        yield f"{length} bytes of a query", whole[:length]
    for name, wire in NAMES.items():
        yield f"name: {name}", query(question(wire))
        yield f"name of an address: {name}", query(question(wire, PTR))
    for count in (0, 2, 65535):
        yield f"{count} questions", query(counts=(count, 0, 0, 0))
        yield f"{count} answers", query(counts=(1, count, 0, 0))
        yield f"{count} more", query(counts=(1, 0, 0, count))
        yield f"{count} of everything", query(counts=(count,) * 4)
    yield "two questions", query(question() * 2, counts=(2, 0, 0, 0))
    yield "an answer", query(flags=QR | RD)
    for opcode in range(16):
        yield f"opcode {opcode}", query(flags=opcode << 11)
        yield f"opcode {opcode}, an answer with all flags", query(flags=opcode << 11 | 0x87FF)
    for kind in (0, ANY, 249, 250, 251, 252, OPT, 65535):
        for rdclass in (0, IN, CH, 254, ANY, 65535):
            yield f"kind {kind}, class {rdclass}", query(question(kind=kind, rdclass=rdclass))
    for name, (size, ttl, data) in OPTS.items():
        yield f"EDNS: {name}", query(question() + record(OPT, data, rdclass=size, ttl=ttl),
                                     counts=(1, 0, 0, 1))
    yield "EDNS twice", query(question() + record(OPT, rdclass=1232) * 2, counts=(1, 0, 0, 2))
    yield "EDNS with a name", query(question() + record(OPT, name=b"\1a\0"), counts=(1, 0, 0, 1))
    yield "EDNS as an answer", query(question() + record(OPT), counts=(1, 1, 0, 0))
    yield "TSIG", query(question() + record(250, (
        b"\x08hmac-md5\0" + bytes(6) + b"\0\x10" + bytes(16) + bytes(6)), rdclass=ANY),
        counts=(1, 0, 0, 1))
    yield "TSIG that is cut", query(question() + record(250, b"\1", rdclass=ANY),
                                    counts=(1, 0, 0, 1))
    yield "SIG(0)", query(question() + record(24, bytes(18) + b"\0" + bytes(64), rdclass=ANY),
                          counts=(1, 0, 0, 1))
    yield "a record that is longer than the message", query(question() + record(A, length=65535),
                                                            counts=(1, 0, 0, 1))


def costly(size: int = LARGEST) -> dict[str, bytes]:
    """Return messages for "web" or none that are as slow to read as their size allows."""
    ask, short = question(), struct.pack(">HH", A, IN)
    at = HEADER.size + len(ask)
    left = size - at

    def behind(*records: bytes, many: int) -> bytes:
        return query(ask + b"".join(records), counts=(1, 0, 0, many))

    questions = (size - HEADER.size - len(LONG_NAME) - 4) // 6
    kinds = (left - len(LONG_NAME) - 10) // 12
    tiny = left // 11
    options, strings = min(left - 11, 65535) // 4 * 4, min(left - 11, 65535)
    return {
        "questions with a long name": query(
            LONG_NAME + short + (pointer(HEADER.size) + short) * questions,
            counts=(questions + 1, 0, 0, 0)),
        "records with a long name": behind(
            record(1000, name=LONG_NAME), *(
                record(1001 + each, name=pointer(at)) for each in range(kinds)), many=kinds + 1),
        "records of other kinds": behind(
            *(record(1000 + each) for each in range(tiny)), many=tiny),
        "options": behind(record(OPT, struct.pack(">HH", 65001, 0) * (options // 4), rdclass=1232),
                          many=1),
        "strings": behind(record(16, bytes(strings)), many=1)}


def at_random(chance: random.Random, count: int) -> Iterator[bytes]:
    """Yield messages: of random bytes, or usual and unusual ones with some bytes changed."""
    known = [message for _, message in unusual() if len(message) >= HEADER.size]
    for _ in range(count):
        if chance.random() < 0.3:
            yield chance.randbytes(chance.choice((0, 1, 11, 12, 13, 40, 512, 1500)))
            continue
        made = bytearray(chance.choice(known))
        for _ in range(chance.randint(1, 4)):
            made[chance.randrange(len(made))] = chance.randrange(256)
        yield bytes(made + chance.randbytes(chance.choice((0, 0, 0, 1, 30))))
