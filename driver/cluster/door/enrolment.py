"""Decides, on a member, who comes into the cluster, and serves those who are in it.

The door (driver/api/door.py) brings the requests; what is refused here is told to the person who
typed the command on the other host, so each refusal is a sentence that says what to do.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from driver.cluster import tokens
from driver.cluster.addresses import host_address
from driver.cluster.authority import HOST_PREFIX, Usage
from driver.cluster.etcd import plan
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import ClusterHost, Member, Role, client_url, running
from driver.cluster.records import ClusterConfig, ClusterRecords
from driver.errors import Conflict, InvalidRequest, NotFound, SlimError

CLOCK_S: Final = 300.0  # by how much hosts' clocks may differ
Fields = dict[str, Any]

log = logging.getLogger(__name__)


class NotLetIn(SlimError):
    """Who asks has not proved who he is, or is in the cluster no more."""

    http_status = 403


@dataclass(frozen=True)
class Enrolment:
    """Answers the door's requests.  All methods: SlimError, whose text is for the asking host."""

    folder: ClusterFolder
    me: Identity
    records: ClusterRecords
    members: EtcdMembers
    clock: Callable[[], float] = time.time  # Unix time

    def introduce(self) -> Fields:
        """Say who we are to anybody: nothing of it is secret."""
        return {"ca": self.folder.read("ca.crt").decode(), "now": self.clock(),
                "cluster": self.me.cluster_name, "id": self.me.cluster, "host": self.me.name}

    def join(self, fields: Mapping[str, Any], source: str) -> Fields:
        """Let a host in that proves to have the token; again if it asks again.

        source: the address from which it asks.
        """
        host = _host_of(fields)
        self._prove(fields)
        if host.address != source:
            raise Conflict(
                f"{host.name} says that its address is {host.address}, and comes from {source}: "
                "hosts must reach each other without translation; with several addresses, name "
                "the right one with --address")
        off_s = float(fields["now"]) - self.clock()
        if not abs(off_s) <= CLOCK_S:
            raise Conflict(clock_text(host.name, off_s, self.me.name))
        config = self._config()
        self._refuse_twins(host)
        certificate = self.folder.authority().sign(
            str(fields["csr"]).encode(), HOST_PREFIX + host.id, Usage.CLIENT,
            seconds=config.certificate_s)
        self.members.add_user(host.id)
        known = self.records.host(host.id)
        self.records.change_host(host.id, lambda before: replace(
            host, joined_s=before.joined_s if before else self.clock(),
            role=before.role if before and not host.client_only else Role.CLIENT,
            certificate_until_s=self.clock() + config.certificate_s))
        log.warning("%s (%s) has been let in", host.name, host.address)
        return {**self._answer(config), "certificate": certificate.decode(),
                "again": known is not None}

    def renew(self, host_id: str, fields: Mapping[str, Any]) -> Fields:
        """Sign a host's next certificate."""
        self._known(host_id)
        config = self._config()
        certificate = self.folder.authority().sign(
            str(fields.get("csr", "")).encode(), HOST_PREFIX + host_id, Usage.CLIENT,
            seconds=config.certificate_s)
        self.records.change_host(host_id, lambda host: host and replace(
            host, certificate_until_s=self.clock() + config.certificate_s,
            version=str(fields.get("version", host.version))))
        return {**self._answer(config), "certificate": certificate.decode()}

    def become_member(self, host_id: str) -> Fields:
        """Give a host that is to run a member what it needs for that: the CA's key, too."""
        host = self._known(host_id)
        members = self.members.list_members()
        if host.role is not Role.MEMBER or all(
                member.address != host.address for member in members):
            raise NotLetIn(f"{host.name} is to run no member of etcd")
        authority = self.folder.authority()
        log.warning("%s (%s) gets the CA's key: it is to run a member of etcd", host.name,
                    host.address)
        return {**self._answer(self._config()), "ca_key": authority.key.decode(),
                "members": [{"name": member.name, "url": member.peer_urls[0]}
                            for member in members]}

    def tell(self, host_id: str) -> Fields:
        """Tell a host where etcd is."""
        self._known(host_id)
        return self._answer(self._config())

    def leave(self, host_id: str, fields: Mapping[str, Any]) -> Fields:
        """Take a host out at its own wish: first its member, and, once it is `done`, the rest.

        `out`: nothing of etcd runs there any more.  `gone`: it is on record no more.
        """
        members = self.members.list_members()
        if self.records.host(host_id) is None and all(each.name != host_id for each in members):
            return {"out": True, "gone": True}  # the answer was lost, or somebody has removed it
        host = self._known(host_id)
        mine = next((each for each in members if each.address == host.address), None)
        if mine is not None or not fields.get("done"):
            if mine is not None and not host.leaving:
                self._refuse_loss(host, mine, members)
            self.records.change_host(host_id, lambda before: before and replace(
                before, leaving=True))
            return {"out": mine is None}
        # Last what says that there is something to remove: asked again, it goes on.
        self.members.remove_user(host_id)
        self.records.change_host(host_id, lambda _: None)
        log.warning("%s (%s) has left", host.name, host.address)
        return {"out": True}

    def stay(self, host_id: str) -> Fields:
        """Take back what `leave` began."""
        self.records.change_host(host_id, lambda before: before and replace(
            before, leaving=False))
        return {}

    def _prove(self, fields: Mapping[str, Any]) -> None:
        known = self.records.secret()
        name = str(fields.get("token", ""))
        if known is None:
            raise NotLetIn("this cluster has no token: `slim cluster token --rotate` on a member "
                           "makes one")
        if name in known.previous:
            raise NotLetIn("this token has been replaced by a newer one: `slim cluster token` on "
                           "a member prints it")
        right = tokens.proof(known.secret, canonical(fields))
        if name != tokens.name_of(known.secret) or not hmac.compare_digest(
                right.encode(), str(fields.get("proof", "")).encode(errors="replace")):
            log.warning("a host with a wrong token was refused")
            raise NotLetIn("this token is not (or no more) this cluster's: `slim cluster token` "
                           "on a member prints the right one")
        if known.until_s and self.clock() > known.until_s:
            raise NotLetIn("this token has expired: `slim cluster token --rotate` on a member "
                           "makes a new one")

    def _refuse_twins(self, host: ClusterHost) -> None:
        """Refuse a host whose id or address another machine has."""
        alive = self.records.alive()
        for other in self.records.hosts():
            if other.id == host.id and other.address != host.address and other.id in alive:
                raise Conflict(
                    f"{other.name} ({other.address}) has this host's id: one is a copy of the "
                    "other.  On the copy, remove /var/lib/slim (it has no networks yet), and join "
                    "again")
            if other.address == host.address and other.id != host.id:
                raise Conflict(
                    f"{host.address} is the address of {other.name} already.  If that machine is "
                    f"gone: `slim cluster remove {other.name}` on a member; else name another "
                    "address of this host with --address")

    def _refuse_loss(self, host: ClusterHost, mine: Member, members: tuple[Member, ...]) -> None:
        """Refuse to let a host go without whose member etcd could not go on."""
        hosts, alive = self.records.hosts(), self.records.alive()
        others = [each for each in hosts if each.id in alive and each.id != host.id]
        if len(members) == 1 and others:
            return  # another one takes its place first
        cost = plan.cost_of_removal(mine, members, running(self.members.health(members)), hosts)
        if cost:
            raise Conflict(f"{host.name} cannot leave: {cost}")

    def _known(self, host_id: str) -> ClusterHost:
        host = self.records.host(host_id)
        if host is None:
            raise NotLetIn("this host is not in the cluster any more: it has been removed")
        return host

    def _config(self) -> ClusterConfig:
        config = self.records.config()
        if config is None:
            raise NotFound("the cluster's configuration is missing in etcd: `slim cluster init` "
                           "has not come to its end, type it again")
        return config

    def _answer(self, config: ClusterConfig) -> Fields:
        voters = [member for member in self.members.list_members()
                  if member.client_urls and not member.is_learner]
        return {"cluster": config.id, "name": config.name, "generation": config.generation,
                "certificate_s": config.certificate_s,
                "endpoints": [client_url(member.address) for member in voters],
                "hosts": [host.address for host in self.records.hosts()]}


