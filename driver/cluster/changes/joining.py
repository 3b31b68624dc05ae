"""Brings this host into a cluster: `slim cluster join`.

Nothing on this host changes before the cluster has let it in and etcd has answered it; a failure
until then takes back what the cluster noted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from driver import __version__
from driver.cluster.addresses import family
from driver.cluster.authority import HOST_PREFIX, Issued, new_request
from driver.cluster.door.enrolment import CLOCK_S, canonical, clock_text
from driver.cluster.door.visitor import (
    Refused,
    address_towards,
    ask_as_host,
    ask_as_stranger,
    introduce,
)
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.host import ThisHost
from driver.cluster.services import ETCD
from driver.cluster.tokens import Token
from driver.errors import Conflict, SlimError, StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue
from driver.store.format import keys
from driver.work.undo import Undo


@dataclass(frozen=True)
class Joining:
    """Joins a cluster.  adopt: has the driver belong to the cluster of its etcd from now on."""

    here: ThisHost
    adopt: Callable[[ClusterFolder], None]
    clock: Callable[[], float] = time.time  # Unix time
    source: Callable[[str], str] = address_towards

    def join(self, me: Identity, member: str, token: Token, *, again: bool = False,
             client_only: bool = False) -> Identity:
        """Join by the member at address `member`; return who this host is.

        me: who this host is, with any cluster.  again: also if it is in that cluster: it gets a new
        certificate.  Errors: Conflict, visitor.NobodyAnswers, visitor.Refused.
        """
        folder, host_id, name, address = self.here.folder, me.host, me.name, me.address
        begun = folder.identity() if folder.exists else None
        if begun is not None and begun.complete and not again:
            raise Conflict(f"this host is in the cluster {begun.cluster_name} already: see `slim "
                           "cluster status`; --again gives it a new certificate; to change, `slim "
                           "cluster leave` first")
        if member == address:
            raise Conflict(f"{member} is this host's own address: give that of a host which is in "
                           "the cluster")
        if family(member) != family(address):
            raise Conflict(f"{member} is an {family(member)} address, this host's {address} an "
                           f"{family(address)} one: all hosts of a cluster have addresses of one "
                           f"family.  Name this host's {family(member)} address with --address")
        said = introduce(member, address, token)
        if not client_only and (source := self.source(member)) != address:
            raise Conflict(f"this host reaches {member} from its address {source}, and not from "
                           f"{address}: etcd's members would refuse it as one of them.  "
                           f"{_other_source(source)}, or --client-only, which never makes it one")
        off_s = self.clock() - float(said["now"])
        if abs(off_s) > CLOCK_S:
            raise Refused(clock_text("this host", off_s, str(said.get("host", member))))
        request, key = new_request(HOST_PREFIX + host_id)
        fields: dict[str, Any] = {
            "host": host_id, "name": name, "address": address, "csr": request.decode(),
            "token": token.name, "now": self.clock(), "version": __version__,
            "client_only": client_only}
        fields["proof"] = token.proof(canonical(fields))
        ca = str(said["ca"])
        if again and begun is not None and begun.cluster != said.get("id"):
            raise Conflict(f"this host is in the cluster {begun.cluster_name}, and not in that of "
                           f"{member}: `slim cluster leave` first")
        answer = ask_as_stranger(member, address, ca, "join", fields)
        me = Identity(str(answer["cluster"]), str(answer["name"]), int(answer["generation"]),
                      host_id, name, address, plugin=me.plugin)
        folder.drop_prepared()
        fresh = folder.prepared
        with Undo() as undo:
            undo.push("remove what was prepared", lambda: shutil.rmtree(fresh.path))
            self._fill(fresh, me, ca, answer, key)
            if not answer.get("again"):
                undo.push("leave the cluster again", lambda: ask_as_host(
                    fresh, member, address, "leave", {"done": True}))
            self._ask_etcd(fresh)
            is_member = folder.is_member and folder.read("ca.crt").decode() == ca
            if is_member:  # its member goes on; only what it is as a host is new
                for each in sorted(fresh.path.iterdir()):
                    folder.write(each.name, each.read_bytes())
                shutil.rmtree(fresh.path)
            else:
                if folder.path.exists():
                    folder.remove()  # of an attempt that was killed, or with another CA
                fresh.path.rename(folder.path)
        self.adopt(folder)
        self.here.prefer_cluster()
        if not is_member:
            self.here.services.stop(ETCD)  # one of `make up`'s, or of the time before
        self.here.start_programs(me)
        self.here.wait_for_driver()
        return folder.identity()

    @staticmethod
    def _fill(folder: ClusterFolder, me: Identity, ca: str, answer: dict[str, Any], key: bytes
              ) -> None:
        folder.write("ca.crt", ca)
        folder.put_issued("host", Issued(str(answer["certificate"]).encode(), key))
        folder.put_lines("endpoints", tuple(map(str, answer["endpoints"])))
        folder.put_lines("hosts", tuple(map(str, answer["hosts"])))
        folder.put_identity(me)

    @staticmethod
    def _ask_etcd(folder: ClusterFolder) -> None:
        """See that etcd answers this host.  Error: SlimError."""
        with EtcdKeyValue(folder.etcd_settings()) as kv:
            try:
                kv.get(keys.CLUSTER)
            except StoreUnavailable as error:
                raise SlimError(f"the cluster has let this host in, but its etcd does not answer "
                                f"here: are TCP ports 23790 and 23800 open between the hosts?  "
                                f"({error})") from error


def _other_source(source: str) -> str:
    """Say how the kernel and the person come to agree on this host's address."""
    told = f"--address {source}"
    if family(source) == "IPv6":
        return told + (" if that one stays (a temporary one, RFC 8981, does not: sysctl "
                       "net.ipv6.conf.DEVICE.use_tempaddr=1 has it come second)")
    return told
