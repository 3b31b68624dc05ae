"""Runs `slim adopt-cluster`: a person says that this host belongs to another cluster from now on.

It leaves this machine's kernel alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from driver.commands import saying
from driver.commands.hosts import LIMIT_S, open_etcd
from driver.errors import SettingsError
from driver.settings import Settings
from driver.state import host
from driver.store.format import keys, records
from driver.work import deadline


def run_adopt_cluster(settings: Settings, say: Callable[[str], None] = saying.say) -> int:
    """Store the name of the cluster that etcd belongs to; return 0.  A running driver reads it.

    Errors: StoreUnavailable, UnsupportedRecord, SettingsError (the state folder).
    """
    kept = host.ClusterFile(Path(settings.state))
    try:
        before = kept.get()
    except SettingsError:  # an unreadable file is rewritten
        before = None
    with open_etcd(settings) as kv, deadline.limit(LIMIT_S):
        entry = kv.get(keys.CLUSTER)
    if entry is None:
        say("etcd belongs to no cluster yet: the first driver that reaches it begins one")
        return 0
    found = records.decode(entry, records.cluster)
    if before is not None and before.id == found.id:
        say(f"this host belongs to cluster {found} already")
        return 0
    kept.put(found)
    say(f"this host belongs to cluster {found} now{f', no more to {before}' if before else ''}")
    return 0
