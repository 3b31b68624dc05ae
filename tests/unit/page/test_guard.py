"""Tests who may have the page: tokens, and the names that a browser asks for."""

from __future__ import annotations

import pytest

from driver.api.page.guard import Guard, is_meant


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1"])
def test_loopback_needs_no_token(host: str) -> None:
    guard = Guard(host, 8118)
    assert guard.token == ""
    assert guard.knows(None)


@pytest.mark.parametrize("host", ["10.0.0.1", "0.0.0.0", "::", "fd00::1"])
def test_others_need_the_token(host: str) -> None:
    guard = Guard(host, 8118)
    assert len(guard.token) >= 32
    assert guard.knows(guard.token)
    assert not any(map(guard.knows, (None, "", guard.token[:-1], guard.token + "x", "ü\udcff")))


def test_each_has_another_token_and_each_port_another_cookie() -> None:
    one, other = Guard("10.0.0.1", 8118), Guard("10.0.0.1", 8119)
    assert one.token != other.token
    assert one.cookie != other.cookie


@pytest.mark.parametrize("header", ["127.0.0.1", "127.0.0.1:8118", "localhost:9000", "LOCALHOST",
                                    "[::1]:8118", "[fd00::1]", "10.0.0.1:8118"])
def test_addresses_are_meant(header: str) -> None:
    assert is_meant(header)


@pytest.mark.parametrize("header", [
    None, "", "evil.example", "evil.example:8118", "localhost.evil.example",
    "127.0.0.1.evil.example", "[::1", "[::1]x", "::1", "127.0.0.1:x", "127.0.0.1:8118:1", "127.1",
    "127.0.0.1@evil.example"])
def test_names_are_not(header: str | None) -> None:
    assert not is_meant(header)
