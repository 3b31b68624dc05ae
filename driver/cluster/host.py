"""Brings a host's programs up and down around the cluster's folder, and waits until they answer."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from driver.cluster.folder import ClusterFolder, Identity
from driver.cluster.model import client_url
from driver.cluster.services import DRIVER, ETCD, KEEPER, Services
from driver.errors import Conflict, SlimError, StoreUnavailable
from driver.process.unix_http import UnixConnection
from driver.state import durable
from driver.store.etcd.management import OneMember

ETCD_S: Final = 60.0
DRIVER_S: Final = 120.0  # it may have to compile its programs first
LOOK_S: Final = 0.2


@dataclass(frozen=True)
class ThisHost:
    """Where things lie on this host, and what runs them.

    up_env: what `make up` was told; data: etcd's; socket: the driver's.
    """

    folder: ClusterFolder
    services: Services
    data: Path
    up_env: Path
    socket: str

    def prefer_cluster(self) -> None:
        """Forget the etcd that `make up` chose: from now on it is the cluster's."""
        if self.up_env.exists():
            durable.write(self.up_env, "")

    def forget_cluster(self) -> None:
        """Undo `prefer_cluster`: `make up` chooses an etcd again, as on a new host."""
        if self.up_env.exists() and not self.up_env.read_text().strip():
            self.up_env.unlink()

    @property
    def work(self) -> Path:
        """Where a backup is unpacked: it has all records, so nothing of it may be left."""
        return self.data.with_name("restoring")

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """Make an empty folder, always the same one, for the block.  Errors: Conflict, OSError."""
        self.drop_work()
        self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.work) as is_ours:
            if not is_ours:
                raise Conflict("another `slim cluster restore` runs on this host")
            try:
                yield self.work
            finally:
                shutil.rmtree(self.work, ignore_errors=True)

    def drop_work(self) -> None:
        """Remove what a restore that was killed has unpacked, unless one is at it."""
        if not self.work.is_dir():
            return
        with _locked(self.work) as is_ours:
            if is_ours:
                shutil.rmtree(self.work, ignore_errors=True)

    def remove_data(self) -> None:
        """Remove etcd's data, what is aside, and what a restore that was killed has unpacked."""
        beside = (self.data.with_name(self.data.name + end) for end in (".old", ".new"))
        for path in (self.data, *beside, self.work):
            shutil.rmtree(path, ignore_errors=True)

    def wait_for_etcd(self, address: str) -> None:
        """Wait until this host's member answers and knows a leader.  Error: SlimError."""
        member = OneMember(client_url(address), self.folder.etcd_settings("root"))

        def answers() -> bool:
            try:
                return bool(member.status()["leader"])
            except StoreUnavailable as error:
                self_said.append(str(error))
                return False

        self_said: list[str] = []
        try:
            if not wait(answers, ETCD_S):
                raise SlimError(f"etcd does not come up ({self_said[-1] if self_said else ''}): "
                                f"see {self.services.log_of(ETCD)}")
        finally:
            member.close()

    def start_programs(self, me: Identity) -> None:
        """Start the keeper and the driver anew, as those of a host that is whole in its cluster.

        It is noted last: who is killed before types the command again, and it goes on.  A managed
        plugin is dockerd's to start.
        """
        self.services.restart(KEEPER)
        if not me.plugin:
            self.services.restart(DRIVER)
        self.folder.put_identity(replace(me, complete=True))

    def wait_for_driver(self) -> None:
        """Wait until the driver answers that we have started.  Error: SlimError."""
        if self.folder.identity().plugin:
            return
        if not wait(lambda: driver_answers(self.socket), DRIVER_S):
            raise SlimError("the driver does not come up: see "
                            f"{self.services.log_of(DRIVER)}, and `slim doctor`")


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock for the block, and tell whether nobody else has it.  Error: OSError.

    It ends with its holder, however that ends.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(opened)


def driver_answers(socket: str) -> bool:
    """Tell whether the driver serves its socket."""
    connection = UnixConnection(socket, 15.0)  # it asks etcd, which may be away
    try:
        connection.request("POST", "/Slim.Status")  # refused while it says why it cannot start
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait(condition: Callable[[], bool], limit_s: float) -> bool:
    """Look again and again until the condition holds; tell whether it came to."""
    until_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(LOOK_S)
    return True
