"""Parses and checks a network's driver options (`docker network create -o key=value`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from driver.errors import InvalidArgument
from driver.model import HostPath

PREFIX = "slim."  # ours: an unknown option with this prefix is a mistake
MTU = "com.docker.network.driver.mtu"  # the key that Docker's own drivers use
VIP = "slim.vip"  # on or off: do vips answer?
HOST_PATH = "slim.host_path"  # off, on or auto; the same word is an endpoint's option and a label
NAMES = "slim.names"  # on or off: are containers found by name from other hosts?
KNOWN = (MTU, VIP, HOST_PATH, NAMES)
# Other drivers' options that would otherwise be ignored silently.
MISLEADING = {
    "mtu": f"it is called {MTU}",
    "encrypted": "slim encrypts nothing; leave it out where the network between the hosts is "
                 "trusted, else encrypt in the programs (TLS)",
}

MTU_MIN = 576  # bytes; every IPv4 host must accept that much (RFC 791)
MTU6_MIN = 1280  # bytes; IPv6 does not work below (RFC 8200)
MTU_MAX = 65535  # bytes; the largest IP packet


@dataclass(frozen=True)
class NetworkOptions:
    """The user's choices for a network."""

    mtu: int = 0  # bytes, of the containers' interfaces; 0: the underlay's MTU
    vip: bool = True  # off: the user's own load balancer answers for vips
    host_path: HostPath = HostPath.AUTO
    names: bool = True  # off: Docker's own names only


def parse(options: Mapping[str, str], *, v6: bool = False) -> NetworkOptions:
    """Check our own options and the misleading ones; ignore all others.

    (Others include the daemon's defaults.)

    `v6`: the network has an IPv6 subnet, so a higher minimum MTU.
    Error: InvalidArgument, naming the option and the known ones.
    """
    for key in options:
        if key.startswith(PREFIX) and key not in KNOWN:
            raise InvalidArgument(f"unknown network option {key!r}; known: {', '.join(KNOWN)}")
        if key in MISLEADING:
            raise InvalidArgument(f"network option {key!r}: {MISLEADING[key]}")
    return NetworkOptions(
        mtu=_mtu(options.get(MTU, ""), v6), vip=_switch(options, VIP),
        host_path=host_path(options.get(HOST_PATH, HostPath.AUTO), "network option"),
        names=_switch(options, NAMES))


def _switch(options: Mapping[str, str], option: str) -> bool:
    chosen = options.get(option, "on")
    if chosen not in ("on", "off"):
        raise InvalidArgument(f"network option {option}={chosen!r}: want on or off")
    return chosen == "on"


def host_path(text: str, what: str) -> HostPath:
    """Parse a value of slim.host_path; `what` names its source.  Error: InvalidArgument."""
    try:
        return HostPath(text)
    except ValueError:
        raise InvalidArgument(f"{what} {HOST_PATH}={text!r}: want "
                              f"{', '.join(HostPath)}") from None


def _mtu(mtu: str, v6: bool) -> int:
    if not mtu:
        return 0
    low = MTU6_MIN if v6 else MTU_MIN
    if not (mtu.isascii() and mtu.isdigit() and len(mtu) <= 5 and low <= int(mtu) <= MTU_MAX):
        raise InvalidArgument(
            f"network option {MTU}={mtu!r}: want a number of bytes from {low} to {MTU_MAX}")
    return int(mtu)
