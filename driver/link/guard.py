"""Owns the guard: nftables' table `slim`, which drops what others forward in this host's name.

Masquerading gives a bridge network's packets the host's address, and with it the host's word for
who is calling.  It must not know who the peers are; packets of the host path never come by here.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nft
from pyroute2.nftables.expressions import genex, verdict
from pyroute2.nftables.main import NFTables

from driver.errors import LinkError
from driver.link.names import GUARD_SET, GUARD_TABLE

_SUBSYSTEM: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_...
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_INPUT, _FORWARD, _POSTROUTING = 1, 2, 4  # NF_INET_...
# Before other tables' filters, and behind their source NAT (100): the port may be its choice.
_BEFORE_FILTERS, _BEHIND_NAT = -10, 300
_IPV4_ADDRESS = 7  # nft's number of the type, which only its command shows
_EQUAL, _UNEQUAL = 0, 1
_META_IIF, _META_L4PROTO = 4, 16
_NETWORK, _TRANSPORT = 1, 2  # bases of payload
_DROP = 0
_REGISTER = 1

Message = Any  # pyroute2's
Expressions = list[Any]


@dataclass(frozen=True)
class Guarded:
    """What is protected on this host."""

    underlay_ifindex: int
    vxlan_port: int  # UDP
    port_first: int  # endpoint ports, TCP, both inclusive
    port_last: int


class KernelGuard:
    """services.guarding.Guard in the kernel's packet filter.  Stateless; safe in any thread."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded

    def install(self, hosts: Collection[IPv4Address]) -> None:
        """See guarding.Guard.  One transaction: at no moment is there no table."""
        # Adding before deleting: deleting what is not there would be refused.
        messages = [_table("new"), _table("del"), _table("new"), _set()]
        rules = _rules(self._guarded)
        for chain, hook, priority in _CHAINS:
            messages.append(_chain(chain, hook, priority))
            messages += [_rule(chain, expressions) for expressions in rules[chain]]
        if hosts:
            messages.append(_elements("new", hosts))
        _commit(messages, "install the guard (nftables table slim)")

    def change(self, added: Collection[IPv4Address], removed: Collection[IPv4Address]) -> None:
        """See guarding.Guard."""
        messages = [_elements(verb, hosts) for verb, hosts in (("new", added), ("del", removed))
                    if hosts]
        if messages:
            _commit(messages, "change the guard's hosts")

    def dropped(self) -> int | None:
        """See guarding.Guard."""
        with _open("read the guard") as socket_:
            counts = [_count(rule) for rule in socket_.get_rules()
                      if rule.get_attr("NFTA_RULE_TABLE") == GUARD_TABLE]
        return sum(counts) if len(counts) == _RULES else None


def packet_filter_works() -> None:
    """Ask the kernel for its tables.  Error: LinkError, saying what is missing."""
    with _open("the guard needs the packet filter nf_tables") as socket_:
        socket_.get_tables()


def remove_guard() -> None:
    """Remove the table.  None there: nothing to do.  Error: LinkError."""
    _commit([_table("new"), _table("del")], "remove the guard")


_CHAINS: Final = (("input", _INPUT, _BEFORE_FILTERS), ("forward", _FORWARD, _BEFORE_FILTERS),
                  ("postrouting", _POSTROUTING, _BEHIND_NAT))
_RULES: Final = 4


def _rules(guarded: Guarded) -> dict[str, list[Expressions]]:
    to_peer = [_payload(_NETWORK, 16, 4), genex("lookup", {"set": GUARD_SET, "sreg": _REGISTER})]
    vxlan = [*_protocol(socket.IPPROTO_UDP), *_port(2, guarded.vxlan_port)]
    ports = guarded.port_first, guarded.port_last
    return {
        # Whoever can send with a peer's source address to one of the host's other interfaces.
        "input": [[*_interface(_UNEQUAL, guarded.underlay_ifindex), *vxlan, *_drop()]],
        "forward": [
            [*to_peer, *vxlan, *_drop()],
            [*to_peer, *_protocol(socket.IPPROTO_TCP), *_ports(2, *ports), *_drop()]],
        # What this host sends itself came in by no interface.
        "postrouting": [[*_interface(_UNEQUAL, 0), *to_peer, *_protocol(socket.IPPROTO_TCP),
                         *_ports(0, *ports), *_drop()]],
    }


# Expressions: load a value into the register, compare it.
def _payload(base: int, offset: int, length: int) -> Any:
    return genex("payload", {"dreg": _REGISTER, "base": base, "offset": offset, "len": length})


