"""Notices when the container's end of a slim pair comes up or goes away.

dockerd moves the container's end, renames and addresses it while it is down, and brings it up last.
Only then does the host's end have carrier and a peer in another namespace (IFLA_LINK_NETNSID).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

from driver.link.netlink.monitor import Monitor
from driver.link.netlink.names import is_host_name
from driver.link.netlink.news import LinkNews
from driver.link.netlink.sockets import Route, dump

_RTMGRP_LINK: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000

HostEndCallback = Callable[[str, int], None]  # name and ifindex of the host's end


class CarrierMonitor:
    """Reports each pair once when it comes up, and once when it goes down or is removed."""

    def __init__(self, on_up: HostEndCallback, on_down: HostEndCallback) -> None:
        """Both callbacks run in the monitor's thread, one at a time, and must be quick."""
        self._on_up = on_up
        self._on_down = on_down
        self._up: dict[int, str] = {}  # by ifindex
        self._monitor = Monitor("veth carrier", _RTMGRP_LINK, self)

    def start(self) -> None:
        """Start; pairs that are already up are reported first.  Error: LinkError."""
        self._monitor.start()

    def stop(self) -> None:
        """Stop; nothing is reported afterwards."""
        self._monitor.stop()

    def resync(self, route: Route) -> None:
        """See monitor.Listener."""
        links = [LinkNews.of_dump(link) for link in dump(route, "get_links")]
        present = {link.ifindex for link in links}
        for ifindex in self._up.keys() - present:
            self._set_down(ifindex)
        for link in links:
            self._look_at(link)

    def changed(self, messages: Sequence[LinkNews]) -> None:
        """See monitor.Listener."""
        for news in messages:
            if not news.gone:
                self._look_at(news)
            elif news.family == socket.AF_UNSPEC:
                self._set_down(news.ifindex)

    def _look_at(self, link: LinkNews) -> None:
        if not is_host_name(link.name):
            return
        if not link.flags & _IFF_LOWER_UP or not link.peer_elsewhere:
            self._set_down(link.ifindex)
        elif link.ifindex not in self._up:
            self._up[link.ifindex] = link.name
            self._on_up(link.name, link.ifindex)

    def _set_down(self, ifindex: int) -> None:
        name = self._up.pop(ifindex, None)
        if name is not None:
            self._on_down(name, ifindex)
