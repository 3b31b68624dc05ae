"""Stand-in for a driver that cannot start (wrong settings, failed start): answers with the reason.

To Docker a plugin that exits "does not start", after 12 seconds and without a reason; a plugin
that runs can report the reason where its user looks.
"""

from __future__ import annotations

import logging
import select
import signal
import threading

from driver.api.refusal import create_refusing_app
from driver.api.server import ApiServer, Listener
from driver.errors import SlimError

log = logging.getLogger(__name__)

WAITING_S = 1.0  # for calls that arrived while the driver was starting
AGAIN_S = 30.0  # the cause may go away: another driver ends, or a late device appears


def refuse_all(socket: str, reason: str, for_s: float = AGAIN_S) -> bool:
    """Answer every call with `reason` until SIGTERM or SIGINT (True), or for `for_s` s (False).

    Error: SocketInUseError.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    log.error("%s", reason)
    server = ApiServer(create_refusing_app(reason), socket, threads=4)
    server.start()
    told.wait(for_s)
    server.stop()
    return told.is_set()


def refuse_who_waits(listener: Listener, error: SlimError) -> None:
    """Answer the calls that wait for a driver that fails to start, with the reason.

    Without an answer dockerd retries each call for 15 s, while its own start waits.
    """
    poll = select.poll()
    poll.register(listener.socket, select.POLLIN)
    if not poll.poll(0):
        return
    server = ApiServer(create_refusing_app(f"slim does not start: {error}"), listener.path,
                       threads=4, listener=listener)
    server.start()
    threading.Event().wait(WAITING_S)
    server.stop()
