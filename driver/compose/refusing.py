"""Owns the driver that cannot be: a managed plugin whose settings are wrong.

To Docker a plugin that ends is one that "does not start", after 12 seconds and without a reason;
one that runs can say it where its user looks.
"""

from __future__ import annotations

import logging
import signal
import threading

from driver.api.refusal import create_refusing_app
from driver.api.server import ApiServer

log = logging.getLogger(__name__)

AGAIN_S = 30.0  # what is wrong may be another driver that ends, or a device that comes late


def refuse_all(socket: str, reason: str, for_s: float = AGAIN_S) -> bool:
    """Answer every call with `reason` until SIGTERM or SIGINT (True), or for so long (False).

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
