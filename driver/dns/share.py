"""Has what one sandbox asks for done in its turns, and no more of it than its share of the thread.

However it asks: by datagrams, connections, or answers that it forges.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, Protocol

Act = Callable[[], None]

# Of the thread's time, on average, and seconds of it at once: thousands of queries a second.
SHARE: Final = 0.25
BURST_S: Final = 0.25
TURN_S: Final = 0.0005  # then the others have their turns; an act that has begun is done
PAUSE_S: Final = 0.02  # for which a sandbox waits at least when it has used its share up


class Loop(Protocol):
    """What calls acts.  Of dns.server.NameServer."""

    turn: int  # grows with each round

    def watch(self, watched: socket.socket, act: Callable[[], object]) -> None:
        """Have an act called in each round in which the socket can be read, until `unwatch`."""

    def unwatch(self, watched: socket.socket) -> None: ...

    def soon(self, act: Callable[[], object]) -> None:
        """Have an act called once, in the next round."""

    def pause(self, share: Share) -> None:
        """Call its `go_on` in PAUSE_S, until it has gone on."""

    def clock(self) -> float:
        """Return seconds, monotonic."""

    def spent(self) -> float:
        """Return seconds of CPU that this thread has taken."""


class Share:
    """A sandbox's sockets and acts.  For the loop's thread only.

    A sandbox that has used its share up waits, with all its sockets.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._watched: dict[socket.socket, Act] = {}
        self._held: list[Act] = []
        self._paused = False
        self._left_s, self._filled_s = BURST_S, loop.clock()
        self._turn, self._turn_s = loop.turn, 0.0  # what it has taken of this round
        self._charged_s = loop.spent()

    def watch(self, watched: socket.socket, act: Act) -> None:
        """See Loop."""
        self._watched[watched] = act
        if not self._paused:
            self._loop.watch(watched, lambda: self._do(act))

    def unwatch(self, watched: socket.socket) -> None:
        """See Loop."""
        del self._watched[watched]
        if not self._paused:
            self._loop.unwatch(watched)

    def soon(self, act: Act) -> None:
        """See Loop; or in a later round."""
        if self._paused:
            self._held.append(act)
        else:
            self._loop.soon(lambda: self._do_or_wait(act))

    def lasts(self) -> bool:
        """Say within an act whether this turn lasts for another query."""
        self._charge()
        return self._left_s > 0 and self._turn_s < TURN_S

    def go_on(self) -> bool:
        """Go on after a pause, if there is something to go on with; return whether it goes on."""
        self._fill()
        if self._paused and self._left_s > 0:
            self._paused = False
            for watched, act in list(self._watched.items()):
                self.watch(watched, act)
            held, self._held = self._held, []
            for act in held:
                self.soon(act)
        return not self._paused

    def _fill(self) -> None:
        now_s = self._loop.clock()
        self._left_s = min(BURST_S, self._left_s + SHARE * (now_s - self._filled_s))
        self._filled_s = now_s

    def _do_or_wait(self, act: Act) -> None:
        if not self._do(act):
            self.soon(act)

    def _do(self, act: Act) -> bool:
        """Return False if it has to wait for another turn."""
        if self._loop.turn != self._turn:
            self._turn, self._turn_s = self._loop.turn, 0.0
        if self._paused or self._turn_s >= TURN_S:
            return False
        self._charged_s = self._loop.spent()
        try:
            act()
        finally:
            self._charge()
            self._fill()
            if self._left_s <= 0:
                self._pause()
        return True

    def _pause(self) -> None:
        self._paused = True
        for watched in self._watched:
            self._loop.unwatch(watched)
        self._loop.pause(self)

    def _charge(self) -> None:
        spent_s = self._loop.spent()
        self._left_s -= spent_s - self._charged_s
        self._turn_s += spent_s - self._charged_s
        self._charged_s = spent_s
