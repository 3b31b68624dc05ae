"""Asks a member's door, from another host: who it is, to join, to renew, to leave."""

from __future__ import annotations

import errno
import hmac
import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

from driver.cluster.addresses import family, place
from driver.cluster.authority import fingerprint, validity
from driver.cluster.folder import ClusterFolder
from driver.cluster.model import DOOR_PORT, address_of
from driver.cluster.tokens import Token
from driver.errors import InvalidArgument, SettingsError, SlimError, StateError

TIMEOUT_S = 10.0
ANSWER_S = 30.0  # etcd may take its time
RESTART_S = 5.0  # within it a door that has ended is there again (slim-cluster's RestartSec is 1)
AGAIN_S = 0.2
ANSWER_MAX_BYTES = 1 << 20
JOIN_AGAIN = ("type `slim cluster join ... --again`, as `slim cluster token` on a member prints "
              "it")
Fields = dict[str, Any]


class NobodyAnswers(SlimError):
    """No door answers there."""


class Refused(SlimError):
    """The door says no; the text is its own."""


def address_towards(member: str) -> str:
    """Return the address from which this host reaches a member; nothing is sent.

    Error: NobodyAnswers (there is no route).
    """
    kind = socket.AF_INET6 if family(member) == "IPv6" else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((member, DOOR_PORT))
        except OSError as error:
            raise NobodyAnswers(_reason(error, member, "")) from error
        return str(probe.getsockname()[0])


def introduce(address: str, source: str, token: Token) -> Fields:
    """Ask who answers at `address`; nothing of ours is sent.

    Return what it says of itself (`ca`, `now`, `cluster`, `host`), only if its CA is the token's.
    Errors: NobodyAnswers; Refused (it is another cluster's).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint decides whom we believe, below
    said = _ask_patiently(context, address, source, "introduce", {})
    try:
        found = fingerprint(str(said["ca"]).encode())
    except (KeyError, InvalidArgument):
        raise NobodyAnswers(f"what answers at {place(address, DOOR_PORT)} is no slim") from None
    names = {name: "".join(filter(str.isprintable, str(said.get(name, "?")))) for name in (
        "cluster", "host")}  # a person's terminal shows them, and nobody has proved anything
    if not hmac.compare_digest(found, token.fingerprint):
        raise Refused(f"the token is of another cluster than the one at {address} "
                      f"({names['cluster'][:100]}): nothing was told to it.  `slim cluster "
                      "token` on one of its members prints its token")
    try:
        return {**said, **names, "now": float(said["now"])}
    except (KeyError, ValueError, TypeError, OverflowError):
        raise NobodyAnswers(f"what answers at {place(address, DOOR_PORT)} is no slim") from None


def ask_as_stranger(address: str, source: str, ca: str, call: str, fields: Mapping[str, Any]
                    ) -> Fields:
    """Ask a member of the cluster whose CA (PEM) is known.  Errors: NobodyAnswers, Refused."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=ca)
    context.check_hostname = False  # only members have a server's certificate of that CA
    return _ask_patiently(context, address, source, call, fields)


def ask_as_host(folder: ClusterFolder, address: str, source: str, call: str,
                fields: Mapping[str, Any]) -> Fields:
    """Ask a member, with this host's certificate.  Errors: NobodyAnswers, Refused."""
    name = "ca.crt"
    try:
        if has_expired(folder):  # a door ends such a connection without a word
            raise Refused(f"this host's certificate has expired: {JOIN_AGAIN}")
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=folder.path / name)
        context.check_hostname = False
        name = "host.crt"
        context.load_cert_chain(folder.path / name, folder.path / "host.key")
    except (OSError, StateError, SettingsError) as error:  # ssl.SSLError is an OSError
        raise NobodyAnswers(f"{folder.path / name} cannot be used: {error}") from error
    return _ask(context, address, source, call, fields)


def has_expired(folder: ClusterFolder) -> bool:
    """Tell whether this host's certificate has.  Errors: StateError, SettingsError."""
    return validity(folder.read("host.crt"), "host.crt").until_s < time.time()


def ask_members(folder: ClusterFolder, source: str, call: str, fields: Mapping[str, Any]) -> Fields:
    """Ask the members' doors in turn, as this host; return the first answer.

    Errors: NobodyAnswers, Refused; that of the last one.
    """
    failed: SlimError = NobodyAnswers("no member of etcd is known")
    for url in folder.endpoints():
        try:
            return ask_as_host(folder, address_of(url), source, call, fields)
        except SlimError as error:
            failed = error
    raise failed


def _ask_patiently(context: ssl.SSLContext, address: str, source: str, call: str,
                   fields: Mapping[str, Any]) -> Fields:
    """Ask the one door that there is to ask, which may be being started again."""
    ends_s = time.monotonic() + RESTART_S
    while True:
        try:
            return _ask(context, address, source, call, fields)
        except NobodyAnswers as error:
            if not isinstance(error.__cause__, ConnectionRefusedError) or (
                    time.monotonic() >= ends_s):
                raise
            time.sleep(AGAIN_S)


def _ask(context: ssl.SSLContext, address: str, source: str, call: str,
         fields: Mapping[str, Any]) -> Fields:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    connection = http.client.HTTPSConnection(
        address, DOOR_PORT, timeout=TIMEOUT_S, context=context,
        source_address=(source, 0) if source else None)
    try:
        connection.connect()
        connection.sock.settimeout(ANSWER_S)
        connection.request("POST", f"/{call}", json.dumps(fields, sort_keys=True).encode())
        with connection.getresponse() as answer:
            said = json.loads(answer.read(ANSWER_MAX_BYTES))
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise NobodyAnswers(_reason(error, address, source)) from error
    finally:
        connection.close()
    if not isinstance(said, dict):
        raise NobodyAnswers(f"what answers at {place(address, DOOR_PORT)} is no slim")
    if answer.status != 200:
        raise Refused(str(said.get("error", f"HTTP status {answer.status}"))[:1000])
    return said


def _reason(error: Exception, address: str, source: str) -> str:
    where = place(address, DOOR_PORT)
    if isinstance(error, ConnectionRefusedError):
        return (f"nothing listens at {where}: is that a member of the cluster (`slim cluster "
                "status` lists them), and does slim-cluster run there?")
    if isinstance(error, TimeoutError | socket.timeout):
        return (f"no answer from {where}: is the address right, and is TCP port {DOOR_PORT} open "
                "between the hosts?")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {where} is not right: {error.verify_message}"
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return f"there is no way to {address} from here: is the address right?"
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return f"{source} is no address of this host: see `ip address`, and --address"
    return f"what answers at {where} is no slim ({error})"
