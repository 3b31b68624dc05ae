"""Says which way a connection from a container of this host would take now, and why.

It asks the maps that the kernel asks, and the driver for what is behind their entries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from driver.errors import LinkError, NotFound
from driver.model import Endpoint, Vni
from driver.services.ports import Address, Attachment, Lookups, OpenSocket, Path, Sockets
from driver.services.seeing.questions import Asking, To, find_addresses, find_caller, parse
from driver.services.seeing.roster import Roster, Sources
from driver.services.seeing.ways import VERDICTS, Check, Facts, Judgement, judge
from driver.work.shown import some_of

_CONTAINER: Final = re.compile("(the|this) container")
WAYS_MAX: Final = 32  # addresses that one name may have, and tasks of a service


@dataclass(frozen=True)
class Inside:
    """What the driver knows beside the maps."""

    cookie: Callable[[str], int | None]  # of the namespace at a sandbox key; None: it is gone
    meanings: Mapping[str, str]  # of counters
    detail: Callable[[Endpoint, str], str]  # what in an endpoint's sandbox is behind a reason
    uses_host_path: Callable[[Endpoint], bool]  # was it switched off for the endpoint alone?
    trouble: Callable[[Address], str]  # why SYNs do not get through to a host


@dataclass(frozen=True)
class Way:
    """One way that a connection may take."""

    source: Address | None  # None: the container has no address in that network
    target: Address
    port: int  # 0: any
    service: Address | None  # that was asked for; `target` is a task of it
    network: str
    peer_name: str
    peer_host: str
    judgement: Judgement
    checks: tuple[Check, ...]  # those of the judgement, and others

    @property
    def verdict(self) -> str:
        """The way in a few words."""
        reason = self.judgement.reason
        because = f", because {reason.says}" if reason is not None else ""
        closed = any(each.reason == "no_listener" and each.good is False for each in self.checks)
        return VERDICTS[self.judgement.path] + because + (
            f"; but nothing listens at port {self.port} there" if closed else "")


@dataclass(frozen=True)
class Answer:
    """Every way, and all verdicts in short."""

    container: str
    verdict: str
    ways: tuple[Way, ...]


class Why:
    """The use case.  Thread-safe."""

    def __init__(self, sources: Sources, lookups: Lookups, sockets: Sockets, inside: Inside
                 ) -> None:
        self._sources = sources
        self._lookups = lookups
        self._sockets = sockets
        self._inside = inside

    def ask(self, container: str, target: str) -> Answer:
        """Return the way from a container to a container or an address, `:PORT` or not.

        Errors: InvalidArgument, NotFound, Conflict, LinkError, DatapathError.
        """
        name, port = parse(target)
        roster = Roster(self._sources)
        caller = find_caller(roster, container)
        cookie = self._inside.cookie(caller.sandbox_key)
        if cookie is None:
            raise NotFound(f"container {caller.name} is just going: it has no network any more")
        asking = Asking(roster, caller, self._lookups.attachments(cookie), cookie, port)
        ways: list[Way] = []
        for vni, address in find_addresses(asking, name)[:WAYS_MAX]:
            ways += self._ways(asking, vni, address)
        return Answer(caller.name, _in_short(ways), tuple(ways))

    def _ways(self, asking: Asking, vni: Vni | None, address: Address) -> list[Way]:
        to = To(vni, address)
        if vni is None:
            return [_way(asking, to, Facts(
                asking.caller.name, asking.roster.network_with(address), address, in_network=False,
                own_networks=asking.networks()))]
        tasks = self._lookups.tasks(vni, address) if isinstance(address, IPv4Address) else None
        if tasks is None:
            return [self._way(asking, vni, to)]
        there = [each for each in tasks if self._is_there(vni, each)]
        if not there:
            said = "no task of the service is there"
            check = Check("service", False, said, "service_empty", Path.NONE)
            return [_way(asking, to, Judgement(Path.NONE, check, (check,)))]
        return [self._way(asking, vni, To(vni, each, service=address))
                for each in there[:WAYS_MAX]]

    def _is_there(self, vni: Vni, address: IPv4Address) -> bool:
        at = self._lookups.location(vni, address)
        return at is not None and not self._lookups.is_dead(at.host)

    def _way(self, asking: Asking, vni: Vni, to: To) -> Way:
        return _way(asking, to, self._facts(asking, vni, to.address),
                    self._listener(asking, vni, to.address))

    def _facts(self, asking: Asking, vni: Vni, address: Address) -> Facts:
        roster, lookups = asking.roster, self._lookups
        at, own = lookups.location(vni, address), asking.attachment(vni)
        endpoint, caller = asking.endpoint(vni), asking.caller.name
        host = roster.host_name(at.host) if at is not None else ""
        here = lookups.is_here(vni, address) or (at is not None and roster.is_this_host(at.host))
        reason = lookups.withheld(asking.cookie) or ""
        ipv6_off, ipv6_off_because = self._ipv6_off(asking, own, address)
        peer = roster.name_at(vni, address)
        return Facts(
            caller, roster.network_name(vni), address,
            same_family=(endpoint.address if address.version == 4 else endpoint.address6)
            is not None,
            is_own=roster.resident_at(vni, address) is asking.caller,
            known=at is not None, here=here, host=host,
            dead=at is not None and lookups.is_dead(at.host), over_ipv6=roster.over_ipv6,
            finished=own is not None, unfinished=_unfinished(caller, endpoint),
            withheld=reason, withheld_because=self._because(caller, endpoint, reason),
            own_port=own.port if own is not None else 0,
            no_own_port=f"{caller} has no endpoint port in this network"
            if self._inside.uses_host_path(endpoint)
            else f"the host path is switched off for the endpoint of {caller} in this network",
            peer_port=at.port if at is not None else 0,
            ipv6_off=ipv6_off, ipv6_off_because=ipv6_off_because,
            blocked=self._blocked(at.host, host) if at is not None else "",
            share_used=lookups.share_used(asking.cookie),
            ask_there=f"`slim why {peer} {caller}`" if peer
            else "`slim status`, line `host path`,")

    def _because(self, caller: str, endpoint: Endpoint, reason: str) -> str:
        if not reason:
            return ""
        detail = self._inside.detail(endpoint, reason)
        return self._meaning(caller, reason) + (f" ({detail})" if detail else "")

    def _meaning(self, caller: str, reason: str) -> str:
        """Return what a reason means, with the container's name."""
        return _CONTAINER.sub(lambda _: caller, self._inside.meanings.get(reason, reason), count=1)

    def _blocked(self, host: Address, name: str) -> str:
        if not self._lookups.is_blocked(host):
            return ""
        trouble = self._inside.trouble(host)
        return f"SYNs of the host path do not get through to {name}" + (
            f": {trouble}" if trouble else "")

    def _ipv6_off(self, asking: Asking, own: Attachment | None, address: Address
                  ) -> tuple[str, str]:
        if address.version == 4:
            return "", ""
        caller = asking.caller.name
        if self._lookups.has_ipv6_options(asking.cookie):
            return "ipv6_options", self._meaning(caller, "ipv6_options")
        if own is None or own.address6 is None:
            return "overlay_only", (f"the IPv6 address of {caller} takes no part in the host path: "
                                    "is IPv6 switched off in it?")
        if not asking.roster.over_ipv6 and self._sockets.ipv6_only(asking.caller.sandbox_key):
            return "ipv6_only", (f"in {caller}, IPv6 sockets take no IPv4 unless a program asks "
                                 "for it (net.ipv6.bindv6only)")
        return "", ""

    def _listener(self, asking: Asking, vni: Vni, address: Address) -> tuple[Check, ...]:
        """Look whether anything listens at the port, if the peer is here."""
        if not asking.port:
            return ()
        peer = asking.roster.resident_at(vni, address)
        if peer is None:
            name = asking.roster.name_at(vni, address)
            there = f"`slim ss {name} --listening`" if name else "`slim ss --listening`"
            return (Check("listener", None, f"whether anything listens at port {asking.port} is "
                          f"known on that host only: {there}"),)
        found = False

        def take(listener: OpenSocket) -> bool:
            nonlocal found
            found = found or (listener.local_port == asking.port
                              and _takes(listener.local, address))
            return not found

        try:
            self._sockets.read(peer.sandbox_key, take, listening=True)
        except LinkError as error:
            return (Check("listener", None, str(error)),)
        says = "something listens" if found else "nothing listens"
        return (Check("listener", found, f"{says} at port {asking.port}", "no_listener"),)