def _compare(operator: int, value: bytes) -> Any:
    return genex("cmp", {"sreg": _REGISTER, "op": operator, "data": _value(value)})


def _value(value: bytes) -> Any:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _interface(operator: int, ifindex: int) -> Expressions:
    return [genex("meta", {"key": _META_IIF, "dreg": _REGISTER}),
            _compare(operator, struct.pack("=I", ifindex))]


def _protocol(number: int) -> Expressions:
    return [genex("meta", {"key": _META_L4PROTO, "dreg": _REGISTER}),
            _compare(_EQUAL, bytes([number]))]


def _port(offset: int, port: int) -> Expressions:
    return [_payload(_TRANSPORT, offset, 2), _compare(_EQUAL, struct.pack("!H", port))]


def _ports(offset: int, first: int, last: int) -> Expressions:
    return [_payload(_TRANSPORT, offset, 2),
            genex("range", {"sreg": _REGISTER, "op": _EQUAL,
                            "from_data": _value(struct.pack("!H", first)),
                            "to_data": _value(struct.pack("!H", last))})]


def _drop() -> Expressions:
    return [genex("counter", {}), *verdict(_DROP)]


def _count(rule: Message) -> int:
    for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        if expression.get_attr("NFTA_EXPR_NAME") == "counter":
            return int(expression.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS"))
    return 0


# Messages.
def _table(verb: str) -> Message:
    return _message(nft.nft_table_msg, verb, "TABLE", [("NFTA_TABLE_NAME", GUARD_TABLE)])


def _set() -> Message:
    return _message(nft.nft_set_msg, "new", "SET", [
        ("NFTA_SET_TABLE", GUARD_TABLE), ("NFTA_SET_NAME", GUARD_SET), ("NFTA_SET_ID", 1),
        ("NFTA_SET_FLAGS", set()), ("NFTA_SET_KEY_TYPE", _IPV4_ADDRESS), ("NFTA_SET_KEY_LEN", 4)])


def _elements(verb: str, hosts: Collection[IPv4Address]) -> Message:
    return _message(nft.nft_set_elem_list_msg, verb, "SETELEM", [
        ("NFTA_SET_ELEM_LIST_TABLE", GUARD_TABLE), ("NFTA_SET_ELEM_LIST_SET", GUARD_SET),
        ("NFTA_SET_ELEM_LIST_ELEMENTS",
         [{"attrs": [("NFTA_SET_ELEM_KEY", _value(host.packed))]} for host in hosts])])


def _chain(name: str, hook: int, priority: int) -> Message:
    return _message(nft.nft_chain_msg, "new", "CHAIN", [
        ("NFTA_CHAIN_TABLE", GUARD_TABLE), ("NFTA_CHAIN_NAME", name),
        ("NFTA_CHAIN_HOOK", {"attrs": [("NFTA_HOOK_HOOKNUM", hook),
                                       ("NFTA_HOOK_PRIORITY", priority)]}),
        ("NFTA_CHAIN_TYPE", "filter")])


def _rule(chain: str, expressions: Expressions) -> Message:
    return _message(nft.nft_rule_msg, "new", "RULE", [
        ("NFTA_RULE_TABLE", GUARD_TABLE), ("NFTA_RULE_CHAIN", chain),
        ("NFTA_RULE_EXPRESSIONS", expressions)])


def _message(kind: Any, verb: str, thing: str, attributes: list[Any]) -> Message:
    message = kind()
    message["attrs"] = attributes
    message["nfgen_family"] = socket.AF_INET
    message["header"]["type"] = _SUBSYSTEM | getattr(nft, f"NFT_MSG_{verb.upper()}{thing}")
    new = _CREATE | _APPEND if verb == "new" else 0
    message["header"]["flags"] = _REQUEST | _ACK | new
    return message


def _bracket(kind: int) -> Message:
    message = nfgen_msg()
    message["res_id"] = _SUBSYSTEM >> 8
    message["header"]["type"], message["header"]["flags"] = kind, _REQUEST
    return message


def _commit(messages: list[Message], what: str) -> None:
    """All of them or none."""
    with _open(what) as socket_:
        socket_.nlm_request_batch([_bracket(_BEGIN), *messages, _bracket(_END)])


@contextmanager
def _open(what: str) -> Iterator[Any]:
    try:
        with NFTables(nfgen_family=socket.AF_INET) as socket_:
            yield socket_
    except NetlinkError as error:
        raise LinkError(f"{what}: {error.args[1]} (errno {error.code})") from error
    except OSError as error:
        hint = "; this kernel lacks nf_tables" if error.errno == errno.EPROTONOSUPPORT else ""
        raise LinkError(f"{what}: {error}{hint}") from error
