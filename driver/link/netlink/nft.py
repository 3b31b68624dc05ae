"""Builds nftables' netlink messages and the expressions of rules (family ip, see of_family).

nft_socket sends the messages.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Sequence
from typing import Any, Final

from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nft
from pyroute2.nftables.expressions import genex, verdict

from driver.model import HostAddress

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)  # NF_INET_...
EQUAL, UNEQUAL = 0, 1
REGISTER: Final = 1  # where a value is loaded and compared
FAMILIES: Final[dict[int, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}  # by IP's version
# The first of consecutive registers of four bytes each, for two addresses and a number that are
# concatenated.  They overlap REGISTER.
WORDS: Final[dict[int, tuple[int, int, int]]] = {
    socket.AF_INET: (8, 9, 10), socket.AF_INET6: (8, 12, 16)}

_SUBSYSTEM: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_REQUEST, _ACK, _DUMP, _CREATE, _APPEND = 0x1, 0x4, 0x300, 0x400, 0x800
_COMMENT: Final = 0  # NFTNL_UDATA_RULE_COMMENT, libnftnl's
_FLAGS: Final = {"new": _ACK | _CREATE | _APPEND, "del": _ACK, "get": _DUMP}
_META_IIF, _META_OIF, _META_L4PROTO = 4, 5, 16
_CT_STATUS: Final = 2
_CT_SRC_IP: Final[dict[int, int]] = {socket.AF_INET: 19, socket.AF_INET6: 21}
_CT_ORIGINAL: Final = 0  # direction
_CT_SOURCE_CHANGED: Final = 1 << 4  # IPS_SRC_NAT
_TCP_FLAGS, _SYN, _ACK_FLAG = 13, 0x02, 0x10  # offset in the header, bits
_SOURCE_NAT: Final = 0  # NFT_NAT_SNAT
_HEADER: Final = struct.Struct("=IH10x")  # struct nlmsghdr: length, type
_DROP: Final = 0  # NF_DROP
_NETWORK, _TRANSPORT = 1, 2  # bases of payload
# Offsets of source and destination in the IP header, and their bytes.
_ADDRESSES: Final[dict[int, tuple[int, int, int]]] = {
    socket.AF_INET: (12, 16, 4), socket.AF_INET6: (8, 24, 16)}

Message = Any  # pyroute2's
Expression = Any
Expressions = list[Expression]


# Expressions: load a value into the register, compare it.  Each docstring says what it loads or
# matches.
def load_source(into: int = REGISTER, family: int = socket.AF_INET) -> Expression:
    """The packet's source address."""
    source, _, length = _ADDRESSES[family]
    return _payload(_NETWORK, source, length, into)


def load_destination(into: int = REGISTER, family: int = socket.AF_INET) -> Expression:
    """The packet's destination address."""
    _, destination, length = _ADDRESSES[family]
    return _payload(_NETWORK, destination, length, into)


def load_destination_port(into: int = REGISTER) -> Expression:
    """The destination port of TCP or UDP."""
    return _payload(_TRANSPORT, 2, 2, into)


def load_first_source(into: int = REGISTER, family: int = socket.AF_INET) -> Expression:
    """The source address of the connection's first packet, before any NAT."""
    return genex("ct", {"key": _CT_SRC_IP[family], "direction": _CT_ORIGINAL, "dreg": into})


def equals(address: HostAddress) -> Expression:
    """The loaded value is this address."""
    return _compare(EQUAL, address.packed)


def interface(operator: int, ifindex: int) -> Expressions:
    """The interface the packet came in by."""
    return _device(_META_IIF, operator, ifindex)


def leaves_by(ifindex: int) -> Expressions:
    """The interface the packet goes out by."""
    return _device(_META_OIF, EQUAL, ifindex)


def protocol(number: int) -> Expressions:
    """The protocol that IP carries, by its number."""
    return [genex("meta", {"key": _META_L4PROTO, "dreg": REGISTER}),
            _compare(EQUAL, bytes([number]))]


