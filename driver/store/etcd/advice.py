"""Tells a user what to do about etcd's refusals, from the error texts of gRPC and etcd.

The first pattern of the table that matches any endpoint's error decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from driver.store.format.keys import ROOT

DEFAULT = "try again when etcd is back"
SAID_MAX = 300  # characters of somebody else's text

# What an error text has in it -> what to do.  The first line that fits any endpoint's counts.
_ADVICE = (
    ("database space exceeded", "etcd's space quota is used up: compact and defragment it, then "
     "disarm its alarm (docs/recovery.md)"),
    ("invalid user ID or password", "etcd refuses user or password: correct --etcd-user, or the "
     "file of --etcd-password-file (it is read again, no restart)"),
    ("user name is empty", "etcd wants a login: set --etcd-user and --etcd-password-file"),
    ("permission denied", f"etcd's user may not do this: grant its role readwrite on the prefix "
     f"{ROOT}"),
    ("certificate has expired", "etcd's certificate has expired: renew it where etcd runs"),
    ("certificate is not yet valid", "etcd's certificate is not valid yet: compare the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "etcd's certificate is not signed by a CA of --etcd-ca: "
     "correct one of them (the file is read again, no restart)"),
    ("Hostname Verification", "etcd's certificate is not for the address that --etcd names: give "
     "one that is in it"),
    ("security handshaker", "the files of --etcd-ca, --etcd-cert and --etcd-key are no PEM files, "
     "or do not belong together: correct them (they are read again, no restart)"),
    # What a client sees of an alert that comes after its own part of the handshake.
    ("TSI_DATA_CORRUPTED", "etcd refuses this host's certificate, or wants one: correct the files "
     "of --etcd-cert and --etcd-key (they are read again, no restart)"),
    ("WRONG_VERSION_NUMBER", "no TLS is spoken there: perhaps --etcd should say http://"),
    # While connecting; a member that dies during a call says the same without an address.
    (r"ipv[46]:\S+ Socket closed", "etcd ends the connection: perhaps --etcd should say https://"),
    ("no leader", "etcd has no leader: start more of its members, a majority must run"),
)


Failure = tuple[str, str]  # the URL of an endpoint, and what became of a call there


def told(failures: Iterable[Failure]) -> str:
    """Return all failures in one line: each reason once, after the endpoints that gave it."""
    urls: dict[str, list[str]] = {}
    for url, reason in failures:
        urls.setdefault(reason, []).append(url)
    return "; ".join(f"{', '.join(there)}: {reason}" for reason, there in urls.items())


def said(details: str) -> str:
    """Return the informative part of an error's text, in one line."""
    # gRPC's own words come first; what the connection or etcd said is behind them.
    line = details.rpartition("last error: ")[2].split("\n", 1)[0]
    # The caller names the endpoint; its address once more would make one reason look like many.
    return re.sub(r"^(UNKNOWN: )?ipv[46]:\S+: Failed to connect to remote host: ", "",
                  line)[:SAID_MAX]


def advice(failures: Iterable[Failure]) -> str:
    """Return what to do, given what all endpoints said."""
    whole = "\n".join(reason for _, reason in failures)
    return next((what for words, what in _ADVICE if re.search(words, whole)), DEFAULT)
