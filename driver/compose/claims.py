"""Claims the host, its state folder and the socket, before the driver is built.

It loads next to nothing: dockerd gives a managed plugin 9 s for its socket, and on a busy host
loading all parts alone takes longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from driver.api.server import Listener
from driver.compose.ownership import lock_host
from driver.settings import Settings
from driver.state import host


@dataclass(frozen=True)
class Claims:
    """What a driver has claimed; other drivers are kept away until `close`."""

    listener: Listener
    close: Callable[[], None]


def claim(settings: Settings) -> Claims:
    """Claim them.  Errors: SettingsError (another driver runs here), SocketInUseError."""
    # Before touching anything in the kernel that another driver may be using.
    with ExitStack() as held:
        held.enter_context(lock_host())
        held.callback(os.close, host.lock_state(Path(settings.state)))
        listener = Listener(settings.socket)
        held.callback(listener.close)
        return Claims(listener, held.pop_all().close)
