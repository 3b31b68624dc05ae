"""Decides who may have the page: which Host header is meant for it, and who has its token.

A page of another site that has its own name resolve to this address (DNS rebinding) is told by the
Host header, which then has that name: here it has to be an address, or localhost.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from typing import Final

TOKEN_BYTES: Final = 24


class Guard:
    """Knows the token of one address and port, if they need one."""

    def __init__(self, host: str, port: int, token: str | None = None) -> None:
        """host: an IP address; any but a loopback address needs a token.

        token: None: a random one, if one is needed.
        """
        self.needs_token: Final = not ipaddress.ip_address(host).is_loopback
        self.token: Final = (token or secrets.token_urlsafe(TOKEN_BYTES)
                             ) if self.needs_token else ""
        # Cookies are shared by all ports of a host.
        self.cookie: Final = f"slim-ui-{port}"

    def knows(self, token: str | None) -> bool:
        """Say whether somebody who shows `token` may see the cluster; None: shows none."""
        if not self.needs_token:
            return True
        # Foreign text may have characters that compare_digest takes as bytes only.
        return hmac.compare_digest((token or "").encode(errors="replace"), self.token.encode())


def is_meant(header: str | None) -> bool:
    """Say whether a Host header names an address, or localhost, and no other name."""
    name = header or ""
    if name.startswith("["):
        name, bracket, port = name[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return False
        port = port[1:]
    else:
        name, _, port = name.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
