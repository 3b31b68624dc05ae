"""Runs `slim cluster status`: how members, hosts and certificates are, and what to do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from driver.cluster.addresses import in_order
from driver.cluster.authority import validity
from driver.cluster.door.visitor import JOIN_AGAIN
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.etcd.tidying import NOSPACE
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import ClusterHost, Member, MemberHealth, majority
from driver.cluster.records import ClusterRecords
from driver.commands.cluster.here import this_host
from driver.commands.saying import say
from driver.commands.table import print_table
from driver.errors import StoreUnavailable
from driver.settings import Settings
from driver.store.etcd.client import EtcdKeyValue

ID_SHOWN = 12
SOON_S = 7 * 86400.0


@dataclass(frozen=True)
class Found:
    """All that is shown.  `hosts` None: etcd could not be asked for them."""

    me: Identity
    members: tuple[Member, ...]
    health: dict[int, MemberHealth]
    hosts: tuple[ClusterHost, ...] | None
    alive: frozenset[str]
    alarms: tuple[str, ...]
    certificates: dict[str, float]  # of this host: name -> Unix time of their end
    trouble: str = ""  # why etcd could not be asked


def run_status(settings: Settings, _: dict[str, Any]) -> int:
    """Print it; return 0 if all is well, 1 if something is to be done.  Error: NotFound."""
    found = look(this_host(settings).folder)
    show(found)
    wrong = complaints(found, time.time())
    for line in wrong:
        say(f"! {line}")
    return 1 if wrong else 0


def look(folder: ClusterFolder) -> Found:
    """Ask etcd's members and etcd.  Error: NotFound (this host is in no cluster)."""
    me = folder.identity()
    members = EtcdMembers(folder.etcd_settings())
    trouble = ""
    alarms: tuple[str, ...] = ()
    hosts: tuple[ClusterHost, ...] | None = None
    alive: frozenset[str] = frozenset()
    listed: tuple[Member, ...] = ()
    try:
        listed = members.list_members()
        with EtcdKeyValue(folder.etcd_settings()) as kv:
            records = ClusterRecords(kv)
            hosts, alive, alarms = tuple(records.hosts()), records.alive(), tuple(kv.alarms())
    except StoreUnavailable as error:
        trouble = str(error)
    health = members.health(listed)
    members.close()
    names = ("host", "etcd", "peer", "root") if folder.is_member else ("host",)
    return Found(me, listed, health, hosts, alive, alarms, {
        name: validity(folder.read(f"{name}.crt"), f"{name}.crt").until_s
        for name in (*names, "ca")}, trouble)


def show(found: Found) -> None:
    """Print the tables."""
    versions = sorted({said.version for said in found.health.values()})
    say(f"cluster {found.me.cluster_name} ({found.me.cluster[:ID_SHOWN]}), etcd "
        f"{', '.join(versions) or 'does not answer'}", "")
    by_address = {host.address: host for host in found.hosts or ()}
    rows = [("MEMBER", "ADDRESS", "STATE", "IN USE", "ON DISK")]
    for member in sorted(found.members, key=lambda each: in_order(each.address)):
        said = found.health.get(member.id)
        name = by_address[member.address].name if member.address in by_address else "?"
        rows.append((name, member.address, _state(member, said),
                     _size(said.bytes_used) if said else "-",
                     _size(said.bytes_allocated) if said else "-"))
    print_table(rows)
    if found.hosts is None:
        return
    say()
    of_members = {member.address for member in found.members}
    hosts = [("HOST", "ADDRESS", "ID", "STATE", "ETCD", "CERTIFICATE UNTIL", "SLIM")]
    for host in found.hosts:
        state = "leaving" if host.leaving else "alive" if host.id in found.alive else "silent"
        hosts.append((host.name, host.address, host.id[:ID_SHOWN], state,
                      "member" if host.address in of_members else "client",
                      _day(host.certificate_until_s), host.version))
    print_table(hosts)


def complaints(found: Found, now_s: float) -> list[str]:
    """Return what is to be done, a line each."""
    wrong = []
    voters = [member for member in found.members if not member.is_learner]
    running = [member for member in voters
               if member.id in found.health and found.health[member.id].leader]
    down = ", ".join(member.address for member in voters if member not in running)
    if found.trouble and not voters:
        wrong.append(f"no member of etcd answers ({found.trouble}).  Connections and known "
                     "containers go on; start slim-etcd on the members, or `slim cluster restore`")
    elif len(running) < majority(len(voters)):
        wrong.append(f"etcd has no majority: {down} must run.  Connections and known containers "
                     "go on.  If they are gone for good: `slim cluster restore` (docs/cluster.md)")
    elif down:
        wrong.append(f"{down} does not run: start it, or, if it is gone for good, `slim cluster "
                     "remove` it")
    elif found.trouble:
        wrong.append(found.trouble)
    for alarm in found.alarms:
        wrong.append(NOSPACE if alarm == "NOSPACE" else
                     f"etcd has raised the alarm {alarm} (docs/recovery.md, etcd)")
    for name, until_s in found.certificates.items():
        if until_s < now_s:
            wrong.append(f"this host's certificate `{name}` has expired on {_day(until_s)}: "
                         f"{JOIN_AGAIN}")
        elif until_s < now_s + SOON_S and name == "ca":
            wrong.append(f"the cluster's certificate authority ends on {_day(until_s)}: begin a "
                         "new cluster before (docs/cluster.md)")
    wrong += [f"{host.name} ({host.address}) is silent: does slim-cluster run there?"
              for host in found.hosts or () if host.id not in found.alive]
    return wrong


def _state(member: Member, said: MemberHealth | None) -> str:
    if said is None:
        return "does not answer" if member.client_urls else "expected to start"
    if not said.leader:
        return "knows no leader"
    return "leader" if said.leader == member.id else "learner" if member.is_learner else "follower"


def _size(amount: int) -> str:
    return f"{amount / 2**10:.0f} KB" if amount < 2**20 else f"{amount / 2**20:.1f} MB"


def _day(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d %H:%M")
