"""What every builder stands on: settings, this host, its kernel side, and the stores.

Values only; who builds what is in build.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver.compose.kernel import HostPorts, Kernel, UnderlayState
from driver.compose.store_parts import Stores
from driver.model import Host, HostId
from driver.settings import Settings


@dataclass(frozen=True)
class Ground:
    """Made first; the same for all."""

    settings: Settings
    this_host: Host
    underlay: UnderlayState
    host_ports: HostPorts
    kernel: Kernel
    stores: Stores
    netns_path: Callable[[str], str]  # where this process sees the namespace of a SandboxKey

    @property
    def me(self) -> HostId:
        """This host's id."""
        return self.this_host.id
