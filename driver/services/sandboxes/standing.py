"""Decides from its findings why a sandbox's new connections stay off the host path.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from driver.model import Endpoint, EndpointId, HostPath, Network
from driver.services.ports import Findings, Veth, Why

# These last as long as the namespace, as its keys and listeners may, too.
LASTING = frozenset({Why.KEYS, Why.LISTENER_GROUP, Why.BOUND_LISTENER, Why.IPV6_OPTIONS})
_BY_IPV6_ONLY = frozenset({Why.IPV6_OPTIONS})
# Findings that `on` overrules: whoever chooses it knows the container's rules.
_OVERRULED = frozenset({Why.OWN_RULES, Why.USER_STACK, Why.BOUND_LISTENER})
_MEANINGS = {
    Why.SWITCHED_OFF: "slim.host_path=off",
    Why.KEYS: "keys of TCP-MD5 or TCP-AO are for virtual addresses",
    Why.LISTENER_GROUP: "MPTCP with SO_REUSEPORT needs Linux 6.6",
    Why.BOUND_LISTENER: "a listener is bound to a device",
}


def choose(endpoint: Endpoint, network: Network | None) -> HostPath:
    """Return the user's choice for an endpoint; its own takes precedence over its network's."""
    if endpoint.host_path is not None:
        return endpoint.host_path
    return network.host_path if network is not None else HostPath.AUTO


@dataclass
class Standing:
    """One sandbox; guarded by its key's lock."""

    key: str
    cookie: int
    members: Sequence[tuple[Endpoint, Veth]]  # the first one carries the host path
    choices: dict[EndpointId, HostPath]
    label: HostPath | None = None  # of the container; overrides everything
    findings: Findings = field(default_factory=Findings)
    noted: frozenset[Why] = frozenset()  # the LASTING reasons that its programs have caused
    entered: Why | None = None  # the reason that the kernel was told last
    unsure: bool = False  # the kernel refused the last change
    told_ipv6: bool | None = None  # what the peers were told of `takes_ipv6`; None: not yet
    lost: int = 0  # how often rules or routes were removed recently
    lost_s: float = 0.0  # the last time of that
    looked_s: float = 0.0  # when it was last inspected
    look_s: float = 0.0  # how long that took

    @property
    def choice(self) -> HostPath:
        """The choice for the whole sandbox; endpoints that are off do not count, unless all are."""
        if self.label is not None:
            return self.label
        chosen = {self.choices[endpoint.id] for endpoint, _ in self.members} - {HostPath.OFF}
        if not chosen:
            return HostPath.OFF
        return HostPath.ON if chosen == {HostPath.ON} else HostPath.AUTO

    def uses_host_path(self, endpoint_id: EndpointId) -> bool:
        """Return whether this endpoint may use the host path if its sandbox does."""
        return self.label is not None or self.choices.get(endpoint_id) is not HostPath.OFF

    @property
    def has_ipv6(self) -> bool:
        """Whether any of its endpoints has an IPv6 address."""
        return any(endpoint.address6 is not None for endpoint, _ in self.members)

    @property
    def takes_ipv6(self) -> bool:
        """Whether its connections with IPv6 addresses use the host path, too, if others do."""
        return Why.IPV6_OPTIONS not in self.noted and not self.findings.lost_address6

    def counting(self, reasons: Collection[Why]) -> list[Why]:
        """Return the reasons that count for all connections; the first one is shown."""
        overruled = _OVERRULED if self.choice is HostPath.ON else frozenset()
        return [why for why in Why if why in reasons and why not in overruled | _BY_IPV6_ONLY]

    def reasons(self) -> list[Why]:
        """Return the reasons that apply now; the first one is shown."""
        found = {Why.SWITCHED_OFF: self.choice is HostPath.OFF,
                 Why.USER_STACK: bool(self.findings.lost_address),
                 Why.OWN_RULES: bool(self.findings.own_rules),
                 Why.ROUTING_LOST: bool(self.findings.missing)}
        return self.counting({why for why, applies in found.items() if applies} | self.noted)

    def explain(self, why: Why) -> str:
        """Describe the reason for people."""
        return f"{why} ({self.detail(why)})"

    def detail(self, why: Why) -> str:
        """Say what was found in this sandbox; "": nothing that the reason does not say."""
        found = {Why.USER_STACK: f"its interface has no address {self.findings.lost_address}: "
                                 "a stack in user space?",
                 Why.OWN_RULES: self.findings.own_rules or "its packet filter has changed",
                 Why.ROUTING_LOST: f"{self.findings.missing} was removed, and is put back"}
        return found.get(why) or _MEANINGS.get(why, "")
