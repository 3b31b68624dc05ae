"""Manages etcd's members and users, as etcd's root: list, look after, add, promote, remove."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol

from driver.cluster.authority import HOST_PREFIX, ROOT_NAME
from driver.cluster.model import Member, MemberHealth, peer_url
from driver.cluster.programs import Etcdctl
from driver.errors import StoreUnavailable
from driver.store.etcd.connection import EtcdSettings
from driver.store.etcd.management import OneMember
from driver.store.format import keys

DRIVER_ROLE: Final = "slim"
DEFRAGMENT_S: Final = 60.0
PROMOTE_S: Final = 3.0


class Membership(Protocol):
    """What a decision on members needs to see and to do.  All methods: StoreUnavailable."""

    def list_members(self) -> tuple[Member, ...]:
        """Return the members, as the one asked first knows them."""

    def health(self, members: Iterable[Member]) -> dict[int, MemberHealth]:
        """Return what those of them that answer say of themselves, by their ids."""

    def add_learner(self, address: str) -> None:
        """Have etcd expect a member at a host's address; it has no vote yet."""

    def promote(self, member: int) -> None:
        """Give a learner its vote; refused while it is not in step."""

    def remove(self, member: int) -> None:
        """Take a member out; refused where it would cost the quorum."""

    def move_leader(self, member: int) -> None:
        """Have another voter lead in place of this host's own member."""


class EtcdMembers:
    """A Membership of the real etcd, and its users.  Thread-safe."""

    def __init__(self, settings: EtcdSettings) -> None:
        """settings: those of etcd's root; for looking on, any host's will do."""
        self._settings = settings
        # Only the first member, this host's own: another one that is asked to promote a member
        # asks the leader without a certificate, again and again (etcd 3.4 with authentication).
        self._etcdctl = Etcdctl(replace(settings, endpoints=settings.endpoints[:1]))
        self._connections: dict[str, OneMember] = {}

    def close(self) -> None:
        """Close all connections."""
        for each in list(self._connections.values()):
            each.close()
        self._connections.clear()

    def list_members(self) -> tuple[Member, ...]:
        """See Membership."""
        failed: StoreUnavailable | None = None
        for url in self._settings.endpoints:
            try:
                return tuple(Member(**each) for each in self._at(url).members())
            except StoreUnavailable as error:
                failed = failed or error
        raise failed or StoreUnavailable("no member of etcd is known")

    def health(self, members: Iterable[Member]) -> dict[int, MemberHealth]:
        """See Membership.  They are asked at once: a dead one takes its whole time."""
        urls = [member.client_urls[0] for member in members if member.client_urls]
        with ThreadPoolExecutor(max(len(urls), 1)) as pool:
            return dict(filter(None, pool.map(self._health_at, urls)))

    def _health_at(self, url: str) -> tuple[int, MemberHealth] | None:
        try:
            said = self._at(url).status()
        except StoreUnavailable:
            return None
        return said.pop("id"), MemberHealth(**said)

    def _at(self, url: str) -> OneMember:
        return self._connections.setdefault(url, OneMember(url, self._settings))

    def add_learner(self, address: str) -> None:
        """See Membership."""
        self._etcdctl("member", "add", address, "--learner", f"--peer-urls={peer_url(address)}")

    def promote(self, member: int) -> None:
        """See Membership."""
        # etcdctl 3.4 promotes it, and then fails to say so in JSON.
        self._etcdctl("member", "promote", f"{member:x}", timeout_s=PROMOTE_S, in_words=True)

    def remove(self, member: int) -> None:
        """See Membership."""
        self._at(self._settings.endpoints[0]).remove(member)

    def move_leader(self, member: int) -> None:
        """See Membership."""
        self._etcdctl("move-leader", f"{member:x}")

    def defragment(self, url: str) -> None:
        """Have one member give unused space back; it does nothing else meanwhile."""
        self._at(url).defragment(DEFRAGMENT_S)

    def begin_auth(self) -> None:
        """Have etcd let in only whom it knows; idempotent.

        Who somebody is, the certificate's common name says.
        """
        self._have("user", "add", ROOT_NAME, "--no-password")
        self._have("role", "add", ROOT_NAME)
        self._have("user", "grant-role", ROOT_NAME, ROOT_NAME)
        self._have("role", "add", DRIVER_ROLE)
        for right, prefix in (("readwrite", keys.ROOT), ("read", keys.CLUSTER_CONFIG),
                              ("read", keys.CLUSTER_HOSTS), ("read", keys.CLUSTER_ALIVE)):
            self._have("role", "grant-permission", "--prefix=true", DRIVER_ROLE, right, prefix)
        self._have("auth", "enable")

    def add_user(self, host: str) -> None:
        """Let a host in: the driver's prefix is its to write, and its own sign of life."""
        user = HOST_PREFIX + host
        self._have("user", "add", user, "--no-password")
        self._have("role", "add", user)
        self._have("role", "grant-permission", user, "readwrite", keys.cluster_alive(host))
        for role in (DRIVER_ROLE, user):
            self._have("user", "grant-role", user, role)

    def remove_user(self, host: str) -> None:
        """Let a host in no more: its certificate is worth nothing from now on.  Idempotent."""
        user = HOST_PREFIX + host
        self._have("user", "delete", user)
        self._have("role", "delete", user)

    def _have(self, *arguments: str) -> None:
        """Bring something about that may be so already."""
        try:
            self._etcdctl(*arguments)
        except StoreUnavailable as error:
            if not any(text in str(error) for text in (
                    "already exists", "user name not found", "role name not found")):
                raise