def port(offset: int, number: int) -> Expressions:
    """A port of TCP or UDP.  offset: 0 for the source, 2 for the destination."""
    return [_payload(_TRANSPORT, offset, 2), _compare(EQUAL, struct.pack("!H", number))]


def ports(offset: int, first: int, last: int) -> Expressions:
    """Like `port`, for a range of ports, both ends inclusive."""
    return [_payload(_TRANSPORT, offset, 2),
            genex("range", {"sreg": REGISTER, "op": EQUAL,
                            "from_data": value(struct.pack("!H", first)),
                            "to_data": value(struct.pack("!H", last))})]


def opens_connection() -> Expressions:
    """A TCP segment with SYN and without ACK."""
    return [_payload(_TRANSPORT, _TCP_FLAGS, 1), *_masked(bytes([_SYN | _ACK_FLAG])),
            _compare(EQUAL, bytes([_SYN]))]


def source_changed() -> Expressions:
    """NAT has given the connection another source address or port."""
    return [genex("ct", {"key": _CT_STATUS, "dreg": REGISTER}),
            *_masked(struct.pack("=I", _CT_SOURCE_CHANGED)), _compare(UNEQUAL, bytes(4))]


def in_set(name: str, key: int = REGISTER) -> Expression:
    """The value that begins at register `key` is in the set."""
    return genex("lookup", {"set": name, "sreg": key})


def remember(name: str, key: int) -> Expression:
    """Add or refresh the value in the set.  If the set is full, the rule ends here."""
    return genex("dynset", {"set_name": name, "op": 1, "sreg_key": key})


def change_source(address: HostAddress, first: int, last: int) -> Expressions:
    """NAT to this address and to one of these ports; keeps the own port if it is one and is free.

    Only in a chain of kind "nat".
    """
    return [_immediate(2, address.packed), _immediate(3, struct.pack("!H", first)),
            _immediate(4, struct.pack("!H", last)),
            genex("nat", {"type": _SOURCE_NAT, "family": FAMILIES[address.version],
                          "reg_addr_min": 2,
                          "reg_proto_min": 3, "reg_proto_max": 4})]


def drop() -> Expressions:
    """Drop the packet."""
    return list(verdict(_DROP))


def value(raw: bytes) -> Any:
    """Bytes, in the form that rules and sets hold."""
    return {"attrs": [("NFTA_DATA_VALUE", raw)]}


def _device(key: int, operator: int, ifindex: int) -> Expressions:
    return [genex("meta", {"key": key, "dreg": REGISTER}),
            _compare(operator, struct.pack("=I", ifindex))]


def _payload(base: int, offset: int, length: int, into: int = REGISTER) -> Expression:
    return genex("payload", {"dreg": into, "base": base, "offset": offset, "len": length})


def _masked(mask: bytes) -> Expressions:
    return [genex("bitwise", {"sreg": REGISTER, "dreg": REGISTER, "len": len(mask),
                              "mask": value(mask), "xor": value(bytes(len(mask)))})]


def _immediate(register: int, raw: bytes) -> Expression:
    return genex("immediate", {"dreg": register, "data": value(raw)})


def _compare(operator: int, raw: bytes) -> Expression:
    return genex("cmp", {"sreg": REGISTER, "op": operator, "data": value(raw)})


# Messages.  Creating what exists is no error; deleting what is absent is one.
def table(verb: str, name: str) -> Message:
    """A table.  verb: new, or del (with everything in it)."""
    return message(nft.nft_table_msg, verb, "TABLE", [("NFTA_TABLE_NAME", name)])


def emptied(name: str) -> list[Message]:
    """Messages that leave the table existing and empty, whatever it was before."""
    # Add before deleting: the kernel refuses to delete an absent table.
    return [table("new", name), table("del", name), table("new", name)]


