"""Renews this host's certificates when a third of their life is left; nothing has to restart.

etcd reads its files at each handshake, and so does the door; a driver's client reads them again
when a connection fails, and connections that are open stay so.  Keys stay, so that no moment has a
certificate without its key: `slim cluster join --again` makes a new one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from driver import __version__
from driver.cluster.authority import (
    HOST_PREFIX,
    Issued,
    Usage,
    Validity,
    new_request,
    validity,
)
from driver.cluster.door.visitor import ask_members
from driver.cluster.etcd import etcd_member
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import ClusterHost

MEMBER_CERTIFICATES = ("peer", "etcd", "root")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Renewal:
    """The certificates of one host."""

    folder: ClusterFolder
    me: Identity
    clock: Callable[[], float] = time.time  # Unix time

    def act(self, host: ClusterHost) -> None:
        """Renew this host's own, if it is due.  Error: SlimError (try again)."""
        if self._is_due("host") or host.version != __version__:
            self._renew_own()

    def act_alone(self) -> None:
        """Renew what a member signs itself, if it is due.  Error: SlimError (try again).

        etcd need not answer: after a long time switched off, it could not before that.
        """
        if not self.folder.is_member or not any(map(self._is_due, MEMBER_CERTIFICATES)):
            return
        old = self._validity("etcd")
        authority, seconds = self.folder.authority(), old.until_s - old.since_s
        if self._validity("host").until_s < self.clock():  # it opens no door any more
            self.folder.put_issued("host", authority.issue(
                HOST_PREFIX + self.me.host, Usage.CLIENT, seconds=seconds,
                key=self.folder.key("host")))
        etcd_member.issue_files(self.folder, authority, self.me.address, seconds)
        log.info("this member's certificates are renewed")

    def _is_due(self, name: str) -> bool:
        return self._validity(name).is_due(self.clock())

    def _validity(self, name: str) -> Validity:
        path = f"{name}.crt"
        return validity(self.folder.read(path), str(self.folder.path / path))

    def _renew_own(self) -> None:
        request, key = new_request(HOST_PREFIX + self.me.host, self.folder.key("host"))
        answer = ask_members(self.folder, self.me.address, "renew",
                             {"csr": request.decode(), "version": __version__})
        self.folder.put_issued("host", Issued(str(answer["certificate"]).encode(), key))
        log.info("this host's certificate is renewed")
