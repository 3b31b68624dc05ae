"""Runs `slim ui`: serves the page of the cluster until it is told to stop."""

from __future__ import annotations

import ipaddress
import signal
import threading
from functools import partial
from typing import Any, Final

from driver.api.metrics_server import TcpListener
from driver.api.page.app import create_page
from driver.api.page.feed import BROWSERS, Feed
from driver.api.page.guard import Guard
from driver.api.server import ApiServer
from driver.commands.control_client import ask
from driver.commands.saying import say
from driver.commands.seeing_options import UI_AT
from driver.errors import SettingsError
from driver.settings import Settings, SocketAddress, parse_socket_address

THREADS: Final = BROWSERS + 4  # a browser that follows has one
CONNECTIONS: Final = 200  # a browser has some, for the page's files


def run_ui(settings: Settings, at: str) -> int:
    """Serve at `at`, ADDRESS:PORT, until SIGTERM or SIGINT; return 0.

    Errors: SettingsError, AddressInUseError.
    """
    try:
        place = parse_socket_address(at)
    except ValueError as error:
        raise SettingsError(f"ui {at}: {error}") from None
    if place is None:
        raise SettingsError(f"ui: want ADDRESS:PORT, as in {UI_AT}")
    ports = settings.port_range
    if ports.first <= place.port <= ports.last:
        raise SettingsError(f"ui {at}: the port is one of --port-range={ports}, whose packets are "
                            "for containers; choose another one")
    listener = TcpListener(place.host, place.port, "address for `slim ui`")
    guard = Guard(place.host, place.port)
    feed = Feed(partial(_picture, settings.socket))
    server = ApiServer(create_page(feed, guard), listener.path, threads=THREADS,
                       listener=listener, name="page server", connections=CONNECTIONS)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    server.start()
    feed.start()
    say(f"the page: {_url(place, guard)} (Ctrl-C ends it)")
    try:
        told.wait()
    finally:
        feed.stop()
        server.stop()
    return 0


def _url(place: SocketAddress, guard: Guard) -> str:
    """Return what to open."""
    anywhere = ipaddress.ip_address(place.host).is_unspecified
    host = f"ADDRESS-OF-THIS-HOST:{place.port}" if anywhere else str(place)
    return f"http://{host}/" + (f"?token={guard.token}" if guard.needs_token else "")


def _picture(socket: str, cluster: bool) -> dict[str, Any]:
    return ask(socket, "Slim.Picture", {"Cluster": cluster})
