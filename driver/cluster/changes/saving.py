"""Writes a backup of the cluster, and begins the cluster again from one."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from driver import __version__
from driver.cluster.authority import HOST_PREFIX, Authority, Usage, new_authority
from driver.cluster.changes.backup_file import CA_FILES, SNAPSHOT, pack, unpack
from driver.cluster.etcd import etcd_member
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.folder import PRIVATE, ClusterFolder, Identity
from driver.cluster.host import ThisHost
from driver.cluster.model import ClusterHost, Role, client_url, peer_url
from driver.cluster.programs import Etcdctl, run
from driver.cluster.records import ClusterConfig, ClusterRecords, config_of
from driver.cluster.services import ETCD, KEEPER
from driver.errors import Conflict, InvalidArgument, NotFound, StoreUnavailable
from driver.state import nameless
from driver.store.etcd.client import EtcdKeyValue
from driver.store.etcd.management import OneMember
from driver.store.format import keys

SNAPSHOT_S: Final = 300.0


def back_up(folder: ClusterFolder, target: Path) -> int:
    """Write the backup, all or nothing; return its size in bytes.

    Errors: NotFound (this is no member), StoreUnavailable, InvalidArgument (the file).
    """
    folder.authority()
    me = folder.identity()
    with EtcdKeyValue(folder.etcd_settings("root")) as kv:
        config = ClusterRecords(kv).config()
    if config is None:
        raise NotFound("the cluster's configuration is missing in etcd")
    about = {"config": asdict(config), "host": me.name, "slim": __version__, "made_s": time.time()}
    try:
        # Whoever kills us leaves nothing: neither file has a name before all is in it.
        with nameless.made(target, PRIVATE) as out, tempfile.TemporaryFile(
                dir=target.parent) as snapshot:
            with closing(OneMember(folder.endpoints()[0], folder.etcd_settings("root"))) as member:
                member.snapshot(snapshot.write, SNAPSHOT_S)
            pack(out, about, folder, snapshot)
    except OSError as error:
        raise InvalidArgument(f"{target}: {error.strerror}") from error
    return target.stat().st_size


@dataclass(frozen=True)
class Restoring:
    """Begins the cluster again on this host.  say: is told each thing that was done."""

    here: ThisHost
    say: Callable[[str], None]
    clock: Callable[[], float] = time.time  # Unix time

    def restore(self, source: Path, host_id: str, name: str, address: str, *, new_ca: bool = False
                ) -> list[ClusterHost]:
        """Begin it from a backup; return the other hosts that are on record there.

        These follow by themselves, but not with a new CA: they have to join again.  What etcd had
        is set aside.  Typed again, also after it was killed, it begins anew.
        Errors: Conflict (etcd works), InvalidArgument (no backup), SlimError.
        """
        begun = self._is_begun()
        if not begun:
            self._refuse_what_works()
        with self.here.workplace() as work:
            unpacked = unpack(source, work / SNAPSHOT)
            saved = config_of(unpacked.about["config"])
            me = self._identity(saved, host_id, name, address)
            for service in (KEEPER, ETCD):
                self.here.services.stop(service)
            folder = self.here.folder
            authority = new_authority(saved.name) if new_ca else Authority(*unpacked.ca)
            for file, content in zip(CA_FILES, (authority.certificate, authority.key), strict=True):
                folder.write(file, content)
            self._issue(me, saved)
            fresh = self._unpack_data(work / SNAPSHOT, me)
        self._clear_data(ours=begun)
        folder.write("etcd.env", etcd_member.settings_text(
            folder, me, self.here.data, (), is_new=True))
        folder.put_lines("endpoints", (client_url(me.address),))
        folder.put_identity(me)  # from now on it is begun
        fresh.rename(self.here.data)
        self.here.services.start(ETCD)
        self.here.wait_for_etcd(me.address)
        self.say(f"etcd runs again at {client_url(me.address)}, as of "
                 f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(unpacked.about['made_s']))} UTC")
        others = self._enter(me, saved)
        self.here.prefer_cluster()
        self.here.start_programs(me)
        self.here.wait_for_driver()
        return others

    def _is_begun(self) -> bool:
        """Tell whether a restore has begun here and not ended: what works then is its own etcd."""
        folder = self.here.folder
        if not folder.exists:
            return False
        me = folder.identity()
        return (not me.complete and me.generation > 1  # else `init` has begun
                and folder.endpoints() == (client_url(me.address),))  # else `join`

    def _refuse_what_works(self) -> None:
        folder = self.here.folder
        if not folder.exists:
            return
        with EtcdKeyValue(folder.etcd_settings()) as kv:
            try:
                kv.get(keys.CLUSTER)
            except StoreUnavailable:
                pass
            else:
                raise Conflict("etcd works: there is nothing to restore.  To go back all the same, "
                               "first stop slim-etcd on every member (systemctl stop slim-etcd)")
        members = EtcdMembers(folder.etcd_settings())
        try:
            running = members.health(members.list_members())
        except StoreUnavailable:
            return
        finally:
            members.close()
        # One that has lost its leader may name it for a while; a leader names itself.
        if any(said.leader == member for member, said in running.items()):
            raise Conflict("etcd has a leader, and only this host is not let in: see `slim cluster "
                           "status`")

    def _identity(self, saved: ClusterConfig, host_id: str, name: str, address: str) -> Identity:
        if not self.here.folder.exists:
            return Identity(saved.id, saved.name, saved.generation + 1, host_id, name, address)
        known = self.here.folder.identity()
        if known.cluster != saved.id:
            raise Conflict(f"this backup is of the cluster {saved.name} ({saved.id[:12]}), this "
                           f"host is in {known.cluster_name} ({known.cluster[:12]})")
        return replace(known, generation=max(known.generation, saved.generation) + 1,
                       complete=False)

    def _issue(self, me: Identity, config: ClusterConfig) -> None:
        folder = self.here.folder
        authority = Authority(folder.read("ca.crt"), folder.read("ca.key"))
        etcd_member.issue_files(folder, authority, me.address, config.certificate_s)
        folder.put_issued("host", authority.issue(HOST_PREFIX + me.host, Usage.CLIENT,
                                                  seconds=config.certificate_s))

    def _unpack_data(self, snapshot: Path, me: Identity) -> Path:
        fresh = self.here.data.with_name(self.here.data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        # etcd 3.6 has it in etcdutl only.
        program = "etcdutl" if shutil.which("etcdutl") else "etcdctl"
        run([program, "snapshot", "restore", str(snapshot), "--data-dir", str(fresh),
             "--name", me.host, "--initial-cluster", f"{me.host}={peer_url(me.address)}",
             "--initial-advertise-peer-urls", peer_url(me.address),
             # Others' members of before must not take this one for theirs.
             "--initial-cluster-token", f"{me.cluster}-{me.generation}"], timeout_s=SNAPSHOT_S)
        return fresh

    def _clear_data(self, *, ours: bool) -> None:
        """Make room.  ours: what is there is of an attempt before this one."""
        if ours:
            shutil.rmtree(self.here.data, ignore_errors=True)
        elif aside := etcd_member.set_data_aside(self.here.data):
            self.say(f"what etcd had here is put aside: {aside}")

    def _enter(self, me: Identity, saved: ClusterConfig) -> list[ClusterHost]:
        settings = self.here.folder.etcd_settings("root")
        members = EtcdMembers(settings)
        with EtcdKeyValue(settings) as kv, closing(members):
            members.begin_auth()
            members.add_user(me.host)
            records = ClusterRecords(kv)
            for host in records.hosts():
                if host.address == me.address and host.id != me.host:
                    # This machine before it was set up anew: a person who later removes that one
                    # would hit the member at its address, this one.
                    members.remove_user(host.id)
                    records.change_host(host.id, lambda _: None)
                    self.say(f"{host.name} ({host.id[:12]}) had this address: it is off the record")
            records.put_config(replace(saved, generation=me.generation))
            records.forget_alive()  # those of the time of the backup
            for host in records.hosts():
                records.set_role(host.id, Role.CLIENT)
            records.change_host(me.host, lambda before: ClusterHost(
                me.host, me.name, me.address, before.joined_s if before else self.clock(),
                Role.MEMBER, __version__, self.clock() + saved.certificate_s))
            hosts = records.hosts()
            self.here.folder.put_lines("hosts", tuple(host.address for host in hosts))
            return [host for host in hosts if host.id != me.host]


def tidy(folder: ClusterFolder, say: Callable[[str], None]) -> None:
    """Compact and defragment etcd, and lift its alarm NOSPACE.  Error: StoreUnavailable."""
    folder.authority()
    settings = folder.etcd_settings("root")
    with EtcdKeyValue(settings) as kv:
        kv.compact(kv.now(keys.CLUSTER).revision)
        say("compacted")
        members = EtcdMembers(settings)
        try:
            for member in members.list_members():
                if member.client_urls:
                    members.defragment(member.client_urls[0])
                    say(f"defragmented the member at {member.address}")
        finally:
            members.close()
        if kv.alarms():
            Etcdctl(settings)("alarm", "disarm")
            say("lifted etcd's alarms")
