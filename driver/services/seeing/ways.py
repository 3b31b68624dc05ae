"""Judges which way a connection takes, from what the kernel's maps say at one moment.

Pure.  The order is that of kernel/connect.c: its first reason is the one that is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from driver.services.ports import Address, Path
from driver.services.seeing.remedies import REMEDIES


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    good: bool | None  # None: it is not known here
    says: str
    reason: str = ""  # the counter that such a connection adds to
    stops: Path | None = None  # the way that is left if this is not good; None: it changes none

    @property
    def remedy(self) -> str:
        """What to do about it; "" if there is nothing to say."""
        return "" if self.good is not False else REMEDIES.get(self.reason, "")


@dataclass(frozen=True)
class Facts:
    """What is known of one way, from an endpoint to an address."""

    caller: str  # the container's name
    network: str  # in which the target is; "": none of slim's
    target: Address
    same_family: bool = True  # the container has an address of that family there
    is_own: bool = False  # the container calls itself
    in_network: bool = True  # the container is in that network, too
    own_networks: str = ""  # those that it is in, if not
    known: bool = True  # the directory has the address
    here: bool = False  # it is on this host
    host: str = ""  # whose it is, for people
    dead: bool = False
    over_ipv6: bool = False  # the underlay has IPv6
    finished: bool = True  # this sandbox is known to the connect hooks, with that network
    unfinished: str = ""  # why not, as far as is known
    withheld: str = ""  # reason
    withheld_because: str = ""
    own_port: int = 0
    no_own_port: str = ""  # why not
    peer_port: int = 0
    ipv6_off: str = ""  # reason that keeps the container's IPv6 off
    ipv6_off_because: str = ""
    blocked: str = ""  # why SYNs do not get through
    share_used: bool = False
    ask_there: str = ""  # what to type on the peer's host


@dataclass(frozen=True)
class Judgement:
    """The way, and all that was looked at."""

    path: Path
    reason: Check | None  # the first that speaks against the host path
    checks: tuple[Check, ...]


VERDICTS: Final = {
    Path.HOST: "host path",
    Path.OVERLAY: "overlay path",
    Path.LOCAL: "directly, on this host",
    Path.NONE: "not at all",
    Path.OUTSIDE: "outside slim's networks",
}


def judge(facts: Facts) -> Judgement:
    """Return the way of an ordinary socket: bound to nothing, and no MPTCP."""
    checks = _checks(facts)
    reason = next((each for each in checks if each.good is False and each.stops), None)
    if reason is not None and reason.stops is not None:
        return Judgement(reason.stops, reason, checks)
    is_direct = facts.here or facts.is_own
    return Judgement(Path.LOCAL if is_direct else Path.HOST, None, checks)


def _checks(facts: Facts) -> tuple[Check, ...]:
    network = _network(facts)
    if not network.good:
        return (network,)
    peer = _peer(facts)
    if not peer.good or facts.is_own or facts.here:
        return (network, peer)
    if facts.over_ipv6 and facts.target.version == 4:
        return (network, peer, _host(facts), Check(
            "underlay", False, "the underlay is IPv6: connections to IPv4 addresses cannot become "
            "ones of IPv6", "ipv6_underlay", Path.OVERLAY))
    return (network, peer, _host(facts), *_client(facts), _offer(facts), *_ipv6(facts),
            _wire(facts), _share(facts))


def _network(facts: Facts) -> Check:
    if not facts.in_network and facts.network:
        return Check("network", False, f"there is no network in common: {facts.target} is in "
                     f"{facts.network}, {facts.caller} in {facts.own_networks} (see `docker "
                     "network connect`)", "", Path.NONE)
    if not facts.in_network:
        return Check("network", False, f"{facts.target} is in no slim network of this host: such "
                     f"packets leave by the gateway of {facts.caller}, if it has one", "",
                     Path.OUTSIDE)
    if not facts.same_family:
        return Check("network", False, f"in {facts.network}, {facts.caller} has no "
                     f"IPv{facts.target.version} address", "", Path.NONE)
    return Check("network", True, f"in common: {facts.network}")


def _peer(facts: Facts) -> Check:
    if facts.is_own:
        return Check("peer", True, f"{facts.target} is its own address: such packets never "
                     "leave it")
    if facts.here:
        return Check("peer", True, f"{facts.target} is on this host: there is no wire between "
                     "the two")
    if not facts.known:
        return Check("peer", False, f"nobody is known to have {facts.target}", "unknown_peer",
                     Path.NONE)
    return Check("peer", True, f"{facts.target} is known, on {facts.host}")


def _host(facts: Facts) -> Check:
    if facts.dead:
        return Check("host", False, f"{facts.host} is gone", "host_dead", Path.NONE)
    return Check("host", True, f"{facts.host} does not count as gone")


def _client(facts: Facts) -> tuple[Check, ...]:
    if not facts.finished:
        return (Check("client", False, facts.unfinished, "overlay_only", Path.OVERLAY),)
    if facts.withheld:
        found = Check("client", False, facts.withheld_because, facts.withheld, Path.OVERLAY)
    else:
        found = Check("client", True, f"nothing in {facts.caller} speaks against the host path")
    if facts.own_port:
        return (found, Check("own port", True,
                             f"{facts.caller} has endpoint port {facts.own_port}"))
    return (found, Check("own port", False, facts.no_own_port, "overlay_only", Path.OVERLAY))


def _offer(facts: Facts) -> Check:
    if facts.peer_port:
        return Check("server", True, f"{facts.host} offers endpoint port {facts.peer_port} for it")
    what = f"for {facts.target}" + ("" if facts.target.version == 6 else " at the moment")
    return Check("server", False, f"{facts.host} offers no host path {what}: there, "
                 f"{facts.ask_there} says why", "overlay_only", Path.OVERLAY)


def _ipv6(facts: Facts) -> tuple[Check, ...]:
    if facts.target.version == 4:
        return ()
    if facts.ipv6_off:
        return (Check("IPv6", False, facts.ipv6_off_because, facts.ipv6_off, Path.OVERLAY),)
    return (Check("IPv6", True, f"IPv6 connections of {facts.caller} take the host path, too"),)


def _wire(facts: Facts) -> Check:
    if facts.blocked:
        return Check("wire", False, facts.blocked, "peer_blocked", Path.OVERLAY)
    return Check("wire", True, f"SYNs to {facts.host} are not known to fail")


def _share(facts: Facts) -> Check:
    if facts.share_used:
        return Check("share", False, f"{facts.caller} has its share of this host's connections "
                     "open", "share_used", Path.OVERLAY)
    return Check("share", True, f"there is room for connections of {facts.caller}")
