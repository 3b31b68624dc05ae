"""Asks a sandbox what its listening TCP sockets are tied to (sock_diag).

A listener can be bound to a device, or have TCP-MD5 keys.
"""

from __future__ import annotations

import socket

from pyroute2 import DiagSocket
from pyroute2.netlink import diag

from driver.link.netlink import netns
from driver.link.netlink.sockets import step
from driver.services.ports import Listeners

_WITH_INFO = 1 << 1  # INET_DIAG_INFO: the kernel reports keys along with it


def listeners(path: str) -> Listeners:
    """Read all listeners of the namespace at `path`, including MPTCP's (1 ms).

    Errors: NamespaceAbsent; LinkError, also where the kernel has no sock_diag for TCP.
    """
    return netns.run_in(path, _here)


def _here() -> Listeners:
    bound = keyed = False
    with step("list listening sockets"), DiagSocket() as asking:
        asking.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for found in asking.get_sock_stats(family=family, states=1 << diag.SS_LISTEN,
                                               extensions=_WITH_INFO):
                bound = bound or found["idiag_if"] != 0
                # Reported to whoever may configure the network; TCP-AO keys are reported to nobody.
                keyed = keyed or found.get_attr("INET_DIAG_MD5SIG") is not None
    return Listeners(bound=bound, keyed=keyed)
