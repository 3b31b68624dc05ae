"""Runs `slim cleanup`: permanently removes what outlives the driver on purpose.

It leaves etcd and Docker alone: networks and endpoints stay on record, and work again when the
driver runs again.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from driver.datapath.loading.layout import pin_folder
from driver.errors import DatapathError, SlimError
from driver.settings import Settings


def run_cleanup(settings: Settings) -> int:
    """Detach all programs, remove pins, the VXLAN device, the guard, reserved ports; return 0.

    Open connections of containers on slim networks end.  Idempotent.
    Errors: SlimError if a driver runs (it would be left without its programs), SettingsError if
    the objects belong to a host id other than --state's, LinkError, DatapathError.
    """
    if driver_runs(settings.socket):
        raise SlimError(f"a driver answers on {settings.socket}: stop it first")
    from driver.compose.ownership import check_own, lock_host  # noqa: PLC0415 - loads pyroute2

    with lock_host():  # in case a driver with another socket runs
        check_own(settings)
        _clean(settings)
    return 0


def _clean(settings: Settings) -> None:
    from driver.link.underlay.guard import remove_guard  # noqa: PLC0415 - loads pyroute2
    from driver.link.underlay.port_settings import ReservedPorts  # noqa: PLC0415
    from driver.link.underlay.vxlan import delete_vxlan  # noqa: PLC0415

    _detach_filters()
    delete_vxlan()
    remove_guard()
    # The parent: it holds the pins of every layout, also of an older version of the driver.
    remove_pins(pin_folder(Path(settings.bpffs)).parent)
    ReservedPorts(Path(settings.state)).release()


def driver_runs(path: str) -> bool:
    """Tell whether somebody listens on a driver's socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
        return True


def _detach_filters() -> None:
    """Detach on this host's side only: a container's end loses its filter with its namespace."""
    from driver.link.netlink.filters import attached_ingress, detach_ingress  # noqa: PLC0415

    for ifindex, _ in socket.if_nameindex():
        if (attached_ingress(ifindex) or "").startswith("slim_"):
            detach_ingress(ifindex)


def remove_pins(folder: Path) -> None:
    """Remove a folder of pins; this detaches a link that nothing else holds."""
    try:
        for parent, folders, files in os.walk(folder, topdown=False):
            for name in files:
                (Path(parent) / name).unlink()
            for name in folders:
                (Path(parent) / name).rmdir()
        if folder.exists():
            folder.rmdir()
    except OSError as error:
        raise DatapathError(f"cannot remove {error.filename}: {error.strerror}") from error
