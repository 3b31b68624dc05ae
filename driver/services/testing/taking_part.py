"""Takes part in rounds for this host: gets ready, sends when told, and writes its row.

One round at a time, with a rest after each: whoever asks without end makes nobody flood.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from driver.errors import LinkError, SlimError
from driver.model import HostAddress, HostId
from driver.services.ports import Marker, Marking, Participant, Round, Rounds, Row, Target
from driver.services.testing.plan import apart, target
from driver.work import deadline
from driver.work.later import Later

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3  # of each packet: three lost ones are no accident
PAUSE_S: Final = 0.25  # between attempts
LAST_S: Final = 0.7  # to hear others, who were told to send at about the same time
GO_S: Final = 15.0  # to wait for the word to send
REST_S: Final = 1.0  # after a round, before another one is looked at
CALLS_S: Final = 5.0  # for etcd's part before sending, and after it


class TakingPart:
    """Serves rounds in a thread of its own.  `asked` may be called from any thread."""

    def __init__(self, *, me: HostId, rounds: Rounds, marker: Marker,
                 describe: Callable[[], Participant],
                 troubles: Callable[[], Mapping[HostAddress, str]]) -> None:
        """describe: returns this host as it is now.

        troubles: what the driver's own probes have found, by the other host's underlay address.
        """
        self._me = me
        self._rounds = rounds
        self._marker = marker
        self._describe = describe
        self._troubles = troubles
        self._changed = threading.Condition()  # guards the next three
        self._asked: Round | None = None
        self._served = b""  # token of the last round that was begun here
        self._stopped = False
        self._later: Later[None] = Later(self._work, threads=1, name="slim test")

    def start(self) -> None:
        """Start serving."""
        self._later.start()

    def stop(self) -> None:
        """Stop; a round under way is given up."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._later.stop()

    def asked(self, asked: Round | None) -> None:
        """Take the round that is under way now; None: there is none.  Returns at once."""
        with self._changed:
            self._asked = asked
            self._changed.notify_all()
        if asked is not None:
            self._later.submit(None)

    def _work(self, _: None) -> None:
        with self._changed:
            asked = self._asked
            if asked is None or asked.token == self._served or self._stopped:
                return
            self._served = asked.token
        try:
            self._serve(asked)
        except SlimError as error:
            # Whoever asked for it may have gone; but sockets should always open.
            log.log(logging.WARNING if isinstance(error, LinkError) else logging.INFO,
                    "a test of the ways between hosts, asked for on %r, was given up: %s",
                    asked.asker, error)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, REST_S)
        self._later.submit(None)  # another round may have come meanwhile

    def _serve(self, asked: Round) -> None:
        with deadline.limit(CALLS_S):
            described = self._describe()
        with self._marker.marking(asked.token) as marking:
            with deadline.limit(CALLS_S):
                self._rounds.enter(asked, described)
            if not self._told_to_send(asked):
                return
            with deadline.limit(CALLS_S):
                targets = self._targets(asked, described)
            few = [replace(target, whole=target.whole[:1]) for target in targets]
            for attempt in range(ATTEMPTS):
                # All sizes once, when the first packets have found the way (ARP, or NDP).
                marking.send(targets if attempt == 1 else few)
                marking.listen(PAUSE_S)
            marking.listen(LAST_S)
            row = self._row(marking)
        with deadline.limit(CALLS_S):
            self._rounds.put_row(asked, row)

    def _told_to_send(self, asked: Round) -> bool:
        def over() -> bool:
            now = self._asked
            return self._stopped or now is None or now.token != asked.token or now.go

        with self._changed:
            self._changed.wait_for(over, GO_S)
            now = self._asked
            return not self._stopped and now is not None and (
                now.token == asked.token and now.go)

    def _targets(self, asked: Round, described: Participant) -> list[Target]:
        """Return the others, at the addresses under which they are registered: no third party's."""
        live = self._rounds.live()
        return [target(described, peer)
                for host_id, peer in self._rounds.participants(asked).items()
                if asked.includes(self._me, host_id)
                and host_id in live and live[host_id].underlay == peer.underlay
                and not apart(described.underlay, peer.underlay)]

    def _row(self, marking: Marking) -> Row:
        troubles = self._troubles()
        sent = {host: replace(each, trouble=troubles.get(host, ""))
                for host, each in marking.sent().items()}
        return Row(self._me, sent, marking.heard())
