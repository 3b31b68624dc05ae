"""Keeps sandboxes off the host path if their programs need virtual addresses on packets.

The kernel is told first, then the peers; the same order applies when no reason is left, so that
nobody is called too early.  Open connections continue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from driver.errors import DatapathError, LinkError
from driver.model import Endpoint, EndpointId, HostAddress, HostPath
from driver.services.ports import Findings, Inspector, Verdicts, Veth, Watch, Why
from driver.services.sandboxes.standing import LASTING, Standing
from driver.work.later import Later
from driver.work.locks import KeyedLocks

log = logging.getLogger(__name__)

LOOK_S: Final = 0.02  # after the first of several changes
LOOK_SHARE: Final = 20  # a sandbox that changes all the time takes one second in this many
LOOK_MAX_S: Final = 1.0
LOST_AGAIN_S: Final = 10.0  # repeated losses within this time are repaired with growing delays
REPAIR_MAX_S: Final = 0.8  # the longest of those delays
NO_HOST_PATH: Final = (
    "none: the underlay is IPv6, and net.ipv6.ip_nonlocal_bind cannot be set here (a managed "
    "plugin's /proc/sys is read-only), so TCP takes the overlay path")
REPAIRED_S: Final = 1.0  # after a repair until the next look, unless one comes earlier
TELL_LOST_S: Final = 1.0  # peers are told of lost routes that are not back by then


class Withholding:
    """All sandboxes of this host.  Thread-safe."""

    def __init__(self, *, verdicts: Verdicts, inspector: Inspector, watch: Watch,
                 underlay: HostAddress | None, choice_of: Callable[[Endpoint], HostPath],
                 clock: Callable[[], float] = time.monotonic,
                 later: Callable[..., Later[str]] = Later) -> None:
        """underlay: None: there is no host path, whatever is found.

        choice_of: what the user has chosen for an endpoint (standing.choose).

        later: makes what runs looks and repairs, in threads of its own.
        """
        self._verdicts = verdicts
        self._inspector = inspector
        self._watch = watch
        self._underlay = underlay
        self._choice_of = choice_of
        self._clock = clock
        # The finisher's functions: set a sandbox up again; tell the peers an endpoint's state.
        self.repair: Callable[[str], None] = lambda _key: None
        self.offer: Callable[[EndpointId, float], None] = lambda _id, _delay_s: None
        # Called when a new sandbox appears, whose label nobody has asked for.
        self.on_new: Callable[[], None] = lambda: None
        self._guard = threading.Lock()  # of the next two; never held during calls to others
        self._by_key: dict[str, Standing] = {}
        self._keys: dict[EndpointId, str] = {}
        self._labels: Mapping[EndpointId, HostPath] = {}  # from Docker's last answer
        self._locks = KeyedLocks()
        self._looks = later(self._look, threads=1, name="looks", clock=clock)
        self._repairs = later(self._repair, threads=1, name="repairs", clock=clock)

    def start(self) -> None:
        """Start inspecting sandboxes when something changes."""
        self._looks.start()
        self._repairs.start()

    def stop(self) -> None:
        """Stop; what the kernel was told stays."""
        self._looks.stop()
        self._repairs.stop()

    def enter(self, key: str, cookie: int, members: Sequence[tuple[Endpoint, Veth]]) -> None:
        """Judge a sandbox that is set up, before it is published and when its members change.

        Errors: LinkError, DatapathError.
        """
        with self._locks.hold(key):
            self._watch.add(key)  # before the look, so that later changes are reported
            with self._guard:
                before = self._by_key.get(key)
            if before is not None and before.cookie != cookie:
                self._watch.remove(key)  # another namespace at the same path
                self._watch.add(key)
                before = None
            standing = before or Standing(key, cookie, (), {})
            standing.members = tuple(members)
            standing.choices = {endpoint.id: self._choice_of(endpoint) for endpoint, _ in members}
            standing.label = self._label(standing)
            with self._guard:
                self._by_key[key] = standing
                self._keys = {each: at for each, at in self._keys.items() if at != key}
                self._keys.update(dict.fromkeys(standing.choices, key))
            self._verdicts.settle_rules(cookie)
            self._judge(standing, self._inspector.look(
                key, standing.members, underlay=self._underlay, just_set_up=before is None))
            if standing.unsure:
                raise DatapathError("the kernel cannot be told to keep it off the host path")
        if before is None:
            self.on_new()

    def leave(self, key: str) -> None:
        """Release a sandbox that is withdrawn.  Unknown: nothing to do."""
        with self._locks.hold(key):
            self._watch.remove(key)
            with self._guard:
                self._by_key.pop(key, None)
                self._keys = {each: at for each, at in self._keys.items() if at != key}
        self._looks.cancel(key)
        self._repairs.cancel(key)

    def uses_host_path(self, endpoint: Endpoint) -> bool:
        """Return whether the endpoint has a part in its sandbox's host path."""
        if self._underlay is None or (self._underlay.version == 6 and endpoint.address6 is None):
            return False  # it may have got its port while the underlay was another one
        standing = self._standing_of(endpoint.id)
        if standing is None:
            return self._choice_of(endpoint) is not HostPath.OFF
        return standing.uses_host_path(endpoint.id)

    def may_be_called(self, endpoint: Endpoint) -> bool:
        """Return whether peers may use its port now."""
        standing = self._standing_of(endpoint.id)
        if standing is not None and standing.reasons():
            return False
        return self.uses_host_path(endpoint)

    def takes_ipv6(self, endpoint: Endpoint) -> bool:
        """Return whether its connections with IPv6 addresses may use the host path."""
        standing = self._standing_of(endpoint.id)
        return standing is None or standing.takes_ipv6

    def detail(self, endpoint: Endpoint, reason: str) -> str:
        """Say what in its sandbox is behind a reason that the kernel's map has; "": not known."""
        standing = self._standing_of(endpoint.id)
        return standing.detail(Why(reason)) if standing is not None and reason in list(Why) else ""

    def changed(self, key: str) -> None:
        """Inspect the sandbox soon, as something inside has changed."""
        with self._guard:
            standing = self._by_key.get(key)
        if standing is not None:
            rest_s = min(LOOK_SHARE * standing.look_s, LOOK_MAX_S)
            self._looks.submit(key, max(LOOK_S, standing.looked_s + rest_s - self._clock()))

    def tick(self) -> None:
        """Read what programs have done since the last call; called twice a second.

        Error: DatapathError.
        """
        self._watch.sweep()
        entered, notes = self._verdicts.withheld(), self._verdicts.notes()
        with self._guard:
            standings = list(self._by_key.values())
        for standing in standings:
            noted = notes.get(standing.cookie, frozenset())
            if Why.OWN_RULES in noted:
                self._looks.submit(standing.key)
            if standing.unsure or noted & LASTING - standing.noted:
                self._again(standing)
        ours = {standing.cookie for standing in standings}
        for cookie in set(entered) - ours:  # other networks' containers, and earlier ones
            self._verdicts.release(cookie)
        self._verdicts.forget_notes(ours)

    def take_labels(self, labels: Mapping[EndpointId, HostPath]) -> None:
        """Take what Docker says about all containers that have a label."""
        with self._guard:
            self._labels = labels
            standings = list(self._by_key.values())
        for standing in standings:
            with self._locks.hold(standing.key):
                label = self._label(standing)
                if label is standing.label:
                    continue
                before = [standing.uses_host_path(each) for each in standing.choices]
                standing.label = label
                self._apply(standing)
                after = [standing.uses_host_path(each) for each in standing.choices]
            if before != after:
                self.repair(standing.key)  # the programs' entry holds the endpoints' ports

    def counts(self) -> dict[str, int]:
        """Count the sandboxes by why they are kept off the host path; host_path: by nothing."""
        with self._guard:
            standings = list(self._by_key.values())
        counts = dict.fromkeys(("host_path", *Why), 0)
        for each in standings:
            counts[each.entered or "host_path"] += 1
        return counts

    def describe(self) -> str:
        """Describe all sandboxes in one line, for the status."""
        if self._underlay is None:
            return NO_HOST_PATH
        with self._guard:
            standings = list(self._by_key.values())
        counts = Counter(each.entered for each in standings if each.entered is not None)
        if not counts:
            return f"all {len(standings)} sandboxes"
        return (f"{counts.total()} of {len(standings)} sandboxes are off it: "
                + ", ".join(f"{why} {counts[why]}" for why in Why if counts[why]))

    def _label(self, standing: Standing) -> HostPath | None:
        return next((self._labels[endpoint.id] for endpoint, _ in standing.members
                     if endpoint.id in self._labels), None)

    def _standing_of(self, endpoint_id: EndpointId) -> Standing | None:
        with self._guard:
            return self._by_key.get(self._keys.get(endpoint_id, ""))

    def _look(self, key: str) -> None:
        with self._locks.hold(key):
            with self._guard:
                standing = self._by_key.get(key)
            if standing is None:
                return
            began_s = self._clock()
            self._verdicts.settle_rules(standing.cookie)  # first: later changes are noted again
            try:
                findings = self._inspector.look(key, standing.members, underlay=self._underlay)
            except LinkError as error:  # the sandbox or an interface is going, and Leave follows
                log.debug("sandbox %s cannot be looked at: %s", key, error)
                self._looks.submit(key, REPAIRED_S)
                return
            standing.looked_s = self._clock()
            standing.look_s = standing.looked_s - began_s
            self._judge(standing, findings)

    def _judge(self, standing: Standing, findings: Findings) -> None:
        standing.findings = findings
        self._apply(standing)
        if not findings.missing:
            return
        now_s = self._clock()
        if now_s - standing.lost_s > LOST_AGAIN_S:
            standing.lost = 0
        pause_s = min(LOOK_S * 2 ** standing.lost, REPAIR_MAX_S) if standing.lost else 0.0
        standing.lost, standing.lost_s = min(standing.lost + 1, 10), now_s
        self._repairs.submit(standing.key, pause_s)

    def _repair(self, key: str) -> None:
        self.repair(key)
        self._looks.submit(key, REPAIRED_S)  # a successful setup also looks

    def _again(self, standing: Standing) -> None:
        with self._locks.hold(standing.key):
            self._apply(standing)

    def _apply(self, standing: Standing) -> None:
        """Tell the kernel at once, and have the peers told."""
        standing.noted |= self._verdicts.notes_of(standing.cookie) & LASTING
        reasons = standing.reasons()
        before, standing.unsure = standing.entered, False
        standing.entered = reasons[0] if reasons else None
        try:
            if reasons:
                self._verdicts.withhold(standing.cookie, reasons[0])
            else:
                self._release(standing)
        except DatapathError as error:
            standing.unsure = True  # `tick` retries it
            log.error("sandbox %s: %s", standing.key, error)
        if standing.entered is not before:
            self._say(standing)
            delay_s = TELL_LOST_S if reasons == [Why.ROUTING_LOST] else 0.0
            for endpoint, _ in standing.members:
                self.offer(endpoint.id, delay_s)
        self._tell_ipv6(standing)

    def _tell_ipv6(self, standing: Standing) -> None:
        """Have the peers told, and the programs: their entry holds the IPv6 addresses."""
        before, standing.told_ipv6 = standing.told_ipv6, standing.takes_ipv6
        if before in (None, standing.told_ipv6) or not standing.has_ipv6:
            return  # None: it is about to be published
        log.info("sandbox %s: connections with IPv6 addresses %s the host path", standing.key,
                 "use" if standing.told_ipv6 else "stay off")
        for endpoint, _ in standing.members:
            self.offer(endpoint.id, 0.0)
        self.repair(standing.key)

    def _release(self, standing: Standing) -> None:
        self._verdicts.release(standing.cookie)
        # A program may have made its own entry just before, and that is now removed.
        noted = standing.counting(self._verdicts.notes_of(standing.cookie))
        if noted:
            self._verdicts.withhold(standing.cookie, noted[0])
            standing.noted |= frozenset(noted) & LASTING
            if standing.noted:
                standing.entered = standing.reasons()[0]
            self._looks.submit(standing.key)

    def _say(self, standing: Standing) -> None:
        names = ", ".join(f"{endpoint.id[:12]} ({endpoint.address.ip})"
                          for endpoint, _ in standing.members if endpoint.address is not None)
        if standing.entered is None:
            log.info("endpoint %s: new connections use the host path again", names)
        else:
            log.log(logging.WARNING if standing.entered is Why.ROUTING_LOST else logging.INFO,
                    "endpoint %s: new connections stay off the host path: %s", names,
                    standing.explain(standing.entered))
