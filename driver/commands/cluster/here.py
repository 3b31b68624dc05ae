"""Builds what the commands of `slim cluster` work on: this host's folder and services."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from driver.cluster.addresses import parse_address
from driver.cluster.folder import ClusterFolder
from driver.cluster.host import ThisHost
from driver.cluster.services import services_here
from driver.link.underlay.device import find_underlay
from driver.settings import Settings

UP_ENV: Final = Path("/etc/slim/up.env")  # scripts/common.sh


def this_host(settings: Settings) -> ThisHost:
    """Return where things lie on this host.  Error: SettingsError."""
    return ThisHost(ClusterFolder(Path(settings.cluster)), services_here(),
                    Path(settings.state) / "etcd", UP_ENV, settings.socket)


def own_address(settings: Settings, given: str) -> str:
    """Return this host's address for the cluster.  Errors: InvalidArgument, LinkError."""
    if given:
        return parse_address(given)
    return str(find_underlay(settings.underlay).address)
