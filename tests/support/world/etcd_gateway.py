"""Reads etcd over its JSON gateway, which costs a fraction of a start of etcdctl: tests read often.

In whatever namespace etcd is served.  What only etcdctl can do, tests do by etcdctl.
"""

from __future__ import annotations

import json
import socket
import ssl
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from driver.link.netlink.netns import run_in
from driver.store.kv.protocol import Entry
from driver.store.kv.transaction import prefix_end


class GatewayError(Exception):
    """No endpoint has answered as it should."""


@dataclass(frozen=True)
class Read:
    """A key as it is stored; `lease`: its id, or 0."""

    entry: Entry
    lease: int


@dataclass
class EtcdGateway:
    """One etcd, by its endpoints' URLs."""

    urls: Sequence[str]
    netns: str = ""  # path of the namespace in which it is served; "": here
    tls: tuple[str, str, str] | None = None  # files of CA, certificate and key
    user: str = ""  # NAME:PASSWORD, once authentication is on
    timeout_s: float = 30.0
    _token: str = field(default="", init=False)

    def range(self, prefix: str) -> list[Read]:
        """What there is under a prefix, in order.  Error: GatewayError."""
        answer = self._ask("/v3/kv/range", {
            "key": _text(prefix.encode()), "range_end": _text(prefix_end(prefix))})
        return [Read(Entry(b64decode(kv["key"]).decode(), b64decode(kv.get("value", "")),
                           int(kv["mod_revision"])), int(kv.get("lease", 0)))
                for kv in answer.get("kvs", ())]

    def serves(self, url: str) -> bool:
        """Whether that endpoint answers a linearizable read: it knows a leader."""
        try:
            self._post(url, "/v3/kv/range", {"key": _text(b"x")}, 3)
        except GatewayError:
            return False
        return True

    def _ask(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        failures = []
        for url in self.urls:
            try:
                return self._post(url, path, body, self.timeout_s)
            except GatewayError as error:
                failures.append(f"{url}: {error}")
        raise GatewayError("; ".join(failures))

    def _post(self, url: str, path: str, body: dict[str, str], timeout_s: float) -> dict[str, Any]:
        if self.user and not self._token:
            name, _, password = self.user.partition(":")
            self._token = self._send(url, "/v3/auth/authenticate", {
                "name": name, "password": password}, timeout_s)["token"]
        try:
            return self._send(url, path, body, timeout_s)
        except GatewayError:
            self._token = ""  # it ends by itself
            raise

    def _send(self, url: str, path: str, body: dict[str, str], timeout_s: float
              ) -> dict[str, Any]:
        at = urlsplit(url)
        assert at.hostname
        assert at.port
        address = at.hostname, at.port

        def connect() -> socket.socket:
            return socket.create_connection(address, timeout_s)

        connection = HTTPConnection(at.hostname, at.port)
        try:
            connection.sock = run_in(self.netns, connect) if self.netns else connect()
            if self.tls:
                context = ssl.create_default_context(cafile=self.tls[0])
                context.load_cert_chain(*self.tls[1:])
                connection.sock = context.wrap_socket(connection.sock,
                                                      server_hostname=at.hostname)
            connection.request("POST", path, json.dumps(body),
                               {"Authorization": self._token} if self._token else {})
            answer = connection.getresponse()
            read = answer.read().decode()
        except (OSError, HTTPException) as error:
            raise GatewayError(str(error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise GatewayError(read)
        found = json.loads(read)
        assert isinstance(found, dict)
        return found


def _text(value: bytes) -> str:
    return b64encode(value).decode()