def _way(asking: Asking, to: To, what: Facts | Judgement, more: tuple[Check, ...] = ()) -> Way:
    judgement = judge(what) if isinstance(what, Facts) else what
    roster, vni = asking.roster, to.vni
    own = asking.endpoint(vni) if vni is not None else None
    interface = None if own is None else own.address if to.address.version == 4 else own.address6
    more = more if judgement.path in (Path.HOST, Path.OVERLAY, Path.LOCAL) else ()
    return Way(interface.ip if interface is not None else None, to.address, asking.port,
               to.service, roster.network_name(vni) if vni is not None else "",
               roster.name_at(vni, to.address) if vni is not None else "", _host(what),
               judgement, judgement.checks + more)


def _host(what: Facts | Judgement) -> str:
    """Return where the target is, if that is known."""
    if isinstance(what, Judgement):
        return ""
    return what.host or ("this host" if what.here else "")


def _in_short(ways: Sequence[Way]) -> str:
    """Return the verdict if it is one; else each, with what it is about."""
    verdicts = list(dict.fromkeys(way.verdict for way in ways))
    if len(verdicts) == 1:
        return verdicts[0]
    by_verdict = {verdict: [way for way in ways if way.verdict == verdict]
                  for verdict in verdicts}
    return "; ".join(f"to {some_of([str(way.target) for way in found], ', ')}: {verdict}"
                     for verdict, found in by_verdict.items())


def _takes(bound: Address, called: Address) -> bool:
    """Return whether a listener with this address takes calls of that one."""
    return bound == called or (bound.is_unspecified and (
        bound.version in {called.version, 6}))


def _unfinished(caller: str, endpoint: Endpoint) -> str:
    if endpoint.address is None:
        return (f"{caller} has no IPv4 address in this network, and endpoint ports belong to "
                "these")
    return (f"the sandbox of {caller} is not set up for the host path: `slim status`, line "
            "`outstanding`, says why")
