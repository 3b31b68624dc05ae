"""Serves the page of a fake driver, as `slim ui` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from driver.api.metrics_server import TcpListener
from driver.api.page.app import create_page
from driver.api.page.feed import Feed
from driver.api.page.guard import Guard
from driver.api.server import ApiServer
from driver.commands.ui import CONNECTIONS, THREADS


@dataclass(frozen=True)
class Served:
    """A page."""

    port: int
    feed: Feed
    server: ApiServer

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def page(ask: Callable[[bool], dict[str, Any]], guard: Guard | None = None,
         past: Iterable[dict[str, Any]] = ()) -> Iterator[Served]:
    """Serve it on loopback.  guard: None: that of a loopback address.  past: pictures of before."""
    listener = TcpListener("127.0.0.1", 0)
    port = int(listener.socket.getsockname()[1])
    feed = Feed(ask)
    for each in past:
        feed.history.add(each)
    server = ApiServer(create_page(feed, guard or Guard("127.0.0.1", port)), listener.path,
                       threads=THREADS, listener=listener, name="page server",
                       connections=CONNECTIONS)
    server.start()
    feed.start()
    try:
        yield Served(port, feed, server)
    finally:
        feed.stop()
        server.stop()
