"""Lists what routers have said of the MTU towards other machines, by IPv6 ("packet too big").

The kernel keeps it for ten minutes, but the VXLAN device asks nobody: it sends what is too long.
"""

from __future__ import annotations

import socket
from ipaddress import IPv6Address
from typing import Final

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from driver.link.netlink.sockets import dump, open_route, step
from driver.model import HostAddress

_CLONED: Final = 0x200  # RTM_F_CLONED: such entries only, of which there are few
_GET_ROUTE: Final = 26  # RTM_GETROUTE
_REQUEST, _DUMP = 0x1, 0x300  # NLM_F_...
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12  # else all routes are listed


def path_mtus() -> dict[HostAddress, int]:
    """Return the MTU in bytes towards each machine for which a router has told one.

    Error: LinkError.
    """
    request = rtmsg()
    request["family"], request["flags"] = socket.AF_INET6, _CLONED
    with open_route() as route, step("read the MTUs that routers have told"):
        route.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        found = dump(route, "nlm_request", msg=request, msg_type=_GET_ROUTE,
                     msg_flags=_REQUEST | _DUMP)
        return {IPv6Address(each.get_attr("RTA_DST")): int(mtu) for each in found
                if each["dst_len"] == 128 and (metrics := each.get_attr("RTA_METRICS"))
                and (mtu := metrics.get_attr("RTAX_MTU"))}
