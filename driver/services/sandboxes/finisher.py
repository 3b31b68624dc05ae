"""Gives a sandbox its host path once dockerd has brought the interface up.

The datapath learns of a sandbox last and forgets it first; whatever fails, the sandbox's
connections use the overlay path.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from driver.errors import LinkError, SlimError
from driver.model import Endpoint, EndpointId, HostAddress
from driver.services.ports import Datapath, Sandboxes, Teardowns, Veth
from driver.services.sandboxes.members import Expected, Sandbox
from driver.services.sandboxes.publishing import publish
from driver.services.sandboxes.teardown import TeardownWorker
from driver.services.sandboxes.withholding import Withholding
from driver.work.ledger import PAUSES_S, Ledger
from driver.work.locks import KeyedLocks

log = logging.getLogger(__name__)

# After that many failures it is no race: the endpoint's peers are told to use the overlay path.
GIVEN_UP: Final = len(PAUSES_S)
_THREADS: Final = 2  # while one waits for the kernel's rtnl lock, another can work


@dataclass(frozen=True)
class FinisherCounts:
    """Counts since the start: endpoints finished, failed attempts, endpoints given up."""

    finished: int = 0
    failed_attempts: int = 0
    given_up: int = 0


class SandboxNames(Protocol):
    """services.names.serving.NameServing."""

    def enter(self, sandbox_key: str, cookie: int, endpoint: Endpoint) -> None:
        """Serve a sandbox the names of one more network.  Returns at once."""

    def leave(self, sandbox_key: str, endpoint_id: EndpointId) -> None:
        """Undo `enter`.  Idempotent.  Returns at once."""


class Finisher:
    """Sets sandboxes up when their interfaces have carrier (services.ports.SandboxFinisher)."""

    def __init__(self, *, sandboxes: Sandboxes, datapath: Datapath, teardowns: Teardowns,
                 underlay: HostAddress | None, overlay_mtu: Callable[[], int],
                 offer_host_path: Callable[[EndpointId, bool, bool], None] = (
                     lambda _id, _offered, _takes_ipv6: None),
                 request_port: Callable[[EndpointId], int] = lambda _id: 0,
                 withholding: Withholding | None = None, names: SandboxNames | None = None,
                 ledger: Ledger | None = None, took: Callable[[float], None] = lambda _s: None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """underlay: None: there is no host path.  clock: seconds, monotonic.

        overlay_mtu: in bytes, read again for each endpoint.

        offer_host_path: tells the other hosts whether an endpoint can be called on its port, and
        whether by its IPv6 address, too; called when a sandbox is given up, and when it succeeds
        after all.
        request_port: for an endpoint whose record has no port; 0: it is not meant to have one.
        withholding: judges each sandbox before it is published; None: nothing does.
        names: is told of each endpoint, too; None: no names are served.
        ledger: calls what this class has to do; None: the tests do.
        took: is told how many seconds it was from an endpoint's carrier to its host path.
        """
        ledger = ledger or Ledger(clock=clock)
        self._sandboxes = sandboxes
        self._datapath = datapath
        self._underlay = underlay
        self._overlay_mtu = overlay_mtu
        self._offer_host_path = offer_host_path
        self._request_port = request_port
        self._withholding = withholding
        self._names = names
        self._took = took
        self._clock = clock
        self._guard = threading.Lock()  # of all below; never held during calls to others
        self._expected: dict[EndpointId, Expected] = {}
        self._up: dict[str, float] = {}  # host's ends with carrier -> since when
        # Endpoints that were waiting for their carrier -> when it came; until they are finished.
        self._timed: dict[EndpointId, float] = {}
        self._by_sandbox: dict[str, Sandbox] = {}
        self._unreachable: set[EndpointId] = set()  # peers are to use the overlay path
        self._counts = FinisherCounts()
        self._locks = KeyedLocks()  # by sandbox key: one change of a sandbox at a time
        self._finishing = ledger.page("host path of endpoint", self._finish, threads=_THREADS)
        self._forgetting = ledger.page("withdraw sandbox of endpoint", self._forget_again)
        self._offers = ledger.page("tell peers of endpoint", self._offer)
        self._teardowns = TeardownWorker(
            sandboxes=sandboxes, teardowns=teardowns, underlay=underlay, locks=self._locks,
            in_use=self._will_use_host_path, ledger=ledger)

    def expect(self, endpoint: Endpoint, veth: Veth) -> None:
        """See ports.SandboxFinisher."""
        with self._guard:
            before = self._expected.get(endpoint.id)
        if before is not None and before.endpoint.sandbox_key != endpoint.sandbox_key:
            self.forget(endpoint.id)
        left = self._forgetting.get(endpoint.id)
        if left is not None and left.endpoint.sandbox_key == endpoint.sandbox_key:
            self._forgetting.drop(endpoint.id)  # it is wanted there again
        with self._guard:
            self._expected[endpoint.id] = Expected(endpoint, veth)
            is_up = veth.host_name in self._up
        if is_up:
            self._finishing.put(endpoint.id, None)

    def forget(self, endpoint_id: EndpointId) -> None:
        """See ports.SandboxFinisher.

        When it returns, the datapath no longer knows the endpoint.  Errors: those of Sandboxes
        and Datapath, after every step was tried; what is left to do is then repeated.
        """
        with self._guard:
            expected = self._expected.get(endpoint_id) or self._forgetting.get(endpoint_id)
        if expected is None:
            return
        with self._forgetting.attempt(endpoint_id, expected):
            with self._guard:
                self._expected.pop(endpoint_id, None)
                self._unreachable.discard(endpoint_id)
                self._timed.pop(endpoint_id, None)
            self._finishing.drop(endpoint_id)
            self._offers.drop(endpoint_id)
            self._leave(endpoint_id, expected.endpoint.sandbox_key)

    def resume_teardowns(self) -> None:
        """See ports.SandboxFinisher."""
        self._teardowns.resume()

    def carrier_up(self, host_name: str, _ifindex: int) -> None:
        """Take the news that the container's end of this pair is addressed and up."""
        with self._guard:
            self._up[host_name] = self._clock()
            found = [expected.endpoint.id for expected in self._expected.values()
                     if expected.veth.host_name == host_name]
            self._timed.update(dict.fromkeys(found, self._up[host_name]))
        for endpoint_id in found:
            self._finishing.put(endpoint_id, None)

    def carrier_down(self, host_name: str, _ifindex: int) -> None:
        """Take the news that this pair is down or gone.  Leave decides what that means."""
        with self._guard:
            self._up.pop(host_name, None)

    def refresh(self) -> None:
        """Set all sandboxes up again, as the overlay's MTU has changed.  Returns at once."""
        with self._guard:
            found = [expected.endpoint.id for expected in self._expected.values()
                     if expected.veth.host_name in self._up]
        for endpoint_id in found:
            self._finishing.put(endpoint_id, None)

    def repair(self, sandbox_key: str) -> None:
        """Set one sandbox up and publish it again.  Returns at once."""
        with self._guard:
            found = [each.endpoint.id for each in self._expected.values()
                     if each.endpoint.sandbox_key == sandbox_key
                     and (each.has_host_path or self._underlay is None)]
        for endpoint_id in found:
            self._finishing.put(endpoint_id, None)

    def offer(self, endpoint_id: EndpointId, delay_s: float = 0.0) -> None:
        """Tell the peers the current state of the endpoint's host path.  Returns at once."""
        self._offers.put(endpoint_id, None, delay_s)

    def waiting(self) -> int:
        """Count the endpoints whose sandbox is still to be set up."""
        return len(self._finishing.values())

    def counts(self) -> FinisherCounts:
        """Return the counts so far."""
        with self._guard:
            return self._counts

    def _finish(self, endpoint_id: EndpointId, _none: None) -> None:
        with self._guard:
            expected = self._expected.get(endpoint_id)
        if expected is None:
            return
        try:
            # Before any lock: whoever removes the endpoint holds its own lock and waits for ours.
            expected, no_port = self._with_port(expected)
            with self._locks.hold(expected.endpoint.sandbox_key):
                with self._guard:  # it may have been forgotten while we waited
                    if self._expected.get(endpoint_id) is not expected:
                        return
                self._complete(expected)
        except Exception:
            self._count_failure(expected)
            raise
        told = (expected.endpoint.offered is self._may_be_called(expected.endpoint)
                and expected.endpoint.takes_ipv6 is self._takes_ipv6(expected.endpoint))
        with self._guard:
            self._counts = _plus(self._counts, finished=1)
            up_s = self._up.get(expected.veth.host_name)
            timed_s = self._timed.pop(endpoint_id, None)
            tell = self._expected.get(endpoint_id) is expected and expected.has_host_path and (
                endpoint_id in self._unreachable or not told)
            if tell and no_port is None:
                self._unreachable.discard(endpoint_id)
        late_ms = (self._clock() - up_s) * 1000 if up_s is not None else 0.0
        if timed_s is not None:
            self._took(self._clock() - timed_s)
        log.debug("sandbox of endpoint %.12s finished %.1f ms after carrier", endpoint_id, late_ms)
        if no_port is not None:  # vips work by its sandbox, over the overlay path
            raise no_port
        if tell:
            self._offers.put(endpoint_id, None)

    def _with_port(self, expected: Expected) -> tuple[Expected, SlimError | None]:
        """Return the endpoint with a port if it should have one, and why it has none, if so."""
        endpoint = expected.endpoint
        if endpoint.port or endpoint.address is None:
            return expected, None
        try:
            port = self._request_port(endpoint.id)
        except SlimError as error:
            return expected, error
        if not port:
            return expected, None
        found = replace(expected, endpoint=replace(endpoint, port=port))
        with self._guard:
            if self._expected.get(endpoint.id) is not expected:
                return expected, None
            self._expected[endpoint.id] = found
            self._unreachable.add(endpoint.id)  # until its record names the port
        return found, None

    def _forget_again(self, endpoint_id: EndpointId, expected: Expected) -> None:
        self._leave(endpoint_id, expected.endpoint.sandbox_key)

    def _leave(self, endpoint_id: EndpointId, key: str) -> None:
        with self._locks.hold(key):
            if self._names is not None:
                self._names.leave(key, endpoint_id)
            sandbox = self._by_sandbox.get(key)
            if sandbox is None:
                self._sweep(key)
                return
            if sandbox.members and endpoint_id not in sandbox.members:
                return
            was_primary = bool(sandbox.members) and sandbox.primary.endpoint.id == endpoint_id
            sandbox.members.pop(endpoint_id, None)
            if not sandbox.members:
                self._dismantle(key, sandbox)
            else:
                self._shrink(key, sandbox, primary_left=was_primary)

    def _complete(self, expected: Expected) -> None:
        endpoint, key = expected.endpoint, expected.endpoint.sandbox_key
        cookie = self._sandboxes.cookie(key)
        if cookie is None:
            raise LinkError(f"there is no network namespace at {key}")
        sandbox = self._by_sandbox.get(key)
        if sandbox is not None and sandbox.cookie != cookie:
            # Another namespace at the same path; the old one ended without notice.
            del self._by_sandbox[key]
            self._withdraw(sandbox.cookie, key)
            sandbox = None
        sandbox = sandbox or Sandbox(cookie)
        if self._names is not None:  # first: a program may ask as soon as it starts
            self._names.enter(key, cookie, endpoint)
        self._set_up(expected, primary=sandbox.would_carry(expected))
        if endpoint.address is None:
            return
        sandbox.enter(expected)
        self._by_sandbox[key] = sandbox
        self._publish(sandbox, key)

    def _publish(self, sandbox: Sandbox, key: str) -> None:
        if self._withholding is None:
            publish(self._sandboxes, self._datapath, sandbox.entry(), key)
            return
        self._withholding.enter(key, sandbox.cookie, [
            (member.endpoint, member.veth) for member in sandbox.primary_first()])
        publish(self._sandboxes, self._datapath, sandbox.entry(
            self._withholding.uses_host_path, self._withholding.takes_ipv6), key)

    def _withdraw(self, cookie: int, key: str) -> None:
        try:
            self._datapath.withdraw_sandbox(cookie)
        finally:
            if self._withholding is not None:
                self._withholding.leave(key)

    def _may_be_called(self, endpoint: Endpoint) -> bool:
        return self._withholding is None or self._withholding.may_be_called(endpoint)

    def _takes_ipv6(self, endpoint: Endpoint) -> bool:
        return endpoint.address6 is not None and (
            self._withholding is None or self._withholding.takes_ipv6(endpoint))

    def _set_up(self, expected: Expected, *, primary: bool) -> None:
        self._sandboxes.set_up(expected.endpoint.sandbox_key, expected.endpoint, expected.veth,
                               underlay=self._underlay, overlay_mtu=self._overlay_mtu(),
                               primary=primary)

    def _count_failure(self, expected: Expected) -> None:
        """Have the peers told to use the overlay path if this was no race."""
        endpoint = expected.endpoint
        with self._guard:
            if self._expected.get(endpoint.id) is not expected:
                return
            given_up = self._finishing.attempts(endpoint.id) == GIVEN_UP
            self._counts = _plus(self._counts, failed_attempts=1, given_up=int(given_up))
            tell = given_up and expected.has_host_path
            if tell:
                self._unreachable.add(endpoint.id)
        if tell:
            log.warning("endpoint %.12s stays on the overlay path until its sandbox %s can be set "
                        "up; see `slim status`", endpoint.id, endpoint.sandbox_key)
            self._offers.put(endpoint.id, None)

    def _offer(self, endpoint_id: EndpointId, _none: None) -> None:
        """Tell the peers the current state, so that they do not keep calling an unused port."""
        with self._guard:
            expected = self._expected.get(endpoint_id)
            if expected is None:
                return
            offered = endpoint_id not in self._unreachable
        self._offer_host_path(endpoint_id, offered and self._may_be_called(expected.endpoint),
                              self._takes_ipv6(expected.endpoint))

    def _dismantle(self, key: str, sandbox: Sandbox) -> None:
        """Withdraw at once what others can see; the inside follows later, and nobody waits."""
        self._by_sandbox[key] = sandbox  # as long as the maps may know it
        self._teardowns.note(key)
        try:
            self._withdraw(sandbox.cookie, key)
            del self._by_sandbox[key]
        finally:
            self._teardowns.submit(key)

    def _will_use_host_path(self, key: str) -> bool:
        """Return whether it was joined again in the meantime, so that it must stay set up."""
        with self._guard:
            return any(each.endpoint.sandbox_key == key and each.has_host_path
                       for each in self._expected.values())

    def _sweep(self, key: str) -> None:
        """Remove what a failed attempt or an earlier driver may have left in a sandbox."""
        with self._guard:
            if any(other.endpoint.sandbox_key == key for other in self._expected.values()):
                return  # that endpoint's completion will fix the sandbox
        cookie = self._sandboxes.cookie(key)
        if cookie is not None:
            self._dismantle(key, Sandbox(cookie))

    def _shrink(self, key: str, sandbox: Sandbox, *, primary_left: bool) -> None:
        """Continue with the remaining members, on another interface if necessary."""
        heir = sandbox.primary
        try:
            if primary_left:
                self._set_up(heir, primary=heir.has_host_path)
            self._publish(sandbox, key)
        except Exception:
            # The maps would send its connections over an interface that is leaving.
            del self._by_sandbox[key]
            self._withdraw(sandbox.cookie, key)
            for member in sandbox.members:
                self._finishing.put(member, None, PAUSES_S[0])
            raise


def _plus(counts: FinisherCounts, *, finished: int = 0, failed_attempts: int = 0,
          given_up: int = 0) -> FinisherCounts:
    return FinisherCounts(counts.finished + finished, counts.failed_attempts + failed_attempts,
                          counts.given_up + given_up)
