"""Tells whether another machine is registered as this host, or at its underlay address.

Both records live as long as their owner's lease, so a record that is not one's own belongs to a
host that is alive, or has died a few seconds ago.
"""

from __future__ import annotations

from driver.errors import Conflict, UnsupportedRecord
from driver.model import Fingerprint, Host
from driver.store.format import records
from driver.store.kv.protocol import Entry

SHOWN = 12  # digits shown of a host's id


class NotAdmittedError(Conflict):
    """Another machine is registered; the text says which, and what to do."""


def registered_as(host: Host, fingerprint: Fingerprint, entry: Entry | None) -> str:
    """Return who else is registered under this host's id, as a text; "": nobody.

    entry: the host's record, as read.
    """
    try:
        other, theirs = (None, None) if entry is None else (
            records.decode(entry, records.host), records.decode(entry, records.fingerprint))
    except UnsupportedRecord:
        return ""  # its own record, of another version: it is written again
    if other is None or theirs is None or theirs.boot == fingerprint.boot:
        return ""
    # Restarted before its lease ended.  Or an older driver, without fingerprint.
    if other.underlay == host.underlay and theirs.machine in ("", fingerprint.machine):
        return ""
    return (f"{other.name} ({other.underlay}) is registered as host {host.id[:SHOWN]}, which is "
            "this one's id, too: is one a copy of the other's disk?  On the copy, remove its slim "
            "networks from Docker, stop the driver, and start it without the folder --state")


def registered_at(host: Host, entry: Entry | None) -> str:
    """Return who else is registered at this host's underlay address, as a text; "": nobody.

    entry: the address's record, as read.
    """
    try:
        owner = None if entry is None else records.decode(entry, records.underlay)
    except UnsupportedRecord:
        return ""
    if owner is None or owner.id == host.id:
        return ""
    return (f"host {owner.name} ({owner.id[:SHOWN]}) is registered with {host.underlay}, this "
            "host's underlay address: hosts reach each other by it, so each needs its own "
            "(Vagrant's machines have all the same on their first device); name another device or "
            "address with --underlay")