def chain(of: str, name: str, hook: int, priority: int, kind: str = "filter") -> Message:
    """A chain that sees the packets of a hook (PREROUTING, ...).

    kind: "filter", or "nat", which sees each connection's first packet only.
    """
    return message(nft.nft_chain_msg, "new", "CHAIN", [
        ("NFTA_CHAIN_TABLE", of), ("NFTA_CHAIN_NAME", name),
        ("NFTA_CHAIN_HOOK", {"attrs": [("NFTA_HOOK_HOOKNUM", hook),
                                       ("NFTA_HOOK_PRIORITY", priority)]}),
        ("NFTA_CHAIN_TYPE", kind)])


def new_set(of: str, name: str, number: int, *, key_type: int, key_length: int,
            flags: Collection[str] = (), more: Sequence[tuple[str, Any]] = ()) -> Message:
    """A set of the table.

    number: unique within a transaction.  key_type: nft's number, which only matters to what the nft
    command shows.  key_length: bytes.  more: further attributes.
    """
    return message(nft.nft_set_msg, "new", "SET", [
        ("NFTA_SET_TABLE", of), ("NFTA_SET_NAME", name), ("NFTA_SET_ID", number),
        ("NFTA_SET_FLAGS", set(flags)), ("NFTA_SET_KEY_TYPE", key_type),
        ("NFTA_SET_KEY_LEN", key_length), *more])


def rule(of: str, chain_name: str, expressions: Expressions, about: str = "") -> Message:
    """A rule, appended to the chain.  about: the comment that `nft list` shows."""
    note = [("NFTA_RULE_USERDATA", comment(about))] if about else []
    return message(nft.nft_rule_msg, "new", "RULE", [
        ("NFTA_RULE_TABLE", of), ("NFTA_RULE_CHAIN", chain_name),
        ("NFTA_RULE_EXPRESSIONS", expressions), *note])


def comment(text: str) -> bytes:
    """A comment, in the form that a rule holds."""
    return struct.pack("BB", _COMMENT, len(text) + 1) + text.encode() + b"\0"


def rules_of(table_name: str) -> Message:
    """A request for all rules of a table."""
    return message(nft.nft_rule_msg, "get", "RULE", [("NFTA_RULE_TABLE", table_name)])


def read_rules(answer: bytes) -> list[Message]:
    """Decode an answer to `rules_of`."""
    found, at = [], 0
    while at + _HEADER.size <= len(answer):
        length, kind = _HEADER.unpack_from(answer, at)
        if kind == _SUBSYSTEM | nft.NFT_MSG_NEWRULE:
            made = nft.nft_rule_msg(answer[at:at + length])
            made.decode()
            found.append(made)
        at += max((length + 3) & ~3, _HEADER.size)
    return found


def no_rules(of: str, chain_name: str) -> Message:
    """Delete all rules of the chain."""
    return message(nft.nft_rule_msg, "del", "RULE", [
        ("NFTA_RULE_TABLE", of), ("NFTA_RULE_CHAIN", chain_name)])


def message(kind: Any, verb: str, thing: str, attributes: list[Any]) -> Message:
    """One of nftsocket's messages.  verb: new, del, get (all).  thing: as in NFT_MSG_NEW..."""
    made = kind()
    made["attrs"] = attributes
    made["nfgen_family"] = socket.AF_INET
    made["header"]["type"] = _SUBSYSTEM | getattr(nft, f"NFT_MSG_{verb.upper()}{thing}")
    made["header"]["flags"] = _REQUEST | _FLAGS[verb]
    return made


def of_family(family: int, messages: Sequence[Message]) -> Sequence[Message]:
    """Make these messages about tables of another family; return them."""
    for each in messages:
        each["nfgen_family"] = family
    return messages


def bracket(kind: int) -> Message:
    """The message that begins or ends a transaction."""
    made = nfgen_msg()
    made["res_id"] = _SUBSYSTEM >> 8
    made["header"]["type"], made["header"]["flags"] = kind, _REQUEST
    return made
