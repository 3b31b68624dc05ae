"""Tests the HTTP side of metrics: one path, one method, one address; and what a taken port says."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from driver.api.metrics_server import AddressInUseError, MetricsServer


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"slim_endpoints 2\n"]


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(host: str) -> Iterator[int]:
    port = free_port(host)
    server = MetricsServer(lambda: app, host, port)
    server.start()
    try:
        yield port
    finally:
        server.stop()
        server.stop()


def ask(host: str, port: int, method: str = "GET", path: str = "/metrics"
        ) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_get_metrics(host: str) -> None:
    with serving(host) as port:
        assert ask(host, port) == (200, "slim_endpoints 2\n")
        assert ask(host, port, path="/metrics?x=1") == (200, "slim_endpoints 2\n")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 404), ("GET", "/metrics/", 404), ("GET", "/favicon.ico", 404),
    ("GET", "/Slim.Status", 404), ("POST", "/NetworkDriver.DeleteNetwork", 404),
    ("POST", "/metrics", 405), ("PUT", "/metrics", 405), ("OPTIONS", "/metrics", 405)])
def test_nothing_else(method: str, path: str, status: int) -> None:
    with serving("127.0.0.1") as port:
        assert ask("127.0.0.1", port, method, path)[0] == status


def test_only_at_its_address() -> None:
    with serving("127.0.0.1") as port, pytest.raises(ConnectionRefusedError):
        ask("127.0.0.2", port)


def test_a_port_that_is_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUseError, match=re.escape(
                f"cannot listen at 127.0.0.1:{port}: Address already in use; end what listens")):
            MetricsServer(lambda: app, "127.0.0.1", port).start()


def test_an_address_that_this_host_does_not_have() -> None:
    with pytest.raises(AddressInUseError, match=r"cannot listen at \[2001:db8::1\]:9500: "):
        MetricsServer(lambda: app, "2001:db8::1", 9500).start()


def test_started_again_at_once() -> None:
    """What is left of closed connections (TIME_WAIT) keeps no new server away."""
    port = free_port("127.0.0.1")
    for _ in range(2):
        server = MetricsServer(lambda: app, "127.0.0.1", port)
        server.start()
        assert ask("127.0.0.1", port)[0] == 200
        server.stop()
