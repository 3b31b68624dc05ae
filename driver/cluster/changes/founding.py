"""Begins a cluster on this host: `slim cluster init`.

It may be killed at any point: typed again, it goes on.  A step that fails takes back what was
done before it, unless the cluster already answers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from driver import __version__
from driver.cluster import tokens
from driver.cluster.authority import HOST_PREFIX, Authority, Usage, fingerprint, new_authority
from driver.cluster.etcd import etcd_member
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.folder import Identity
from driver.cluster.host import ThisHost, wait
from driver.cluster.model import CLIENT_PORT, ClusterHost, Role, client_url, peer_url
from driver.cluster.programs import Etcdctl
from driver.cluster.records import ClusterConfig, ClusterRecords, JoinSecret
from driver.cluster.services import ETCD
from driver.errors import Conflict, StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.work.undo import Undo

# Of the etcd that `make up` starts; loopback, no TLS.
EMBEDDED: Final = EtcdSettings((f"http://127.0.0.1:{CLIENT_PORT}",))
EMBEDDED_S: Final = 30.0


@dataclass(frozen=True)
class Founding:
    """Begins a cluster.  say: is told each thing that was done."""

    here: ThisHost
    say: Callable[[str], None]
    clock: Callable[[], float] = time.time  # Unix time

    def begin(self, me: Identity, config: ClusterConfig, token_s: float, *, take_over: bool
              ) -> tokens.Token:
        """Begin it, or go on with what was begun; return the token with which others join.

        take_over: the etcd that `make up` runs here becomes the cluster's, with all it has.
        Errors: Conflict (this host is in a cluster), SlimError.
        """
        folder = self.here.folder
        if folder.exists:
            begun = folder.identity()
            if begun.complete:
                raise Conflict(f"this host is in the cluster {begun.cluster_name} already: see "
                               "`slim cluster status`, and `slim cluster token` for the line that "
                               "others join with")
            if begun.address != me.address:
                raise Conflict(f"a `slim cluster init` with the address {begun.address} has not "
                               "come to its end: type it again with --address "
                               f"{begun.address}, or remove {folder.path}")
            me = replace(begun, plugin=me.plugin)
            config = replace(config, id=begun.cluster, name=begun.cluster_name)
        with Undo() as undo:
            if take_over:
                undo.push("start the etcd of before", lambda: self.here.services.start(ETCD))
            self._make_files(me, config, undo)
            if take_over:
                self._hand_over_embedded(me)
            self._start_etcd(me, undo, take_over=take_over)
        token = self._enter(me, config, token_s)
        self.here.prefer_cluster()
        self.here.start_programs(me)
        self.here.wait_for_driver()
        return token

    def _make_files(self, me: Identity, config: ClusterConfig, undo: Undo) -> None:
        folder = self.here.folder
        if (folder.path / "ca.key").exists() and folder.exists:
            return
        undo.push("remove the cluster's folder", folder.remove)
        authority = new_authority(config.name)
        folder.write("ca.crt", authority.certificate)
        folder.write("ca.key", authority.key)
        etcd_member.issue_files(folder, authority, me.address, config.certificate_s)
        folder.put_issued("host", authority.issue(HOST_PREFIX + me.host, Usage.CLIENT,
                                                  seconds=config.certificate_s))
        folder.put_lines("hosts", (me.address,))
        folder.put_lines("endpoints", (client_url(me.address),))
        folder.put_identity(me)
        self.say("made the cluster's certificate authority, and certificates for this host")

    def _hand_over_embedded(self, me: Identity) -> None:
        """Tell the etcd that runs here under which address others will know it."""
        if self.here.folder.is_member:
            return  # done before
        self.here.services.start(ETCD)
        ctl = Etcdctl(EMBEDDED)

        def answers() -> bool:
            try:
                ctl("endpoint", "health")
            except StoreUnavailable:
                return False
            return True

        if not wait(answers, EMBEDDED_S):
            raise StoreUnavailable("the etcd that `make up` started does not answer, so its "
                                   "records cannot be taken over: see "
                                   f"{self.here.services.log_of(ETCD)}")
        member = ctl("member", "list")["members"][0]["ID"]
        ctl("member", "update", f"{member:x}", f"--peer-urls={peer_url(me.address)}")

    def _start_etcd(self, me: Identity, undo: Undo, *, take_over: bool) -> None:
        here = self.here
        if not here.folder.is_member:
            here.services.stop(ETCD)
            if not take_over and here.data.exists():
                aside = etcd_member.set_data_aside(here.data)
                self.say(f"an etcd that was here before is put aside: {aside}")
            if not take_over:
                # Else the next attempt would put that aside, in place of what is there now.
                undo.push("remove what etcd wrote", lambda: shutil.rmtree(
                    here.data, ignore_errors=True))
            here.folder.write("etcd.env", etcd_member.settings_text(
                here.folder, me, here.data, (), is_new=True))
        undo.push("stop etcd", lambda: here.services.stop(ETCD))
        here.services.start(ETCD)
        here.wait_for_etcd(me.address)
        self.say(f"etcd runs at {client_url(me.address)}")

    def _enter(self, me: Identity, config: ClusterConfig, token_s: float) -> tokens.Token:
        """Enter what others read; everything here may be done again."""
        folder = self.here.folder
        members = EtcdMembers(folder.etcd_settings("root"))
        try:
            members.begin_auth()
            members.add_user(me.host)
        finally:
            members.close()
        with EtcdKeyValue(folder.etcd_settings("root")) as kv:
            records = ClusterRecords(kv)
            if records.config() is None:
                records.put_config(config)
            records.change_host(me.host, lambda _: ClusterHost(
                me.host, me.name, me.address, self.clock(), Role.MEMBER, __version__,
                self.clock() + config.certificate_s))
            return ensure_token(records, folder.authority(), token_s, self.clock())


def ensure_token(records: ClusterRecords, authority: Authority, valid_s: float, now_s: float, *,
                 rotate: bool = False) -> tokens.Token:
    """Return the token; make one if there is none, or a new one.  valid_s: 0 is for ever."""
    known = records.secret()
    if known is None or rotate:
        previous = () if known is None else (*known.previous, tokens.name_of(known.secret))
        known = JoinSecret(tokens.new_secret(), now_s + valid_s if valid_s else 0.0, previous)
        records.put_secret(known)
    return tokens.Token(fingerprint(authority.certificate), known.secret)
