"""Tests `slim cluster join` against a real door: what fails changes nothing on either host."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver.api.door import DoorServer
from driver.cluster import host as host_module
from driver.cluster import tokens
from driver.cluster.authority import new_authority
from driver.cluster.changes import joining
from driver.cluster.changes.joining import Joining
from driver.cluster.door import visitor
from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.host import ThisHost
from driver.cluster.model import ClusterHost
from driver.cluster.records import JoinSecret
from driver.cluster.services import DRIVER, KEEPER
from driver.errors import SlimError, StoreUnavailable
from tests.unit.cluster.house import HERE, HOUR_S, NOW_S, House
from tests.unit.cluster.test_keeper import FakeServices, Kv

TWO = Identity("", "", 0, "2" * 32, "two", "127.0.0.2")


class Newcomer:
    """A host that is in no cluster."""

    def __init__(self, house: House, path: Path) -> None:
        self.house, self.path = house, path
        self.services = FakeServices()
        self.here = ThisHost(ClusterFolder(path / "cluster"), self.services, path / "etcd",
                             path / "up.env", str(path / "sock"))
        (path / "up.env").write_text("SLIM_ETCD=x\n")
        self.adopted: list[tuple[str, ...]] = []
        self.now_s = NOW_S
        self.etcd_answers = True
        self.source = TWO.address  # of the route to members

    def join(self, token: tokens.Token | None = None, me: Identity = TWO, member: str = HERE,
             **options: Any) -> Identity:
        return Joining(self.here, lambda folder: self.adopted.append(folder.endpoints()),
                       lambda: self.now_s, lambda _: self.source).join(
                           me, member, token or self.house.token(), **options)

    def state(self) -> object:
        return {path: path.read_bytes() for path in self.path.rglob("*") if path.is_file()}


@pytest.fixture
def two(house: House, door: DoorServer, tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch) -> Newcomer:
    made = Newcomer(house, tmp_path_factory.mktemp("two"))

    class Etcd(Kv):
        def get(self, key: str) -> Any:
            if not made.etcd_answers:
                raise StoreUnavailable("no answer (fake)")
            return super().get(key)

    monkeypatch.setattr(joining, "EtcdKeyValue", lambda _: Etcd(house.kv.store))
    monkeypatch.setattr(host_module, "driver_answers", lambda _: True)
    return made


def refused(two: Newcomer, join: Callable[[], object]) -> str:
    """Return the one sentence; nothing has changed."""
    before = two.house.state(), two.state(), list(two.services.done), list(two.adopted)
    with pytest.raises(SlimError) as caught:
        join()
    assert (two.house.state(), two.state(), two.services.done, two.adopted) == before
    text = str(caught.value)
    assert "\n" not in text
    assert str(two.house.token()).split("-")[3] not in text
    return text


def test_a_host_joins(two: Newcomer) -> None:
    me = two.join()
    assert me == replace(TWO, cluster="c" * 32, cluster_name="test", generation=1, complete=True)
    folder = two.here.folder
    assert folder.identity() == me
    assert folder.read("ca.crt") == two.house.authority.certificate
    assert folder.read("hosts").decode().split() == [HERE, TWO.address]
    assert two.adopted == [folder.endpoints()]
    assert two.services.done == ["stop slim-etcd", f"start {KEEPER}", f"start {DRIVER}"]
    assert (two.path / "up.env").read_text() == ""
    assert two.house.members.users == {TWO.host}
    assert not folder.is_member


def test_the_token(two: Newcomer) -> None:
    house = two.house
    assert "this cluster's" in refused(two, lambda: two.join(house.token(b"another one's 16")))
    assert "newer one" in refused(two, lambda: two.join(house.token(b"o" * 16)))
    other = House(two.path / "other", new_authority("other"))
    token = other.token()
    shutil.rmtree(other.path)
    assert "another cluster" in refused(two, lambda: two.join(token))
    house.records.put_secret(JoinSecret(b"the secret of 16", NOW_S - 1))
    assert "expired" in refused(two, two.join)


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_is_an_hour_off(two: Newcomer, off_s: float) -> None:
    """Seen here, before anything is asked."""
    two.now_s += off_s
    text = refused(two, two.join)
    assert "the clock of this host is 60 minutes" in text
    assert ("ahead of" in text) == (off_s > 0)


def test_addresses(two: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "own address" in refused(two, lambda: two.join(member=TWO.address))
    monkeypatch.setattr(visitor, "RESTART_S", 0.0)
    assert "nothing listens at 127.0.0.77" in refused(two, lambda: two.join(member="127.0.0.77"))
    assert "no address of this host" in refused(
        two, lambda: two.join(me=replace(TWO, address="192.0.2.77")))
    two.house.enter(ClusterHost("3" * 32, "three", TWO.address, 1.0))
    assert "address of three already" in refused(two, two.join)


def test_addresses_of_two_families(two: Newcomer) -> None:
    """Nobody is asked."""
    for member, address, words in (
            ("fd00::1", TWO.address, "fd00::1 is an IPv6 address, this host's 127.0.0.2 an IPv4"),
            (HERE, "fd00::2", "127.0.0.1 is an IPv4 address, this host's fd00::2 an IPv6 one")):
        for client_only in (False, True):
            text = refused(two, lambda: two.join(
                me=replace(TWO, address=address), member=member,  # noqa: B023
                client_only=client_only))  # noqa: B023
            assert words in text
            assert "--address" in text


def test_the_route_to_members_begins_at_another_address(two: Newcomer) -> None:
    """etcd's members look at where others come from; clients they do not mind."""
    two.source = "192.0.2.9"
    assert "--address 192.0.2.9, or --client-only" in refused(two, two.join)
    assert two.join(client_only=True).complete


