"""Runs `slim` with a hook that spoils the k-th call on etcd, links, namespaces or maps.

    python -m tests.support.faults.spoilt_driver FOLDER serve …

FOLDER/spoil holds "SERIAL K HOW", where HOW is a name of How.  While it exists, the hook counts
calls, from 1 for each serial, and appends their names to FOLDER/calls.  The K-th call fails, before
or after its effect, or kills the process; the hook then makes FOLDER/reached.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from driver.datapath.datapath import EbpfDatapath
from driver.errors import DatapathError, LinkError, StoreUnavailable
from driver.link.pairs.veth import Veths
from driver.link.sandbox import untracked
from driver.link.sandbox.sandbox import KernelSandboxes
from driver.state.joins import FiledJoins
from driver.state.teardowns import FiledTeardowns
from driver.store.etcd.client import EtcdKeyValue
from driver.store.kv.protocol import OutcomeUnknown
from tests.support.faults.steps import How

AGAIN_S = 0.3  # the driver waits seconds, which a test would lose at each step
STORE = ("get", "range", "count")
LINKS = ("create_veth", "delete_veth", "delete_veth_named", "get_veth", "list_veths")
TEARDOWNS = ("begin", "end", "outstanding")
JOINS = ("put", "remove", "all")
SANDBOXES = ("cookie", "set_up", "listeners", "tear_down")
UNTRACKED = ("install", "remove")
MAPS = ("publish_endpoint", "withdraw_endpoint", "withdraw_interface", "publish_sandbox",
        "withdraw_sandbox", "put_remote", "delete_remote", "set_flood")
WATCHED: list[tuple[type | ModuleType, tuple[str, ...], type[Exception]]] = [
    (EtcdKeyValue, STORE, StoreUnavailable), (EtcdKeyValue, ("commit",), OutcomeUnknown),
    (Veths, LINKS, LinkError), (KernelSandboxes, SANDBOXES, LinkError),
    (untracked, UNTRACKED, LinkError),
    (FiledTeardowns, TEARDOWNS, LinkError), (FiledJoins, JOINS, LinkError),
    (EbpfDatapath, MAPS, DatapathError)]


class Hook:
    """Counts calls, and spoils one when it is told to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._serial, self._count = "", 0

    def install(self) -> None:
        for owner, names, error in WATCHED:
            for name in names:
                setattr(owner, name, self._spoilt(owner, getattr(owner, name), error))

    def _spoilt(self, owner: type | ModuleType, method: Callable[..., Any],
                error: type[Exception]) -> Any:
        name = f"{owner.__name__}.{method.__name__}"

        @wraps(method)
        def step(*arguments: Any, **options: Any) -> Any:
            how = self._turn(name)
            if how is How.KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
            if how is How.FAILS:
                raise error(f"injected: {name}")
            result = method(*arguments, **options)
            if how is How.DONE_KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
            if how is How.DONE:
                raise error(f"injected after: {name}")
            return result

        return step

    def _turn(self, name: str) -> How | None:
        """Return how to spoil this call; None: it is not the one."""
        with self._guard:
            try:
                serial, at, how = (self._folder / "spoil").read_text().split()
            except FileNotFoundError:
                return None
            if serial != self._serial:
                self._serial, self._count = serial, 0
            self._count += 1
            with (self._folder / "calls").open("a") as calls:
                calls.write(f"{name}\n")
            if self._count != int(at):
                return None
            try:  # atomic: the call is spoilt and reported, or, if the test came first, neither
                (self._folder / "spoil").rename(self._folder / "reached")
            except FileNotFoundError:
                return None
            return How[how]


if __name__ == "__main__":
    Hook(Path(sys.argv.pop(1))).install()
    from driver.__main__ import main
    from driver.work import ledger

    vars(ledger).update(OUTAGE_S=AGAIN_S, AGAIN_S=AGAIN_S)
    sys.exit(main())
