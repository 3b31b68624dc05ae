"""Chooses the source ports of host-path connections, for both the driver and the doctor.

Pure arithmetic on port numbers; both ends of a range are inclusive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from driver.errors import SettingsError

Ports = tuple[int, int]  # first and last

# Linux's default ip_local_port_range, which every container's namespace starts with: a program in
# a container must expect a clash with any of these, so it listens elsewhere.
CONTAINERS_OWN: Ports = (32768, 60999)
PRIVILEGED = 1024  # ports below need a capability that the container may lack
# A port serves one connection to each remote endpoint, and connect() tries 16 ports: with half of
# 1024 in use, one connection in 65,536 finds none and takes the overlay path.  The host's own
# clients share these ports: with fewer, they would be the ones that fail.
ENOUGH = 1024


@dataclass(frozen=True)
class ClientPorts:
    """`count` ports from `first` on, skipping `gap` ports at `gap_first`."""

    first: int
    count: int
    gap_first: int = 65536
    gap: int = 0

    def all(self) -> tuple[int, ...]:
        """Return every port."""
        ports = range(self.first, self.first + self.count)
        return tuple(port if port < self.gap_first else port + self.gap for port in ports)

    def widest(self) -> Ports:
        """Return the longer span, for users that can name only one (NAT)."""
        return max(self._spans(), key=_size)

    def _spans(self) -> list[Ports]:
        last = self.first + self.count - 1
        if not self.gap:
            return [(self.first, last)]
        return [(self.first, self.gap_first - 1), (self.gap_first + self.gap, last + self.gap)]

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" for first, last in self._spans())


def client_ports(endpoints: Ports, ephemeral: Ports, reserved: Collection[int]) -> ClientPorts:
    """Choose source ports for connections on the host path, on either side of `endpoints`.

    ephemeral: the host's ip_local_port_range.  reserved: ports that others keep free on this host.
    Ports that containers expect are used if there are enough, else all that the host gives to
    clients.  Error: SettingsError, saying what to do.
    """
    free = set(range(max(ephemeral[0], PRIVILEGED), ephemeral[1] + 1)) - _all(endpoints)
    free -= set(reserved)
    count = 0
    for wanted in (free & _all(CONTAINERS_OWN), free):
        # Two spans: the extra comparison adds no cost to a connection.  The rest is too small.
        spans = sorted(sorted(_spans(wanted), key=_size)[-2:])
        count = sum(map(_size, spans))
        if count >= ENOUGH:
            (first, last), *more = spans
            if not more:
                return ClientPorts(first, count)
            return ClientPorts(first, count, last + 1, more[0][0] - last - 1)
    raise SettingsError(
        f"--port-range={_text(endpoints)} leaves {count} source ports to connections of this host "
        f"and its containers, {ENOUGH} are needed; they come from net.ipv4.ip_local_port_range "
        f"({_text(ephemeral)}) without net.ipv4.ip_local_reserved_ports: take a --port-range "
        "outside these, such as 61000-65535, or widen net.ipv4.ip_local_port_range")


def unreserved(endpoints: Ports, ephemeral: Ports, reserved: Collection[int]) -> str:
    """Say what to do if the kernel may give endpoint ports to the host's clients; "" if it cannot.

    reserved: all reserved ports, including ours.
    """
    meeting = _all(endpoints) & _all(ephemeral)
    if meeting <= set(reserved):
        return ""
    wanted = format_ports(meeting | set(reserved))
    return (f"the host's own clients may get ports of --port-range={_text(endpoints)} "
            f"(ip_local_port_range is {_text(ephemeral)}), and would hang: "
            f"sysctl -w net.ipv4.ip_local_reserved_ports={wanted}, or a --port-range outside it")


def parse_ports(text: str) -> set[int]:
    """Parse a list in ip_local_reserved_ports' form: "8080,61000-65535".  Error: ValueError."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= _all((int(first), int(last or first)))
    return found


def format_ports(ports: Collection[int]) -> str:
    """Format ports as `parse_ports` reads them."""
    return ",".join(map(_text, _spans(ports)))


def _all(ports: Ports) -> set[int]:
    return set(range(ports[0], ports[1] + 1))


def _spans(ports: Iterable[int]) -> list[Ports]:
    spans: list[Ports] = []
    for port in sorted(ports):
        if spans and port == spans[-1][1] + 1:
            spans[-1] = spans[-1][0], port
        else:
            spans.append((port, port))
    return spans


def _size(span: Ports) -> int:
    return span[1] - span[0] + 1


def _text(span: Ports) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"
