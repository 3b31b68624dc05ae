"""Says which packets are sent from one host to another; whoever judges asks the same here."""

from __future__ import annotations

from typing import Final

from driver.model import HostAddress
from driver.services.ports import Participant, Target

# Around a packet in the overlay: Ethernet 14 + VXLAN 8 + UDP 8, and IPv4 20 or IPv6 40.
OVERHEAD: Final = {4: 50, 6: 70}
SMALL, MIDDLE = 64, 1024  # of a packet in the overlay, bytes
# What real networks let through, bytes: jumbo frames, Ethernet, PPPoE, IP in IP, GRE, VXLAN,
# WireGuard, ... IPv4's least.
USUAL: Final = (9000, 8950, 8900, 8000, 4096, 2000, 1500, 1492, 1480, 1476, 1460, 1450, 1440, 1430,
                1420, 1400, 1380, 1350, 1300, 1280, 1200, 1000, 576)


def target(sender: Participant, receiver: Participant) -> Target:
    """Return what the sender sends the receiver."""
    return Target(receiver.underlay, receiver.vxlan_port, tuple(sorted(set(receiver.ports))),
                  sizes(sender, receiver), whole(sender, receiver))


def mtu(sender: Participant, receiver: Participant) -> int:
    """Return what both ends' devices take, bytes."""
    return min(sender.mtu, receiver.mtu)


def sizes(sender: Participant, receiver: Participant) -> tuple[int, ...]:
    """Return the sizes of packets in the overlay, the smallest first."""
    full = max(SMALL, mtu(sender, receiver) - OVERHEAD[sender.underlay.version])
    return tuple(sorted({SMALL, min(MIDDLE, full), full}))


def whole(sender: Participant, receiver: Participant) -> tuple[int, ...]:
    """Return the sizes of packets that nobody may fragment, the largest first."""
    full = max(SMALL + OVERHEAD[sender.underlay.version], mtu(sender, receiver))
    return (full, *(size for size in USUAL if size < full))


def apart(one: HostAddress, other: HostAddress) -> bool:
    """Tell whether hosts of these addresses do not reach each other by design: two families."""
    return one.version != other.version
