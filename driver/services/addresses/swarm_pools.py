"""Tracks which swarm network holds which pool, whichever manager asks.

A new leader requests every pool once more without releasing any and without saying that it is new;
but it then allocates each network by its id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_network

from driver.errors import StoreUnavailable
from driver.model import GLOBAL_SPACE, HostId, NetworkId, PoolUse, SubnetUse
from driver.services.addresses.overlaps import refuse_overlap
from driver.services.ports import AddressBook, RoutedNetworks
from driver.work import contended
from driver.work.undo import run_all

SWARM_USER = "swarm"  # all managers together; the ids of its requests are network ids


class SwarmPools:
    """Links pools to networks, as RequestPool and ReleasePool name none.  Calls are idempotent."""

    def __init__(self, book: AddressBook, host: HostId, request_id: Callable[[], str],
                 routed: RoutedNetworks) -> None:
        self._book = book
        self._host = host
        self._request_id = request_id
        self._routed = routed

    def hold(self, network_id: NetworkId, cidrs: Sequence[str]) -> None:
        """Turn this host's requests for the network's pools into the network's own.

        A network that already holds them keeps them, whatever routes this host has: this host may
        be a new leader.  Errors: Conflict (a network of this host overlaps), StoreUnavailable,
        UnsupportedRecord.
        """
        if any(_is_new(self._book.subnet(cidr).value, network_id) for cidr in cidrs):
            routed = self._routed()
            for cidr in cidrs:
                refuse_overlap(ip_network(cidr), routed)
        for cidr in cidrs:
            self._change(cidr, lambda subnet: _held(subnet, network_id, self._host))

    def let_go(self, network_id: NetworkId) -> None:
        """Turn the network's requests back into this host's, which releases them next.

        Errors: StoreUnavailable, UnsupportedRecord; every subnet is tried.
        """
        def let_go(subnet: SubnetUse) -> SubnetUse:
            return _let_go(subnet, network_id, self._host, self._request_id())

        run_all([(f"let pool {cidr} go", partial(self._change, cidr, let_go))
                 for cidr in self._book.subnets()[0]])

    def _change(self, cidr: str, change: Callable[[SubnetUse], SubnetUse]) -> None:
        for _ in contended.attempts():
            before = self._book.subnet(cidr)
            if before.value is None:
                return
            after = change(before.value)
            if after == before.value or self._book.write_subnet(cidr, before, after):
                return
        raise StoreUnavailable(f"pool {cidr} has too many concurrent changes; try again")


def _is_new(subnet: SubnetUse | None, network_id: NetworkId) -> bool:
    pools = [] if subnet is None else [p for p in subnet.pools if p.space == GLOBAL_SPACE]
    return bool(pools) and not any(network_id in p.requests.get(SWARM_USER, ()) for p in pools)


def _held(subnet: SubnetUse, network_id: NetworkId, host: HostId) -> SubnetUse:
    # The pool that the network already holds; else one that this host has just requested.
    for user, wanted in ((SWARM_USER, str(network_id)), (host, "")):
        for pool in subnet.pools:
            ids = pool.requests.get(user, ())
            if pool.space == GLOBAL_SPACE and ids and wanted in {"", *ids}:
                networks = pool.requests.get(SWARM_USER, ())
                others = {u: r for u, r in pool.requests.items() if u not in (host, SWARM_USER)}
                return _with(subnet, pool, {**others, SWARM_USER: tuple(dict.fromkeys(
                    (*networks, str(network_id))))})
    return subnet  # another driver's addresses


def _let_go(subnet: SubnetUse, network_id: NetworkId, host: HostId, request: str) -> SubnetUse:
    for pool in subnet.pools:
        networks = pool.requests.get(SWARM_USER, ())
        if pool.space == GLOBAL_SPACE and network_id in networks:
            left = tuple(each for each in networks if each != network_id)
            others = {user: ids for user, ids in pool.requests.items() if user != SWARM_USER}
            return _with(subnet, pool, {
                **others, host: (*pool.requests.get(host, ()), request),
                **({SWARM_USER: left} if left else {})})
    return subnet


def _with(subnet: SubnetUse, pool: PoolUse, requests: dict[str, tuple[str, ...]]) -> SubnetUse:
    return replace(subnet, pools=tuple(
        replace(each, requests=requests) if each is pool else each for each in subnet.pools))
