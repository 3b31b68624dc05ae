"""Converts bytes to checked values and back: JSON objects and the types of their fields.

dockerd sends no Content-Type, and after a lost connection repeats a request with an empty body:
such a body must never count as a request.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from ipaddress import (
    AddressValueError,
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    NetmaskValueError,
    ip_network,
)
from typing import TypeVar

from driver.errors import InvalidRequest
from driver.model import EndpointId, NetworkId

T = TypeVar("T")

# 64 hex digits, or 25 base-36 digits for a swarm network; the pattern only excludes what could
# do harm in an etcd key or a log line.
_NETWORK_ID = re.compile(r"[0-9A-Za-z]{1,64}")
# Interface names use its first digits.
_ENDPOINT_ID = re.compile(r"[0-9a-f]{16,64}")
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")


class Fields:
    """A JSON object whose fields are read by name and type.

    Absent, null and the type's zero value are the same, as in Go.
    Every method raises InvalidRequest, naming the field, if its value has another shape.
    """

    def __init__(self, members: dict[str, object], where: str = "") -> None:
        self._members = members
        self._where = where

    def itself(self) -> Fields:
        """Return the object unchanged, for calls whose arguments do not matter."""
        return self

    def names(self) -> list[str]:
        """Return the names of the fields that are present."""
        return list(self._members)

    def text(self, name: str, *, required: bool = False) -> str:
        """Return a string; `required`: it must not be empty."""
        value = self._members.get(name)
        if value is None:
            value = ""
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        if required and not value:
            raise InvalidRequest(f"field {self._where}{name} is missing or empty")
        if "\0" in value:
            raise InvalidRequest(f"field {self._where}{name} contains a zero byte")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean, False when absent."""
        value = self._members.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def part(self, name: str) -> Fields:
        """Return an object, empty when absent."""
        value = self._members.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return Fields(value, f"{self._where}{name}.")

    def parts(self, name: str) -> list[Fields]:
        """Return a list of objects, empty when absent."""
        value = self._members.get(name)
        if value is None:
            value = []
        if not isinstance(value, list):
            raise self._wrong(name, "a list", value)
        found = []
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise self._wrong(f"{name}[{index}]", "an object", item)
            found.append(Fields(item, f"{self._where}{name}[{index}]."))
        return found

    def text_map(self, name: str) -> dict[str, str]:
        """Return an object of strings, empty when absent."""
        part = self.part(name)
        return {key: part.text(key) for key in part.names()}

    def network_id(self) -> NetworkId:
        """Return the field NetworkID, which every network call has."""
        return NetworkId(self._matching("NetworkID", _NETWORK_ID, "a network id"))

    def endpoint_id(self) -> EndpointId:
        """Return the field EndpointID."""
        return EndpointId(self._matching("EndpointID", _ENDPOINT_ID, "hex digits"))

    def ipv4(self, name: str) -> IPv4Interface | None:
        """Return an IPv4 address with prefix length, None when empty."""
        return self._parsed(name, IPv4Interface, "an IPv4 address with prefix length")

    def ipv6(self, name: str) -> IPv6Interface | None:
        """Return an IPv6 address with prefix length, None when empty."""
        return self._parsed(name, IPv6Interface, "an IPv6 address with prefix length")

    def subnet(self, name: str) -> IPv4Network | IPv6Network:
        """Return a subnet in CIDR form; host bits are cut off."""
        text = self.text(name, required=True)
        try:
            return ip_network(text, strict=False)
        except ValueError as error:
            raise self._wrong(name, "a subnet", text) from error

    def mac(self, name: str) -> bytes | None:
        """Return a MAC address in colon form as six bytes, None when empty."""
        text = self.text(name)
        if not text:
            return None
        if not _MAC.fullmatch(text):
            raise self._wrong(name, "a MAC address", text)
        return bytes.fromhex(text.replace(":", "").replace("-", ""))

    def base64_mac(self, name: str) -> bytes | None:
        """Return a MAC address in the base64 of Go's JSON byte slices, None when empty."""
        text = self.text(name)
        if not text:
            return None
        try:
            mac = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._wrong(name, "six bytes in base64", text) from error
        if len(mac) != 6:
            raise self._wrong(name, "six bytes in base64", text)
        return mac

    def _matching(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        text = self.text(name, required=True)
        if not pattern.fullmatch(text):
            raise self._wrong(name, what, text)
        return text

    def _parsed(self, name: str, parse: Callable[[str], T], what: str) -> T | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return parse(text)
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            raise self._wrong(name, what, text) from error

    def _wrong(self, name: str, wanted: str, value: object) -> InvalidRequest:
        shown = json.dumps(value, default=repr)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return InvalidRequest(f"field {self._where}{name}: want {wanted}, got {shown}")


def decode(body: bytes) -> Fields:
    """Decode a request's body.  Error: InvalidRequest if it is empty or no JSON object."""
    if not body.strip():
        # dockerd has already read the body of its own request, and nobody knows what it was.
        raise InvalidRequest("the driver was restarted during this call, and Docker repeats it "
                             "without its content: run the command again")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the request's body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the request's body is not a JSON object")
    return Fields(value)


def encode(members: dict[str, object]) -> bytes:
    """Encode an answer: one JSON object and a newline."""
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def encode_error(text: str) -> bytes:
    """Encode an error for both kinds of driver: dockerd reads Err of one, Error of the other."""
    return encode({"Err": text, "Error": text})


def mac_text(mac: bytes) -> str:
    """Return the colon form of a MAC of six bytes."""
    return mac.hex(":")
