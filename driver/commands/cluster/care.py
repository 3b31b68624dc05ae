"""Runs `slim cluster leave`, `remove`, `backup`, `restore` and `tidy`."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

from driver.cluster.changes import saving
from driver.cluster.changes.parting import Leaving, Removal
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.folder import ClusterFolder
from driver.cluster.model import ClusterHost
from driver.cluster.records import ClusterRecords
from driver.commands.cluster.here import own_address, this_host
from driver.commands.hosts import LIMIT_S, forget
from driver.commands.saying import say
from driver.compose.ownership import own_id
from driver.engine.docker import asked
from driver.errors import Conflict, StoreUnavailable
from driver.settings import Settings
from driver.state import host as host_files
from driver.store.etcd.client import EtcdKeyValue
from driver.store.hosts.absences import EtcdAbsences
from driver.work import deadline

log = logging.getLogger(__name__)


def run_leave(settings: Settings, options: dict[str, Any]) -> int:
    """Take this host out of its cluster."""
    here = this_host(settings)
    me = here.folder.identity()
    networks = [network for network in asked(settings.docker_socket, lambda client:
                                             client.networks()) if _is_ours(network, settings)]
    if networks:
        names = ", ".join(sorted(str(network["Name"]) for network in networks))
        raise Conflict(f"Docker on this host has networks of slim ({names}): remove their "
                       "containers and them first (docker network rm), they would be without a "
                       "driver")

    def forget_me() -> None:
        with EtcdKeyValue(here.folder.etcd_settings()) as kv:
            _forget(kv, me.host, alive=True)

    def disown() -> None:
        (Path(settings.state) / host_files.CLUSTER_FILE).unlink(missing_ok=True)

    Leaving(here, forget_me, lambda: addresses(here.folder), say, disown).leave(
        last=options["last"])
    say(f"{me.name} is in no cluster any more.  Its driver is stopped: `slim cluster join` or "
          "`slim cluster init` starts it again")
    return 0


def addresses(folder: ClusterFolder) -> list[str]:
    """Return the addresses of all hosts: by etcd, else, or if it has lost them, by our file.

    The file may be some seconds old.
    """
    found: list[str] = []
    try:
        with EtcdKeyValue(folder.etcd_settings()) as kv:
            found = [host.address for host in ClusterRecords(kv).hosts()]
    except StoreUnavailable as error:
        log.info("%s", error)
    return found or folder.read("hosts").decode().split()


def _is_ours(network: dict[str, Any], settings: Settings) -> bool:
    """Tell whether a network of Docker's has slim as its driver, be it a plugin (`slim:latest`)."""
    name = str(network["Driver"]).rpartition("/")[2].partition(":")[0]
    return name == Path(settings.socket).stem


def run_remove(settings: Settings, options: dict[str, Any]) -> int:
    """Take another host out."""
    here = this_host(settings)
    here.folder.authority()  # says where else to type it
    root = here.folder.etcd_settings("root")
    members = EtcdMembers(root)
    with EtcdKeyValue(root) as kv, deadline.limit(LIMIT_S):
        def forget_it(host: ClusterHost) -> None:
            _forget(kv, host.id, alive=options["even_alive"])

        try:
            host = Removal(ClusterRecords(kv), members, here.folder.identity(), forget_it).remove(
                options["which"], even_alive=options["even_alive"])
        finally:
            members.close()
    say(f"{host.name} ({host.address}) is out of the cluster: its certificate opens nothing, and "
          "what it had in etcd is free.  Hosts that are left take its place as a member")
    return 0


def run_backup(settings: Settings, options: dict[str, Any]) -> int:
    """Write a backup."""
    target = Path(options["file"])
    size = saving.back_up(this_host(settings).folder, target)
    say(f"{target}: {size / 2**20:.1f} MB.  It has the key of the cluster's certificate "
          "authority: who has it can join, so keep it where only you can read it")
    return 0


def run_restore(settings: Settings, options: dict[str, Any]) -> int:
    """Begin the cluster again from a backup."""
    here = this_host(settings)
    others = saving.Restoring(here, say).restore(
        Path(options["file"]), own_id(settings), socket.gethostname(),
        here.folder.identity().address if here.folder.exists else own_address(settings, ""),
        new_ca=options["new_ca"])
    say("the cluster runs again on this host")
    if others and options["new_ca"]:
        say("on each other host: `slim cluster join ADDRESS TOKEN --again`, with the new token "
              "that `slim cluster token --rotate` prints here")
    elif others:
        names = ", ".join(f"{host.name} ({host.address})" for host in others)
        say(f"{names} follow within a minute, if slim-cluster runs there.  Hosts that joined "
              "after the backup have to join again")
    return 0


def run_tidy(settings: Settings, _: dict[str, Any]) -> int:
    """Compact and defragment etcd."""
    saving.tidy(this_host(settings).folder, say)
    return 0


def _forget(kv: EtcdKeyValue, host_id: str, *, alive: bool) -> None:
    """Remove what a host's driver has in etcd; nothing of it is no error."""
    for found_id, known in EtcdAbsences(kv).known().items():
        if found_id == host_id:
            say(forget(kv, known.host, alive=alive))
