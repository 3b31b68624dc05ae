"""Takes a host out of the cluster: this one at its own wish, or another one that is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from driver.cluster.door.visitor import NobodyAnswers, ask_as_host
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.etcd.plan import cost_of_removal
from driver.cluster.folder import Identity
from driver.cluster.host import ThisHost, wait
from driver.cluster.model import ClusterHost, address_of, running
from driver.cluster.records import ClusterRecords
from driver.cluster.services import DRIVER, ETCD, KEEPER
from driver.errors import Conflict, InvalidArgument, NotFound, SlimError

DOORS_S: Final = 15.0  # for a door where nobody listens just now
AGAIN_S: Final = 0.5
OUT_S: Final = 180.0  # for another host to take the member's place first
ID_SHOWN: Final = 12

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leaving:
    """Takes this host out.

    forget: removes what its driver has in etcd, once that is stopped.  addresses: of all hosts on
    record.  disown: has the driver belong to no cluster.
    """

    here: ThisHost
    forget: Callable[[], None]
    addresses: Callable[[], Sequence[str]]
    say: Callable[[str], None]
    disown: Callable[[], None]

    def leave(self, *, last: bool) -> None:
        """Leave; typed again, it goes on.  last: this is the last host, and all is to go.

        Errors: Conflict (etcd could not go on without this host), NobodyAnswers.
        """
        me = self.here.folder.identity()
        others = [address for address in self.addresses() if address != me.address]
        if last:
            if others:
                raise Conflict(f"this is not the last host of the cluster: {', '.join(others)} "
                               "are in it.  `slim cluster leave` without --last")
        elif not others:
            raise Conflict("this is the cluster's last host: with it all records would be lost.  "
                           "`slim cluster leave --last` ends the cluster")
        # One that was killed here after its last question, or was removed, has no more to ask.
        known = not last and not self._ask(me, {}).get("gone")
        if known:
            self.say("waits until etcd has no member here")
            if not patient(lambda: bool(self._ask(me, {})["out"])):
                self._ask(me, {}, "stay")
                raise SlimError("etcd's member of this host could not be taken out: see `slim "
                                "cluster status`.  This host stays in the cluster")
        self.here.services.stop(DRIVER)
        if known:
            if not patient(self._forget):
                self.forget()
            if not patient(lambda: bool(self._ask(me, {"done": True})["out"])):
                self._ask(me, {"done": True})
        for name in (KEEPER, ETCD):
            self.here.services.stop(name)
        self.here.forget_cluster()
        self.here.remove_data()
        self.disown()
        self.here.folder.drop_prepared()
        self.here.folder.remove()  # last: without it this cannot be typed again

    def _forget(self) -> bool:
        self.forget()
        return True

    def _ask(self, me: Identity, fields: dict[str, object], call: str = "leave"
             ) -> dict[str, object]:
        """Ask another member's door, else our own.  Errors: NobodyAnswers, Refused.

        Doors end and begin when the members change, as after another host's removal.
        """
        ends_s = time.monotonic() + DOORS_S
        while True:
            failed = NobodyAnswers("no member of etcd is known")
            refused = False
            addresses = map(address_of, self.here.folder.endpoints())
            for address in sorted(addresses, key=lambda each: each == me.address):
                try:
                    return ask_as_host(self.here.folder, address, me.address, call, fields)
                except NobodyAnswers as error:
                    failed = error
                    refused |= isinstance(error.__cause__, ConnectionRefusedError)
            if not refused or time.monotonic() >= ends_s:
                raise failed
            time.sleep(AGAIN_S)


def patient(done: Callable[[], bool]) -> bool:
    """Try until it is done; tell whether it came to.

    etcd may choose a leader just now, since this host's member was the one before; doors that ask
    it meanwhile refuse.
    """
    def is_done() -> bool:
        try:
            return done()
        except SlimError as error:
            log.info("later: %s", error)
            return False

    return wait(is_done, OUT_S)


@dataclass(frozen=True)
class Removal:
    """Takes another host out, on a member.  forget: removes what its driver has in etcd."""

    records: ClusterRecords
    members: EtcdMembers
    me: Identity
    forget: Callable[[ClusterHost], None]

    def remove(self, which: str, *, even_alive: bool) -> ClusterHost:
        """Remove a host by its name or id; typed again, it goes on.

        Errors: NotFound, InvalidArgument, Conflict (it lives; etcd could not go on without it).
        """
        host = self._find(which)
        alive = self.records.alive()
        if host.id == self.me.host:
            raise InvalidArgument("this is the host you are on: `slim cluster leave`")
        if host.id in alive and not even_alive:
            raise Conflict(f"{host.name} ({host.address}) is alive: type `slim cluster leave` "
                           "there.  --alive removes it all the same, and its containers lose "
                           "their networks")
        members = self.members.list_members()
        member = next((each for each in members if each.address == host.address), None)
        if member is not None:
            cost = cost_of_removal(member, members, running(self.members.health(members)),
                                   self.records.hosts())
            if cost:
                raise Conflict(f"{host.name} cannot be removed: {cost}")
        # First what keeps it from coming back, last what says that there is something to remove.
        self.records.change_host(host.id, lambda before: before and replace(
            before, leaving=True))
        self.members.remove_user(host.id)
        if member is not None:
            self.members.remove(member.id)
        self.forget(host)
        self.records.change_host(host.id, lambda _: None)
        return host

    def _find(self, which: str) -> ClusterHost:
        found = [host for host in self.records.hosts() if which in (host.name, host.id)
                 or (len(which) >= ID_SHOWN and host.id.startswith(which))]
        if not found:
            raise NotFound(f"no host is called {which!r}: `slim cluster status` lists them")
        if len(found) > 1:
            raise InvalidArgument(f"several hosts are called {which!r}: name one of "
                                  f"{', '.join(host.id[:ID_SHOWN] for host in found)}")
        return found[0]
