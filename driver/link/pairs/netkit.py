"""Owns how a netkit pair is asked for: pyroute2 does not know the kind yet.

netkit (Linux 6.7) is a pair as veth is, with a hook for a bpf program at each end: a packet can
be sent on from there, where a veth's would first wait in a queue for the other end's turn.
"""

from __future__ import annotations

from typing import Final

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from driver.link.netlink.sockets import Route

KIND: Final = "netkit"
_L2: Final = 0  # enum netkit_mode: with MAC addresses, as veth


class _Data(nla):  # type: ignore[misc]
    """enum in linux/if_link.h, from IFLA_NETKIT_UNSPEC on."""

    prefix = "IFLA_"
    nla_map = (
        ("IFLA_NETKIT_UNSPEC", "none"),
        ("IFLA_NETKIT_PEER_INFO", "peer"),
        ("IFLA_NETKIT_PRIMARY", "uint8"),
        ("IFLA_NETKIT_POLICY", "uint32"),
        ("IFLA_NETKIT_PEER_POLICY", "uint32"),
        ("IFLA_NETKIT_MODE", "uint32"),
    )

    @staticmethod
    def peer(_self: object, *_args: object, **_more: object) -> type:
        """A whole link message, without its netlink header."""
        return ifinfmsg.ifinfo.veth_data.info_peer(None)  # type: ignore[no-any-return]


ifinfmsg.ifinfo.register_link_kind(module={KIND: _Data})


def add(route: Route, name: str, peer: str, peer_mac: str, mtu: int) -> None:
    """Ask the kernel for a pair.  `mtu` in bytes, of both.

    Error: the kernel's; EOPNOTSUPP if it has no netkit.
    """
    end = [("IFLA_IFNAME", peer), ("IFLA_MTU", mtu), ("IFLA_ADDRESS", peer_mac)]
    data = [("IFLA_NETKIT_MODE", _L2), ("IFLA_NETKIT_PEER_INFO", {"attrs": end})]
    route.link("add", ifname=name, mtu=mtu, IFLA_LINKINFO={"attrs": [
        ("IFLA_INFO_KIND", KIND), ("IFLA_INFO_DATA", {"attrs": data})]})
