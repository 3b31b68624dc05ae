"""Runs `slim hosts` and `slim forget-host` directly on etcd, so they work where no driver runs.

They leave this machine's kernel alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driver.commands.saying import say
from driver.commands.table import print_table
from driver.compose.parts.etcd import etcd_settings
from driver.compose.parts.removal import remove_records
from driver.errors import Conflict, InvalidArgument, NotFound
from driver.model import Absence, Host, HostId, KnownHost, Removal, Seen
from driver.settings import Settings
from driver.state import host
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys, records
from driver.store.hosts.absences import EtcdAbsences
from driver.store.kv.protocol import KeyValue
from driver.work import deadline

LIMIT_S = 120.0  # for the whole command; thousands of endpoints take seconds
ID_SHOWN = 12  # digits shown of a host's id; that many suffice to name it


def run_hosts(settings: Settings) -> int:
    """Print one line per known host; return 0.  Error: SlimError."""
    print_table(host_rows(settings))
    return 0


def host_rows(settings: Settings) -> list[tuple[str, ...]]:
    """Return a heading and a row for each known host.  Error: SlimError."""
    with open_etcd(settings) as kv, deadline.limit(LIMIT_S):
        another = another_cluster(kv, settings)
        if another:
            say(another, to_errors=True)
        absences = EtcdAbsences(kv)
        registered = absences.registered()
        rows: list[tuple[str, ...]] = [("ID", "NAME", "UNDERLAY", "ENDPOINTS", "STATE")]
        for host_id, known in sorted(absences.known().items(), key=lambda item: (
                item[1].host.name, item[0])):
            rows.append((host_id[:ID_SHOWN], known.host.name, str(known.host.underlay),
                         str(kv.count(keys.local_endpoints(host_id))),
                         _state(absences, known, host_id in registered)))
    return rows


def run_forget_host(settings: Settings, name: str, *, alive: bool) -> int:
    """Remove everything that a host has in etcd; return 0.

    name: its name, its id, or at least the id's first 12 digits.  alive: also if it has a lease.
    Errors: NotFound, InvalidArgument (several have this name), Conflict (it is alive, or comes
    back meanwhile; etcd belongs to another cluster than this host), StoreUnavailable.
    """
    with open_etcd(settings) as kv, deadline.limit(LIMIT_S):
        another = another_cluster(kv, settings)
        if another:
            raise Conflict(f"{another}: is --etcd right?  Where it is, type this on a host of that "
                           "cluster")
        absences = EtcdAbsences(kv)
        found = find_host(absences.known(), name)
        shown = f"host {found.name} ({found.id[:ID_SHOWN]}, {found.underlay})"
        if found.id in absences.registered() and not alive:
            raise Conflict(
                f"{shown} is alive: a driver runs there.  Its containers would lose their slim "
                "networks.  If that is what you want, say --alive")
        _refuse_own_driver(settings, found)
        say(forget(kv, found, alive=alive))
    return 0


def forget(kv: EtcdKeyValue, found: Host, *, alive: bool) -> str:
    """Remove everything that a host has in etcd; return what became of it.

    alive: it may have a lease.  Errors: Conflict (it changes its state meanwhile),
    StoreUnavailable.
    """
    shown = f"host {found.name} ({found.id[:ID_SHOWN]}, {found.underlay})"
    absences = EtcdAbsences(kv)
    endpoints = kv.count(keys.local_endpoints(found.id))
    absence = absences.begin(found.id, absences.get(found.id), Removal.EVERYTHING,
                             registered=alive)
    if absence is None:
        raise Conflict(f"{shown} has just changed its state: look at `slim hosts`, try again")
    try:
        remove_records(kv, absence, speak=True)
        finished = absences.finish(absence)
    except Conflict:
        finished = False
    if not finished:
        return f"{shown} is back and removes the rest itself"
    return (f"{shown} is forgotten: its {endpoints} endpoints, its addresses, pools and "
            "networks are free")


def another_cluster(kv: KeyValue, settings: Settings) -> str:
    """Return a text if etcd is another cluster's; a machine without a cluster may ask any."""
    mine, entry = host.ClusterFile(Path(settings.state)).get(), kv.get(keys.CLUSTER)
    theirs = records.decode(entry, records.cluster) if entry is not None else None
    if mine is None or theirs is None or mine.id == theirs.id:
        return ""
    return f"this etcd belongs to cluster {theirs}, this host to cluster {mine}"


def _refuse_own_driver(settings: Settings, found: Host) -> None:
    """Refuse to forget this host itself: its driver should be asked to leave instead."""
    try:
        own = (Path(settings.state) / host.ID_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return
    if own == found.id:
        raise InvalidArgument("this is the host you are on: remove its slim networks from Docker "
                              "(docker network rm), that is all it takes")


def find_host(known: dict[HostId, KnownHost], name: str) -> Host:
    """Return the host of this name or id.  Errors: NotFound, InvalidArgument (several)."""
    matches = [item.host for host_id, item in known.items()
               if name in (item.host.name, host_id)
               or (len(name) >= ID_SHOWN and host_id.startswith(name))]
    if not matches:
        raise NotFound(f"no host is called {name!r}; `slim hosts` lists them")
    if len(matches) > 1:
        ids = ", ".join(found.id[:ID_SHOWN] for found in matches)
        raise InvalidArgument(f"several hosts are called {name!r}: name one of {ids}")
    return matches[0]


def _state(absences: EtcdAbsences, known: KnownHost, registered: bool) -> str:
    if registered:
        return "alive"
    absence = absences.get(known.host.id)
    if absence is None:
        return "no driver"
    if absence.removal is Removal.EVERYTHING:
        return "being forgotten"
    if absence.removal is Removal.ADDRESSES:
        return "gone, its addresses are free" if absence.done else "gone, its addresses are freed"
    return f"no driver, {_keeps(absences, absence)}"


def _keeps(absences: EtcdAbsences, absence: Absence) -> str:
    if absence.seen is Seen.SILENCE:
        return "never answers: not removed by itself"
    if absence.seen is Seen.ALIVE:
        return "answers: keeps its addresses"
    left_s = absences.left_s(absence)
    if left_s is None:
        return "keeps its addresses until it is forgotten"
    return f"keeps its addresses for {_span(left_s)}"


def _span(seconds: int) -> str:
    for unit, length_s in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds // length_s} {unit}"
    return f"{seconds} seconds"


@contextmanager
def open_etcd(settings: Settings) -> Iterator[EtcdKeyValue]:
    """Open etcd as in the settings, for the duration of a command.  Error: SettingsError."""
    with EtcdKeyValue(etcd_settings(settings)) as kv:
        yield kv
