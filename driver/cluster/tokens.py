"""Spells the token with which a host joins: what proves the cluster to it, and it to the cluster.

    SLIM-1-<the CA's fingerprint>-<a secret and a checksum>

Both parts are base32 (RFC 4648) in lower case without padding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from driver.errors import InvalidArgument

PREFIX = "SLIM-1-"
SECRET_BYTES = 16
FINGERPRINT_BYTES = 32
CHECKSUM_BYTES = 2
_SHAPE = re.compile(r"SLIM-(\d+)-([a-z2-7]+)-([a-z2-7]+)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Token:
    """fingerprint: SHA-256 of the CA's certificate in DER, 32 bytes; secret: 16 bytes."""

    fingerprint: bytes
    secret: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{PREFIX}{_text(self.fingerprint)}-{_text(self.secret + _checksum(self))}"

    @property
    def name(self) -> str:
        """Return what may be said of it in public: 16 hex digits that tell it from others."""
        return name_of(self.secret)

    def proof(self, request: bytes) -> str:
        """Return, in hex, what only somebody who has the secret can add to `request` (RFC 2104)."""
        return proof(self.secret, request)


def new_secret() -> bytes:
    """Return a secret that nobody can guess."""
    return secrets.token_bytes(SECRET_BYTES)


def name_of(secret: bytes) -> str:
    """Return the public name of a secret."""
    return hashlib.sha256(b"slim token name" + secret).hexdigest()[:16]


def proof(secret: bytes, request: bytes) -> str:
    """Return the HMAC-SHA-256 of `request`, in hex."""
    return hmac.new(secret, request, hashlib.sha256).hexdigest()


def parse(text: str) -> Token:
    """Read a token as a person pasted it.  Error: InvalidArgument, without the secret."""
    shape = _SHAPE.fullmatch(text.strip())
    if shape is None:
        raise InvalidArgument("this is no token: it begins with SLIM-1- and is one word of some "
                              "90 characters; `slim cluster token` prints it on a member")
    if shape[1] != "1":
        raise InvalidArgument(f"this token is of version {shape[1]}, this slim knows version 1: "
                              "install the slim that the cluster has")
    try:
        fingerprint, rest = (_bytes(part) for part in shape.groups()[1:])
    except binascii.Error:
        fingerprint = rest = b""
    token = Token(fingerprint, rest[:SECRET_BYTES])
    if (len(fingerprint) != FINGERPRINT_BYTES or len(rest) != SECRET_BYTES + CHECKSUM_BYTES
            or rest[SECRET_BYTES:] != _checksum(token)
            or str(token).lower() != shape[0].lower()):  # bits that base32 does not need
        raise InvalidArgument("a character of this token is missing or wrong: copy it once more, "
                              "whole")
    return token


def _checksum(token: Token) -> bytes:
    return hashlib.sha256(token.fingerprint + token.secret).digest()[:CHECKSUM_BYTES]


def _text(content: bytes) -> str:
    return base64.b32encode(content).decode().rstrip("=").lower()


def _bytes(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
