"""Real etcds on loopback with the certificates and settings that `slim cluster` gives them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

from driver.cluster.authority import HOST_PREFIX, PEER_NAME, Authority, Usage, new_authority
from driver.cluster.etcd import etcd_member
from driver.cluster.etcd.members import EtcdMembers
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import Member, client_url, peer_url
from driver.errors import StoreUnavailable
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.etcd.management import OneMember
from tests.support.run.wait import wait_until
from tests.support.world.etcd import ETCD, ETCDCTL

HOUR_S = 3600.0
# Elections in a tenth of the usual time.
FASTER = {"ETCD_UNSAFE_NO_FSYNC": "true", "ETCD_HEARTBEAT_INTERVAL": "50",
          "ETCD_ELECTION_TIMEOUT": "500", "ETCD_LOG_LEVEL": "warn"}


@dataclass
class RealHost:
    """A host's folder, and its etcd if it runs one."""

    folder: ClusterFolder
    me: Identity
    data: Path
    process: subprocess.Popen[bytes] | None = None

    def settings(self, who: str = "host") -> EtcdSettings:
        return self.folder.etcd_settings(who)

    def start(self) -> None:
        lines = self.folder.read("etcd.env").decode().splitlines()
        environment = dict(line.split("=", 1) for line in lines)
        with (self.data.parent / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [ETCD], env={**os.environ, **environment, **FASTER}, stdout=log, stderr=log)

    def log(self) -> str:
        return (self.data.parent / "etcd.log").read_text()[-3000:]

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def become_member(self, authority: Authority, members: tuple[Member, ...], *, is_new: bool
                      ) -> None:
        """As Founding and Keeper do."""
        self.issue_files(authority, HOUR_S)
        self.folder.write("etcd.env", etcd_member.settings_text(
            self.folder, self.me, self.data, members, is_new=is_new))
        self.start()

    def issue_files(self, authority: Authority, seconds: float) -> None:
        """As the keeper does.

        Members compare the address from which another one comes with its certificate: on loopback
        that is always the first one.
        """
        etcd_member.issue_files(self.folder, authority, self.me.address, seconds)
        self.folder.put_issued("peer", authority.issue(
            PEER_NAME, Usage.PEER, seconds=seconds, addresses=(self.me.address, "127.0.0.1")))

    def answers(self) -> bool:
        """Whether its member runs and knows a leader."""
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        member = OneMember(client_url(self.me.address), self.settings("root"))
        try:
            return bool(member.status()["leader"])
        except StoreUnavailable:
            return False
        finally:
            member.close()


class RealCluster:
    """One member with authentication; context manager.  More members are a test's to add."""

    def __init__(self, folder: Path, network: str) -> None:
        for program in (ETCD, ETCDCTL):
            if not shutil.which(program):
                pytest.skip(f"{program} is missing (Debian packages etcd-server, etcd-client)")
        self._folder = folder
        self._network = network
        self.authority = new_authority("test")
        self.hosts: list[RealHost] = []
        self.first = self.host()

    def host(self, authority: Authority | None = None) -> RealHost:
        """Make a host's folder, with its certificate; etcd does not know it yet."""
        number = len(self.hosts) + 1
        path = self._folder / f"h{number}"
        me = Identity("c" * 32, "test", 1, f"{number:032x}", f"h{number}",
                      f"{self._network}.{number}")
        folder = ClusterFolder(path / "cluster")
        signs = authority or self.authority
        folder.write("ca.crt", self.authority.certificate)
        folder.put_issued("host", signs.issue(HOST_PREFIX + me.host, Usage.CLIENT, seconds=HOUR_S))
        folder.put_lines("endpoints", (client_url(f"{self._network}.1"),))
        folder.put_identity(me)
        self.hosts.append(RealHost(folder, me, path / "etcd"))
        return self.hosts[-1]

    def __enter__(self) -> RealCluster:
        self.first.become_member(self.authority, (), is_new=True)
        try:
            wait_until(self.first.answers, 30, "etcd answers")
            self.members().begin_auth()
            self.members().add_user(self.first.me.host)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        for host in self.hosts:
            host.stop()

    def members(self, who: str = "root", host: RealHost | None = None) -> EtcdMembers:
        return EtcdMembers((host or self.first).settings(who))

    def root(self) -> EtcdKeyValue:
        return EtcdKeyValue(self.first.settings("root"))

    def add_member(self, host: RealHost) -> None:
        """Have it run a member with a vote, by the steps of the steward and the keeper."""
        members = self.members()
        wait_until(lambda: done(lambda: members.add_learner(host.me.address)), 30,
                   "a learner is let in")
        host.become_member(self.authority, members.list_members(), is_new=False)
        wait_until(host.answers, 30, "the learner answers")
        found = next(member for member in members.list_members()
                     if member.peer_urls == (peer_url(host.me.address),))
        assert found.is_learner
        wait_until(lambda: done(lambda: members.promote(found.id)), 30, "it gets its vote")
        members.close()


def done(act: object) -> bool:
    """Do it; tell whether etcd has."""
    try:
        act()  # type: ignore[operator]
    except StoreUnavailable:
        return False
    return True
