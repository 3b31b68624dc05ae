"""A member's door with all that is behind it, on loopback: real TLS, etcd replaced by the fakes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partialmethod
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import pytest

from driver.api.door import DoorServer, create_door
from driver.cluster import tokens
from driver.cluster.authority import (
    HOST_PREFIX,
    Authority,
    Issued,
    Usage,
    fingerprint,
    new_authority,
)
from driver.cluster.door import visitor
from driver.cluster.door.enrolment import Enrolment
from driver.cluster.etcd import etcd_member
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import ClusterHost, Member, Role, client_url, peer_url
from driver.cluster.records import ClusterConfig, ClusterRecords, JoinSecret
from driver.errors import StoreUnavailable
from tests.support.fakes.kv import FakeKeyValue
from tests.unit.cluster.world import FakeEtcd

HERE = "127.0.0.1"
NOW_S = 1_700_000_000.0
HOUR_S = 3600.0
SECRET = b"the secret of 16"


class FakeMembers(FakeEtcd):
    """With users."""

    def __init__(self) -> None:
        super().__init__()
        self.users: set[str] = set()
        self.refuses_users = False

    def add_user(self, host: str) -> None:
        if self.refuses_users:
            raise StoreUnavailable("etcd is away (fake)")
        self.users.add(host)

    def remove_user(self, host: str) -> None:
        if self.refuses_users:
            raise StoreUnavailable("etcd is away (fake)")
        self.users.discard(host)


@dataclass
class House:
    """The member `one`, whose address is HERE."""

    path: Path
    authority: Authority = field(default_factory=lambda: new_authority("test"))
    kv: FakeKeyValue = field(default_factory=FakeKeyValue)
    members: FakeMembers = field(default_factory=FakeMembers)
    now_s: float = NOW_S

    def __post_init__(self) -> None:
        self.folder = ClusterFolder(self.path / "one")
        self.me = Identity("c" * 32, "test", 1, "1" * 32, "one", HERE, complete=True)
        self.folder.write("ca.crt", self.authority.certificate)
        self.folder.write("ca.key", self.authority.key)
        etcd_member.issue_files(self.folder, self.authority, HERE, HOUR_S)
        self.folder.put_identity(self.me)
        self.records = ClusterRecords(self.kv)
        self.records.put_config(ClusterConfig("c" * 32, "test", certificate_s=HOUR_S))
        self.records.put_secret(JoinSecret(SECRET, NOW_S + HOUR_S, (tokens.name_of(b"o" * 16),)))
        self.enter(ClusterHost("1" * 32, "one", HERE, 1.0, Role.MEMBER))
        self.members.listed = [Member(7, "1" * 32, (peer_url(HERE),), (client_url(HERE),))]
        self.members.running = {7}
        self.enrolment = Enrolment(self.folder, self.me, self.records,
                                   self.members,  # type: ignore[arg-type]
                                   lambda: self.now_s)

    def enter(self, host: ClusterHost) -> ClusterHost:
        self.records.change_host(host.id, lambda _: host)
        return host

    def token(self, secret: bytes = SECRET) -> tokens.Token:
        return tokens.Token(fingerprint(self.authority.certificate), secret)

    def visitor_folder(self, host_id: str, issued: Issued | None = None) -> ClusterFolder:
        """The folder of another host, with its certificate, or with the one that is given."""
        folder = ClusterFolder(self.path / f"of-{len(list(self.path.iterdir()))}")
        folder.write("ca.crt", self.authority.certificate)
        folder.put_issued("host", issued or self.authority.issue(
            HOST_PREFIX + host_id, Usage.CLIENT, seconds=HOUR_S))
        folder.put_lines("endpoints", (client_url(HERE),))
        folder.put_lines("hosts", (HERE,))
        folder.put_identity(replace(self.me, host=host_id, name="two"))
        return folder

    @contextmanager
    def opened(self, patch: pytest.MonkeyPatch,
               clock: Callable[[], float] = time.monotonic) -> Iterator[DoorServer]:
        """The door, and visitors that find it."""
        patch.setattr(DoorServer, "serve_forever", partialmethod(
            WSGIServer.serve_forever, poll_interval=0.02))  # stops sooner
        server = DoorServer(create_door(self.enrolment), HERE, 0, self.folder.path, clock)
        patch.setattr(visitor, "DOOR_PORT", server.server_port)
        server.start()
        try:
            yield server
        finally:
            server.stop()

    def state(self) -> object:
        """All that a refusal must not change."""
        return ({key: entry.value for key, (entry, _) in self.kv.store.entries.items()},
                set(self.members.users), list(self.members.listed),
                {path: path.read_bytes() for path in self.path.rglob("*") if path.is_file()})
