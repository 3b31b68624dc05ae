"""Checks whether etcd does what it is asked: a full etcd still answers every read.

It therefore tries a write too.
"""

from __future__ import annotations

from typing import Final, Protocol

from driver.errors import StoreUnavailable
from driver.store.format import keys
from driver.store.kv.protocol import Holds, KeyValue, Put

# By etcd's names: what it means, and what to do.
_ALARMS: Final = {
    "NOSPACE": "its space quota is used up (alarm NOSPACE), nothing new is written: type `slim "
               "cluster tidy` on a member, or, with an etcd of your own, `etcdctl compact "
               "REVISION`, `etcdctl defrag` for each member, then `etcdctl alarm disarm` "
               "(docs/recovery.md, etcd)",
    "CORRUPT": "its members hold different data (alarm CORRUPT): `etcdctl alarm list` names the "
               "one to remove and add again, empty (docs/recovery.md, etcd)",
}


class Alarming(KeyValue, Protocol):
    """A store that can report its alarms."""

    def alarms(self) -> list[str]:
        """Return the names of the raised alarms, each once.  Error: StoreUnavailable."""


def describe(kv: Alarming) -> str:
    """Return the state of etcd in one line.  Error: StoreUnavailable."""
    hosts = kv.count(keys.HOSTS)
    problem = trouble(kv)
    return f"answers, but {problem}" if problem else f"answers, {hosts} hosts registered"


def trouble(kv: Alarming) -> str:
    """Return what keeps etcd from working and what to do; "" if nothing does.

    Error: StoreUnavailable (it does not answer).
    """
    found = [_ALARMS.get(alarm, f"it has raised the alarm {alarm}") for alarm in kv.alarms()]
    if found:
        return "; ".join(found)
    try:
        # A write like any other to etcd, for rights, quota and log; and it never happens.
        kv.commit([Holds(keys.TRIAL, b"never")], [Put(keys.TRIAL, b"")])
    except StoreUnavailable as error:
        return f"it refuses to write: {error}"
    return ""
