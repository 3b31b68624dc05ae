"""Owns whether etcd does what is asked of it: one that is full answers every read.

It must not know who asks.
"""

from __future__ import annotations

from typing import Final, Protocol

from driver.errors import StoreUnavailable
from driver.store.format import keys
from driver.store.kv.protocol import Holds, KeyValue, Put

# By etcd's names: what it means, and what to do.
_ALARMS: Final = {
    "NOSPACE": "its space quota is used up (alarm NOSPACE), nothing new is written: `etcdctl "
               "compact REVISION`, `etcdctl defrag` for each member, then `etcdctl alarm disarm` "
               "(docs/operations.md, etcd)",
    "CORRUPT": "its members hold different data (alarm CORRUPT): `etcdctl alarm list` names the "
               "one to remove and add again, empty (docs/operations.md, etcd)",
}


class Alarming(KeyValue, Protocol):
    """A store that can be in trouble and say so."""

    def alarms(self) -> list[str]:
        """Return which alarms are raised, by etcd's names, each once.  Error: StoreUnavailable."""


def describe(kv: Alarming) -> str:
    """Say how it is, in a line.  Error: StoreUnavailable."""
    hosts = kv.count(keys.HOSTS)
    problem = trouble(kv)
    return f"answers, but {problem}" if problem else f"answers, {hosts} hosts registered"


def trouble(kv: Alarming) -> str:
    """Return what keeps etcd from doing its work and what to do, "" if nothing does.

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
