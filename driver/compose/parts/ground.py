"""Groups what every builder needs: settings, this host, its kernel side, the stores, the ledger.

It has values only; build.py calls the builders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver.compose.parts.kernel import HostPorts, Kernel, UnderlayState
from driver.compose.parts.store import Stores
from driver.model import Host, HostId
from driver.settings import Settings
from driver.work.ledger import Ledger


@dataclass(frozen=True)
class Ground:
    """What all builders share; it is built first."""

    settings: Settings
    this_host: Host
    underlay: UnderlayState
    host_ports: HostPorts
    kernel: Kernel
    stores: Stores
    ledger: Ledger  # what is outstanding on this host
    netns_path: Callable[[str], str]  # path of a SandboxKey's namespace, as this process sees it

    @property
    def me(self) -> HostId:
        """Return this host's id."""
        return self.this_host.id
