"""Keeps this host's part of the cluster in order: `slim cluster serve`, on every host.

It tells that the host lives, follows where etcd's members are, runs one here if that is wanted,
renews certificates, and on members opens the door.  Where etcd leads, it is the steward as well.
Nothing depends on it from one moment to the next: it may be stopped, killed and upgraded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from driver.cluster.authority import Authority
from driver.cluster.door.visitor import ask_as_host, ask_members
from driver.cluster.etcd import etcd_member
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.etcd.steward import Steward
from driver.cluster.etcd.tidying import Tidying
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.keeping.renewal import Renewal
from driver.cluster.model import Member, Role, client_url
from driver.cluster.records import ClusterRecords
from driver.cluster.services import ETCD, Services
from driver.errors import SlimError, StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue
from driver.store.kv.protocol import Lease
from driver.work.logs import STANDING

TICK_S: Final = 3.0
ALIVE_S: Final = 20  # without a sign for so long, a host counts as silent
ELSEWHERE_S: Final = 20.0  # without etcd for so long, other hosts are asked where it is

log = logging.getLogger(__name__)


class Door(Protocol):
    """See driver.api.door.DoorServer."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


MakeDoor = Callable[[Identity, ClusterRecords, EtcdMembers], Door]


class Keeper:
    """Ticks until it is told to stop.  One thread."""

    def __init__(self, folder: ClusterFolder, services: Services, data: Path, make_door: MakeDoor,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """data: etcd's folder.  clock: seconds, monotonic."""
        self._folder = folder
        self._services = services
        self._data = data
        self._make_door = make_door
        self._clock = clock
        self._held = ExitStack()  # what was opened for these endpoints and this role
        self._opened_for: object = None
        self._answered_s = clock()
        self._lease: Lease | None = None

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop`."""
        try:
            while not stop.is_set():
                again = False
                try:
                    again = self.tick()
                except SlimError as error:
                    log.error("%s", error, extra=STANDING)
                except Exception:
                    log.exception("a round of the keeper failed")
                stop.wait(0.2 if again else TICK_S)
        finally:
            self._held.close()

    def tick(self) -> bool:
        """Do what is due; tell whether more is due at once.  Error: SlimError."""
        self._open()
        self._renew_alone()
        try:
            members = self._members.list_members()
            self._tell_alive()
            host = self._records.host(self._me.host)
            self._answered_s = self._clock()
        except StoreUnavailable:
            if self._clock() - self._answered_s > ELSEWHERE_S:
                self._ask_where_etcd_is()
            raise
        if self._follow(members):
            return True
        if host is None:
            log.error("this host is not on the cluster's record: it has been removed, or etcd has "
                      "lost data.  What runs goes on.  To come back: `slim cluster join`",
                      extra=STANDING)
            return False
        mine = next((each for each in members if each.address == self._me.address), None)
        if host.role is Role.MEMBER and mine is not None and not self._folder.is_member:
            if mine.name:  # it has run: with empty data it must not come back under that id
                log.error("etcd lists a member of this host, whose files are missing here: type "
                          "`slim cluster leave`, and join again", extra=STANDING)
                return False
            self._become_member()
            return True
        if host.role is Role.CLIENT and mine is None and self._folder.is_member:
            self._cease_to_be_member()
            return True
        self._renewal.act(host)
        return self._manage(members) if self._folder.is_member else False

    def _open(self) -> None:
        """Open what depends on the endpoints and on the role, anew when these have changed."""
        me = self._folder.identity()
        now = (me, self._folder.is_member, self._folder.endpoints())
        if now == self._opened_for:
            return
        self._held.close()
        self._lease = None
        self._me, self._opened_for = me, None
        kv = self._held.enter_context(EtcdKeyValue(self._folder.etcd_settings()))
        self._kv = kv
        self._records = ClusterRecords(kv)
        self._renewal = Renewal(self._folder, me)
        self._members = EtcdMembers(self._folder.etcd_settings())
        self._held.callback(self._members.close)
        if self._folder.is_member:
            self._services.start(ETCD)
            root = self._held.enter_context(EtcdKeyValue(self._folder.etcd_settings("root")))
            members = EtcdMembers(self._folder.etcd_settings("root"))
            self._held.callback(members.close)
            self._steward = Steward(ClusterRecords(root), members)
            self._tidying = Tidying(members, root)
            try:
                door = self._make_door(me, ClusterRecords(root), members)
            except OSError as error:
                raise SlimError(f"the door cannot be opened at {me.address}: {error.strerror}"
                                ) from error
            door.start()
            self._held.callback(door.stop)
        self._opened_for = now

    def _renew_alone(self) -> None:
        try:
            self._renewal.act_alone()
        except SlimError as error:
            log.error("%s", error, extra=STANDING)

    def _tell_alive(self) -> None:
        if self._lease is not None and self._lease.keep_alive():
            return
        self._lease = self._kv.lease(ALIVE_S)
        self._records.tell_alive(self._me.host, self._lease.id)

    def _follow(self, members: tuple[Member, ...]) -> bool:
        """Write down where etcd and the hosts are; tell whether etcd is somewhere else now.

        A member's own etcd comes first; other hosts begin with different ones.
        """
        voters = sorted((member for member in members
                         if not member.is_learner and member.client_urls),
                        key=lambda member: member.address)
        if not voters:
            return False
        first = next((index for index, member in enumerate(voters)
                      if member.address == self._me.address),
                     int(self._me.host[:8], 16) % len(voters))
        if hosts := self._records.hosts():  # who finds none has lost them, and not their hosts
            self._folder.put_lines("hosts", tuple(host.address for host in hosts))
        return self._folder.put_lines("endpoints", tuple(
            client_url(member.address) for member in voters[first:] + voters[:first]))

    def _become_member(self) -> None:
        log.warning("this host is to run a member of etcd")
        answer = ask_members(self._folder, self._me.address, "member", {})
        self._folder.write("ca.key", str(answer["ca_key"]))
        etcd_member.issue_files(self._folder, Authority(
            self._folder.read("ca.crt"), self._folder.read("ca.key")), self._me.address,
            float(answer["certificate_s"]))
        self._services.stop(ETCD)
        etcd_member.set_data_aside(self._data)
        members = [Member(0, each["name"], (each["url"],)) for each in answer["members"]]
        self._folder.write("etcd.env", etcd_member.settings_text(
            self._folder, self._me, self._data, members, is_new=False))
        self._services.start(ETCD)

    def _cease_to_be_member(self) -> None:
        log.warning("this host runs no member of etcd any more")
        self._services.stop(ETCD)
        self._folder.drop_member_files()
        etcd_member.set_data_aside(self._data)

    def _manage(self, members: tuple[Member, ...]) -> bool:
        """Be the steward if etcd leads here; tell whether a step was done."""
        mine = next((each for each in members if each.address == self._me.address), None)
        health = self._members.health([mine] if mine else [])
        if mine is None or mine.id not in health or health[mine.id].leader != mine.id:
            return False
        if self._steward.act() is not None:
            return True
        self._tidying.act(members)
        return False

    def _ask_where_etcd_is(self) -> None:
        """Ask all hosts that we know of; follow one that knows a newer cluster than we do.

        That is so after `slim cluster restore`, and where this host was away for long.
        """
        for address in self._folder.read("hosts").decode().split():
            if address == self._me.address:
                continue
            try:
                said = ask_as_host(self._folder, address, self._me.address, "tell", {})
                generation = int(said["generation"])
                endpoints = tuple(map(str, said["endpoints"]))
            except (SlimError, KeyError, ValueError, TypeError):
                continue
            if generation > self._me.generation and endpoints:
                log.warning("%s has a restored cluster: this host follows it", address)
                if self._folder.is_member:
                    self._cease_to_be_member()
                self._folder.put_lines("endpoints", endpoints)
                self._folder.put_identity(replace(self._me, generation=generation))
                return
            if generation == self._me.generation and endpoints and not self._folder.is_member:
                self._folder.put_lines("endpoints", endpoints)
                return
