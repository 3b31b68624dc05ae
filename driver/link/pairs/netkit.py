"""Creates netkit pairs, a kind that pyroute2 does not know yet.

netkit (Linux 6.7) is a pair like veth, with a hook for a bpf program at each end: the hook can send
a packet on, where a veth's packet would first wait in a queue for the other end's turn.
"""

from __future__ import annotations

from typing import Final

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from driver.link.netlink.sockets import Route

KIND: Final = "netkit"
_L2: Final = 0  # enum netkit_mode: with MAC addresses, as veth


class _Data(nla):  # type: ignore[misc]
    """The enum in linux/if_link.h that begins with IFLA_NETKIT_UNSPEC."""

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
        """Decode a whole link message, without its netlink header."""
        return ifinfmsg.ifinfo.veth_data.info_peer(None)  # type: ignore[no-any-return]


ifinfmsg.ifinfo.register_link_kind(module={KIND: _Data})


def add(route: Route, name: str, peer: str, peer_mac: str, mtu: int) -> None:
    """Ask the kernel for a pair.  `mtu`: bytes, for both ends.

    Error: the kernel's; EOPNOTSUPP if it has no netkit.
    """
    end = [("IFLA_IFNAME", peer), ("IFLA_MTU", mtu), ("IFLA_ADDRESS", peer_mac)]
    data = [("IFLA_NETKIT_MODE", _L2), ("IFLA_NETKIT_PEER_INFO", {"attrs": end})]
    route.link("add", ifname=name, mtu=mtu, IFLA_LINKINFO={"attrs": [
        ("IFLA_INFO_KIND", KIND), ("IFLA_INFO_DATA", {"attrs": data})]})
