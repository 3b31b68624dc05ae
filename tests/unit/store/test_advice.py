"""What a user is told of etcd's refusals, from the words that gRPC and etcd really used.

The client's own tests (tests/contract) have the calls.
"""

from __future__ import annotations

import pytest

from driver.store.etcd.advice import DEFAULT, advice, said, told

REFUSED = "Connection refused"


@pytest.mark.parametrize(("details", "line"), [
    ("UNKNOWN: ipv4:198.18.0.254:2071: Failed to connect to remote host: Connection refused",
     REFUSED),
    ("failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:2379: "
     "Failed to connect to remote host: No route to host", "No route to host"),
    ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:2379: "
     "Socket closed", "UNAVAILABLE: ipv4:127.0.0.1:2379: Socket closed"),
    ("etcdserver: no leader", "etcdserver: no leader"),
])
def test_the_part_that_tells_something(details: str, line: str) -> None:
    assert said(details) == line


def test_each_reason_once() -> None:
    assert told([("http://a:1", REFUSED), ("http://b:1", "no answer in time"),
                 ("http://c:1", REFUSED)]) == (
        "http://a:1, http://c:1: Connection refused; http://b:1: no answer in time")
    assert told([]) == ""


def test_what_any_endpoint_said_is_what_is_to_be_done() -> None:
    assert "start more of its members" in advice(
        [("http://a:1", REFUSED), ("http://b:1", "etcdserver: no leader")])
    assert advice([("http://a:1", REFUSED)]) == DEFAULT
    assert "https://" in advice([("http://a:1", "UNAVAILABLE: ipv4:127.0.0.1:2379 Socket closed")])