def test_an_attempt_that_fails_takes_out_only_what_it_brought_in(two: Newcomer) -> None:
    """Typed twice within a moment; the second time etcd's ports are closed."""
    two.join()
    two.etcd_answers = False
    with pytest.raises(SlimError, match="its etcd does not answer here"):
        two.join(again=True)
    assert two.house.records.host(TWO.host) is not None
    assert two.house.members.users == {TWO.host}


def test_etcd_does_not_answer_here(two: Newcomer) -> None:
    """The host is let in and goes again: its ports are closed, for example."""
    two.etcd_answers = False
    assert "its etcd does not answer here: are TCP ports" in refused(two, two.join)
    two.etcd_answers = True
    assert two.join().complete


def test_it_is_in_a_cluster_already(two: Newcomer) -> None:
    two.join()
    assert "in the cluster test already" in refused(two, two.join)
    before = two.here.folder.read("host.crt")
    two.house.now_s += 100
    two.now_s += 100
    two.join(again=True)
    assert two.here.folder.read("host.crt") != before
    assert len(two.house.records.hosts()) == 2


def test_it_is_in_another_cluster(two: Newcomer) -> None:
    two.here.folder.put_identity(replace(TWO, cluster="d" * 32, cluster_name="d", complete=True))
    assert "slim cluster leave" in refused(two, lambda: two.join(again=True))


class Kill(BaseException):
    """The process ends."""


@pytest.mark.parametrize("name", [KEEPER, DRIVER])
def test_killed_before_a_program_starts(two: Newcomer, monkeypatch: pytest.MonkeyPatch, name: str
                                        ) -> None:
    """A host without its keeper is not taken for one that is whole."""
    def killed(which: str) -> None:
        if which == name:
            raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(two.services, "restart", killed)
        with pytest.raises(Kill):
            two.join()
    assert two.join().complete
    assert two.services.running == {KEEPER, DRIVER}


def test_killed_at_each_file_that_it_writes(two: Newcomer, monkeypatch: pytest.MonkeyPatch
                                            ) -> None:
    """Typed again it goes on; half a folder is never taken for a whole one."""
    write = ClusterFolder.write
    count, at = [0], 0
    whole = False
    while not whole:
        count[0], at = 0, at + 1

        def killed(folder: ClusterFolder, name: str, content: str | bytes, at: int = at) -> None:
            count[0] += 1
            if count[0] == at:
                raise Kill
            write(folder, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(ClusterFolder, "write", killed)
            whole = True
            with contextlib.suppress(Kill):
                whole = False
                two.join()
                whole = True
        if not whole:
            assert not two.here.folder.exists or not two.here.folder.identity().complete
    assert at > 6
    assert two.here.folder.identity().complete
    assert [host.id for host in two.house.records.hosts()] == ["1" * 32, TWO.host]
    assert not two.path.joinpath("cluster.new").exists()
