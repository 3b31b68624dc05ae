"""Puts back on record the pools, gateways and vips of a swarm that etcd has lost.

The manager that publishes the swarm's services does this, from what Docker says.

Docker first removes a network or a service, and then releases what it had, once.  So Docker is
asked after etcd: what was released before that is not entered.  What is released between that and
the write is left over; it is marked (marks.py), and removed once Docker has not known it for long.
No sooner: the release may still come, and would end what somebody else has by then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Final

from driver.errors import (
    Conflict,
    EngineUnavailable,
    SlimError,
    StoreUnavailable,
    UnsupportedRecord,
)
from driver.ipam.pools import overlapping
from driver.model import (
    GLOBAL_HOLDER,
    GLOBAL_SPACE,
    HoldKind,
    NetworkId,
    Reservation,
    SubnetUse,
)
from driver.services.addresses.local_uses import Held
from driver.services.addresses.pool_ids import PoolName
from driver.services.addresses.releases import AddressReleases
from driver.services.ports import AddressBook, SwarmPool, SwarmUsers, SwarmUses, Versioned
from driver.services.swarm.marks import (
    Entered,
    Found,
    Wish,
    has_pool,
    in_the_way,
    left_over,
    wishes,
    with_pool,
)
from driver.work import contended, deadline
from driver.work.later import Later
from driver.work.shown import some_of

log = logging.getLogger(__name__)

CHECK_S: Final = 60.0
RETRY_S: Final = 5.0
WHOLE_S: Final = 600.0  # between looks at all values; otherwise only keys, if none is missing
LIMIT_S: Final = 60.0
_ALL: Final = "what a swarm holds"


class SwarmHoldings:
    """Compares and enters.  `ask` may be called from anywhere; a separate thread does the work."""

    def __init__(self, *, book: AddressBook, users: SwarmUsers, leads: Callable[[], str],
                 release_pool: Callable[[PoolName, NetworkId], None], request_id: Callable[[], str],
                 after_s: float, clock: Callable[[], float] = time.monotonic,
                 later: Callable[..., Later[str]] = Later) -> None:
        """leads: the id of the swarm for which this manager does this; "": none.

        release_pool: ends a network's request for a pool.
        after_s: for how long Docker must not have known what is removed.  clock: seconds.
        later: makes what runs the looks, in a thread of its own.
        """
        self._book = book
        self._users = users
        self._leads = leads
        self._releases = AddressReleases(book)
        self._release_pool = release_pool
        self._request_id = request_id
        self._after_s = after_s
        self._clock = clock
        self._asked = True
        self._looked_s = 0.0  # when all values were last looked at
        self._since: dict[Entered, float] = {}  # left over -> when that was first seen
        self._guard = threading.Lock()
        self._doubts: list[str] = []  # what could not be entered, and why
        self._later = later(self._run, threads=1, name="swarm holdings")

    def start(self) -> None:
        """Start; nothing is done before the first `ask`."""
        self._later.start()

    def stop(self) -> None:
        """Stop."""
        self._later.stop()

    def ask(self) -> None:
        """Look soon: this manager begins to lead, or etcd has lost something.  Returns at once."""
        self._asked = True
        self._later.submit(_ALL)

    def describe(self) -> str:
        """Describe what is in the way; "": nothing."""
        with self._guard:
            shown = some_of(self._doubts)
        return f"IN DOUBT: {shown}" if shown else ""

    def _run(self, key: str) -> None:
        swarm = self._leads()
        if not swarm:  # `ask` is called when it leads again
            self._since.clear()
            self._name([])
            return
        pause_s = RETRY_S
        try:
            with deadline.limit(LIMIT_S):
                pause_s = self.run(swarm)
        except SlimError as error:
            self._asked = True
            log.log(logging.DEBUG if isinstance(error, StoreUnavailable | EngineUnavailable)
                    else logging.WARNING,
                    "what the swarm holds cannot be compared with etcd yet: %s", error)
        self._later.submit(key, pause_s)

    def run(self, swarm: str) -> float:
        """Look once and enter what is missing; return the seconds until the next look.

        Errors: EngineUnavailable, StoreUnavailable.
        """
        uses, now_s = self._users.look(), self._clock()
        asked, self._asked = self._asked, False
        if not (asked or self._since or self._doubts or now_s - self._looked_s >= WHOLE_S
                or self._lacks(uses)):
            return CHECK_S
        for _ in contended.attempts():
            doubts: list[str] = []
            found = list(self._read({pool.subnet for pool in uses.pools}, doubts))
            uses = self._users.look()
            done = [self._enter(each, uses, swarm, doubts) for each in found]
            if all(done):
                break
        else:
            raise StoreUnavailable("pools of the swarm have too many concurrent changes")
        self._name(doubts)
        self._looked_s = now_s
        self._since = {each: self._since.get(each, now_s) for subnet in found
                       for each in left_over(subnet, uses, swarm)}
        for each, since_s in self._since.items():
            if now_s - since_s >= self._after_s:
                self._remove(each)
        return min(CHECK_S, max(1.0, self._after_s / 2)) if self._since else CHECK_S

    def _lacks(self, uses: SwarmUses) -> bool:
        """Check for missing keys by reading one record and one key range per subnet."""
        for cidr in {pool.subnet for pool in uses.pools}:
            try:
                use = self._book.subnet(cidr).value
            except UnsupportedRecord:
                return True
            if use is None or not all(has_pool(use, pool) for pool in uses.pools
                                      if pool.subnet == cidr):
                return True
            subnet = ip_network(cidr)
            taken = set(self._book.taken(cidr, subnet[0], subnet[-1]))
            for wish in wishes(cidr, uses):
                if int(wish.address) not in taken or (
                        wish.kind is HoldKind.GATEWAY and use.gateway is None):
                    return True
        return False

    def _read(self, cidrs: Collection[str], doubts: list[str]) -> Iterator[Found]:
        """Read these subnets, and all others that managers have requested."""
        for cidr in sorted({*cidrs, *self._book.subnets()[0]}):
            try:
                use = self._book.subnet(cidr)
                if cidr in cidrs or (use.value is not None and any(
                        pool.space == GLOBAL_SPACE for pool in use.value.pools)):
                    yield Found(cidr, use, {each.value.address: each for each
                                            in self._book.reservations(cidr) if each.value})
            except UnsupportedRecord as error:
                doubts.append(f"pool {cidr} of the swarm: {error}")

    def _enter(self, found: Found, uses: SwarmUses, swarm: str, doubts: list[str]) -> bool:
        """Enter what the subnet lacks; False: it was changed in the meantime."""
        pools = [pool for pool in uses.pools if pool.subnet == found.cidr]
        try:
            use = self._enter_pools(found, pools, swarm)
        except Conflict as error:
            doubts.append(str(error))
            return True
        for wish in wishes(found.cidr, uses):
            if use is None or use.value is None:
                return False
            before = found.addresses.get(wish.address, Versioned(None, 0))
            reason = in_the_way(wish, before.value, use.value.gateway)
            if reason:
                doubts.append(f"{wish.what} is not on record: {reason}")
            else:
                use = self._enter_address(found.cidr, use, before, wish, swarm)
        return use is not None

    def _enter_pools(self, found: Found, pools: Collection[SwarmPool], swarm: str
                     ) -> Versioned[SubnetUse] | None:
        """Return the resulting subnet; None: it was changed.  Further error: Conflict."""
        before = found.use
        use = before.value or SubnetUse(found.cidr, None, ())
        lacking = [pool for pool in pools if not has_pool(use, pool)]
        if not lacking:
            return before
        guard = None
        if before.value is None:
            cidrs, guard = self._book.subnets()
            other = overlapping(ip_network(found.cidr), map(ip_network, cidrs))
            if found.cidr in cidrs:
                return None
            if other is not None:
                raise Conflict(f"pool {found.cidr} of swarm network {lacking[0].network} is not on "
                               f"record: it overlaps {other}, which is")
        for pool in lacking:
            use = with_pool(use, pool, swarm)
        if not self._book.write_subnet(found.cidr, before, use, guard):
            return None
        for pool in lacking:
            self._entered(f"pool {found.cidr} of swarm network {pool.network}")
        return self._as_written(use)

    def _enter_address(self, cidr: str, use: Versioned[SubnetUse], before: Versioned[Reservation],
                       wish: Wish, swarm: str) -> Versioned[SubnetUse] | None:
        """Return the resulting subnet; None: something was changed."""
        assert use.value is not None
        after = before.value or Reservation(wish.address)
        new_gateway = wish.kind is HoldKind.GATEWAY and use.value.gateway is None
        if GLOBAL_HOLDER not in after.holds:
            after = after.held(GLOBAL_HOLDER, wish.hold(swarm, self._request_id()))
        elif not new_gateway:
            return use
        subnet_after = replace(use.value, gateway=wish.address) if new_gateway else None
        if not self._book.write_reservation(use, cidr, before, after, subnet_after=subnet_after):
            return None
        self._entered(wish.what)
        return self._as_written(subnet_after) if subnet_after is not None else use

    def _entered(self, what: str) -> None:
        log.warning("%s is on record again", what)
        self._asked = True  # it may have been released before that write: look once more

    def _as_written(self, use: SubnetUse) -> Versioned[SubnetUse] | None:
        found = self._book.subnet(use.cidr)
        return found if found.value == use else None

    def _remove(self, entered: Entered) -> None:
        if isinstance(entered, Held):
            log.warning("collecting address %s, which the swarm does not know of", entered.address)
            self._releases.withdraw(entered.cidr, entered.address, GLOBAL_HOLDER, entered.hold)
        else:
            log.warning("collecting a request of pool %s for network %s, which the swarm does not "
                        "know of", entered.name.id, entered.request)
            self._release_pool(entered.name, NetworkId(entered.request))

    def _name(self, doubts: list[str]) -> None:
        with self._guard:
            new = [each for each in doubts if each not in self._doubts]
            self._doubts = doubts
        for each in new:
            log.warning("%s; see `slim status`", each)