def canonical(fields: Mapping[str, Any]) -> bytes:
    """Return the bytes that a proof is made over: all but the proof."""
    return json.dumps({name: value for name, value in fields.items() if name != "proof"},
                      sort_keys=True, separators=(",", ":")).encode()


def clock_text(name: str, off_s: float, other: str) -> str:
    """Say that a clock is `off_s` ahead of (or behind) another host's."""
    minutes = abs(off_s) / 60
    amount = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    return (f"the clock of {name} is {amount} {'ahead of' if off_s > 0 else 'behind'} that of "
            f"{other}: set it (timedatectl set-ntp true; on a virtual machine, its host's, too)")


def _host_of(fields: Mapping[str, Any]) -> ClusterHost:
    try:
        host_id, name = str(fields["host"]), str(fields["name"])
        if len(host_id) != 32 or not set(host_id) <= set("0123456789abcdef"):
            raise ValueError("no host's id")
        if not name.isprintable() or not 0 < len(name) <= 253 or "/" in name:
            raise ValueError("no host's name")
        float(fields["now"])
        str(fields["csr"])
        return ClusterHost(host_id, name, host_address(str(fields["address"])), 0.0,
                           version=str(fields.get("version", ""))[:40],
                           client_only=fields.get("client_only") is True)
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidRequest(f"the request to join cannot be read: {error}") from error
