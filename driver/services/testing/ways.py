"""Judges each way from one host to another by what the sender sent and the receiver heard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Final

from driver.model import HostId
from driver.services.ports import Heard, Participant, Sent
from driver.services.testing import plan
from driver.services.testing.fault import Fault, Kind, listed

FIREWALLS: Final = "docs/operations.md, Firewalls"


@dataclass(frozen=True)
class Way:
    """One way, and what was learnt of it at both ends."""

    sender: Participant
    receiver: Participant
    sent: Sent
    heard: Heard
    kinds: Mapping[Kind, str] = field(default_factory=dict)  # what is wrong -> details

    @property
    def ends(self) -> tuple[HostId, HostId]:
        """Return sender and receiver."""
        return self.sender.host, self.receiver.host


def judge(sender: Participant, receiver: Participant, sent: Sent, heard: Heard) -> Way:
    """Return the way with what is wrong with it; one cause hides what follows from it."""
    found: dict[Kind, str] = {}
    anything = heard.arrived or heard.whole or heard.syns or heard.stripped
    if not anything and sent.rtt_us < 0 and not sent.refused:
        return Way(sender, receiver, sent, heard, {Kind.CUT: ""})
    if heard.seen_as:
        found[Kind.NAT] = heard.seen_as
    found |= _overlay(sender, receiver, sent, heard)
    found |= _host_path(receiver, sent, heard)
    if sent.rtt_us < 0:
        found[Kind.PING] = ""
    return Way(sender, receiver, sent, heard, found)


def _overlay(sender: Participant, receiver: Participant, sent: Sent, heard: Heard
             ) -> dict[Kind, str]:
    if sent.refused:
        return {Kind.UDP_OUT: sent.refused}
    if sender.vxlan_port != receiver.vxlan_port:
        return {}  # said of the hosts
    sizes = set(plan.sizes(sender, receiver))
    if not heard.arrived and not heard.whole:
        return {Kind.UDP: ""}
    if heard.arrived and not heard.passed and not heard.damaged:
        return {Kind.UDP_IN: ""}
    found: dict[Kind, str] = {}
    if heard.damaged:
        found[Kind.DAMAGED] = listed(map(str, heard.damaged))
    lost = sizes - heard.passed - heard.damaged
    if heard.whole < plan.mtu(sender, receiver):
        found[Kind.MTU] = f"{heard.whole} {sent.told_mtu} {int(max(sizes) in lost)}"
    elif lost:
        found[Kind.UDP] = f" of {listed(map(str, lost))} bytes"
    return found


def _host_path(receiver: Participant, sent: Sent, heard: Heard) -> dict[Kind, str]:
    missing = set(receiver.ports) - heard.syns
    if sent.syns_refused:
        return {Kind.TCP: f"out {sent.syns_refused}"}
    if missing & heard.stripped:
        return {Kind.OPTION: ""}
    if missing:
        return {Kind.TCP: listed(map(str, missing))}
    return {Kind.PROBES: sent.trouble} if sent.trouble else {}


def faults(ways: Sequence[Way], name: Callable[[HostId], str]) -> list[Fault]:
    """Return the faults: one for all ways that the same cause spoils.

    name: what people call a host.
    """
    alike: dict[tuple[Kind, str], list[Way]] = {}
    for way in ways:
        for kind, details in way.kinds.items():
            alike.setdefault((kind, details), []).append(way)
    return [Fault(kind, _text(kind, details, group, name), tuple(way.ends for way in group))
            for (kind, details), spoilt in alike.items()
            for group in ([spoilt] if len(spoilt) == len(ways) else _groups(spoilt))]


def _groups(spoilt: Sequence[Way]) -> Iterator[list[Way]]:
    """Divide ways by the end that most of them have in common; it is where the cause will be."""
    left = list(spoilt)
    while left:
        ends = Counter(("to", way.receiver.host) for way in left)
        ends.update(("from", way.sender.host) for way in left)
        (side, host), _ = ends.most_common(1)[0]  # of equals the first: a receiver
        group: list[Way] = []
        rest: list[Way] = []
        for way in left:
            there = (way.receiver if side == "to" else way.sender).host == host
            (group if there else rest).append(way)
        yield group
        left = rest


def _text(kind: Kind, details: str, group: Sequence[Way], name: Callable[[HostId], str]) -> str:
    receiver = group[0].receiver
    froms = listed(name(way.sender.host) for way in group)
    to = listed(name(way.receiver.host) for way in group)
    port, ports = receiver.vxlan_port, "-".join(map(str, receiver.ports))
    over_ipv6 = receiver.underlay.version == 6
    tables = "ip6tables" if over_ipv6 else "iptables"
    icmp = "ICMPv6" if over_ipv6 else "ICMP"
    wanted = f"UDP {port}, TCP {ports} and {icmp}" if ports else f"UDP {port} and {icmp}"
    way = f"{froms} to {to}"
    if kind is Kind.UDP_OUT:
        return (f"{way}: {froms}'s own packet filter drops what it sends to UDP {port} "
                f"({details}): on {froms}, {tables} -I OUTPUT -p udp --dport {port} -j ACCEPT")
    if kind is Kind.MTU:
        return _mtu_text(details, group[0], way)
    if kind is Kind.TCP and details.startswith("out "):
        return (f"{way}: {froms}'s own packet filter drops SYNs to endpoint ports "
                f"({details[4:]}): on {froms}, {tables} -I OUTPUT -p tcp --dport "
                f"{ports.replace('-', ':')} -j ACCEPT")
    return {
        Kind.CUT: f"nothing gets from {way}: is the way cut, or does a firewall drop all?  "
                  f"Let {wanted} pass (docs/wire.md)",
        Kind.NAT: f"{way}: packets come from {details}, another address than the sender's: hosts "
                  "must reach each other without NAT",
        Kind.UDP: f"{way}: UDP {port}{details} does not arrive: let it pass on the network "
                  "between, security groups included (docs/wire.md)",
        Kind.UDP_IN: f"{way}: UDP {port} arrives and {to}'s own packet filter drops it: on {to}, "
                     f"{tables} -I INPUT -p udp --dport {port} -j ACCEPT",
        Kind.DAMAGED: f"{way}: packets of {details} bytes arrive changed: a defect of a network "
                      f"card, its driver or a middlebox; on {to}, try ethtool -K "
                      f"{quote(receiver.device)} gro off rx off, on the senders tx off",
        Kind.TCP: f"{way}: TCP SYNs with option 254 to endpoint ports {details} do not arrive: "
                  f"let TCP {ports} pass, option included; until then the overlay path is taken "
                  f"({FIREWALLS})",
        Kind.OPTION: f"{way}: a middlebox strips TCP option 254 from SYNs: have it let the option "
                     f"pass; until then the overlay path is taken ({FIREWALLS})",
        Kind.PROBES: f"{way}: SYNs arrive, but the driver's probes say: {details}: do answers "
                     f"(from TCP {ports}) get back?  ({FIREWALLS})",
        Kind.PING: f"{way}: no answer to pings: let {icmp} echo pass, by which a dead host is told "
                   "from one whose driver is stopped",
    }[kind]


def _mtu_text(details: str, way: Way, named: str) -> str:
    most, told, lost = map(int, details.split())
    devices = plan.mtu(way.sender, way.receiver)
    if not most:
        return (f"{named}: packets with \"don't fragment\" do not get through: TCP needs them; let "
                "them pass on the network between")
    said = (f"{named}: packets of more than {most} bytes do not get through, the devices say "
            f"{devices}")
    cure = f"ip link set {quote(way.sender.device)} mtu {most} on both, or mend the network"
    if way.sender.underlay.version == 6:  # which nobody fragments
        if told:
            return (f"{said}; a router tells so ({told}), and the driver follows, after the first "
                    f"packets are lost: {cure}")
        return (f"{said}, and no router tells so: large transfers hang.  {cure}, or let ICMPv6 "
                "\"packet too big\" pass")
    also = "; fragments are lost, too" if lost else ""
    if told:
        return f"{said}; a router tells so ({told}), which costs fragments: {cure}{also}"
    return (f"{said}, and no router tells so: large transfers hang.  {cure}, or let ICMP "
            f"\"fragmentation needed\" pass{also}")
