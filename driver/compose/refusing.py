"""Stand-in for a driver that cannot start (wrong settings, failed start): answers with the reason.

Without a socket dockerd looks for it for 15 s at each call, one after the other: with forty
containers its own start took twenty minutes.  A managed plugin that exits "does not start" to
Docker, after 12 seconds and without a reason.
"""

from __future__ import annotations

import logging
import select
import signal
import threading
from collections.abc import Callable

from driver.api.refusal import create_refusing_app
from driver.api.server import ApiServer, Listener
from driver.errors import DOES_NOT_START, SlimError

log = logging.getLogger(__name__)

WAITING_S = 1.0  # for calls that arrived while the driver was starting
# Until the next attempt, in a new process: the cause may go away.
SOON_S = 5.0  # a late device or address appears
LATER_S = 30.0  # somebody corrects a setting, or ends another driver


def refuse_all(socket: str, reason: str, scope: str | None, for_s: float,
               ready: Callable[[], None] = lambda: None) -> bool:
    """Answer every call with `reason` until SIGTERM or SIGINT (True), or for `for_s` s (False).

    scope: see create_refusing_app.  ready: called once calls are answered.
    Error: SocketInUseError.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    log.error("%s", reason)
    server = ApiServer(create_refusing_app(reason, scope), socket, threads=4)
    server.start()
    ready()
    told.wait(for_s)
    server.stop()
    return told.is_set()


def refuse_who_waits(listener: Listener, scope: str, error: SlimError) -> None:
    """Answer the calls that wait for a driver that fails to start, with the reason.

    Without an answer dockerd retries each call for 15 s, while its own start waits.
    """
    poll = select.poll()
    poll.register(listener.socket, select.POLLIN)
    if not poll.poll(0):
        return
    server = ApiServer(create_refusing_app(f"{DOES_NOT_START}: {error}", scope), listener.path,
                       threads=4, listener=listener)
    server.start()
    threading.Event().wait(WAITING_S)
    server.stop()
