"""A raw HTTP client that speaks to a unix socket as dockerd does: no Content-Type, any Host."""

from __future__ import annotations

import json
from dataclasses import dataclass

from driver.process.unix_http import UnixConnection


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes

    @property
    def json(self) -> dict:  # type: ignore[type-arg]
        value = json.loads(self.body)
        assert isinstance(value, dict), self.body
        return value

    @property
    def error(self) -> str:
        """The error text; both spellings must agree."""
        assert self.json.get("Err") == self.json.get("Error"), self.body
        return self.json.get("Err", "")


class Dockerd:
    """Calls a plugin on its socket, one connection a call."""

    def __init__(self, path: str, host: str = "") -> None:
        self.path = path
        self.host = host  # 20.10 sends an empty Host

    def raw(self, method: str, body: bytes, verb: str = "POST") -> Reply:
        connection = UnixConnection(self.path)
        try:
            connection.putrequest(verb, "/" + method, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", self.host)
            connection.putheader("User-Agent", "Go-http-client/1.1")
            connection.putheader("Content-Length", str(len(body)))
            connection.putheader("Accept", "application/vnd.docker.plugins.v1.2+json")
            connection.endheaders(body)
            response = connection.getresponse()
            return Reply(response.status, response.read())
        finally:
            connection.close()

    def call(self, method: str, **fields: object) -> Reply:
        return self.raw(method, json.dumps(fields).encode() + b"\n")

    def ok(self, method: str, **fields: object) -> dict:  # type: ignore[type-arg]
        """Call and expect success, as dockerd judges it."""
        reply = self.call(method, **fields)
        assert reply.status == 200, (method, reply)
        assert not reply.error, (method, reply)
        return reply.json
