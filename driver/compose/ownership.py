"""Ensures that only one driver runs on a host, under the id that the host's kernel knows.

It changes nothing, and must run before anything that does.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from pathlib import Path

from driver.errors import SettingsError
from driver.model import HostId
from driver.settings import Settings
from driver.state import host

# In the abstract name space: each network namespace has its own, as it has one slim-vxlan.  The
# name ends with the process, whatever folders the process was started with.
_NAME = "\0slim-driver"
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def lock_host() -> socket.socket:
    """Lock this host against other drivers, whatever --state, --socket or --bpffs they have.

    Return the lock, which the caller closes.  Error: SettingsError, with the process that holds it.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(_NAME)
        lock.listen()
    except OSError as error:
        lock.close()
        raise SettingsError(f"another driver runs on this host{_holder()}, whatever folders it was "
                            "started with: stop that one first") from error
    return lock


def _holder() -> str:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.connect(_NAME)
        found = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return f" (process {_CREDENTIALS.unpack(found)[0]})"
    return ""


def own_id(settings: Settings) -> HostId:
    """Return this host's id: from --state, else from the kernel, else a new one.

    Error: SettingsError; also if the kernel objects belong to another host id, or their pins are
    in a folder other than --bpffs: nothing here may then be touched.
    """
    return host.host_id(Path(settings.state), known=check_own(settings))


def check_own(settings: Settings) -> HostId | None:
    """Return the host id that the kernel knows, None: none.  Error: SettingsError, see own_id."""
    from driver.link.underlay.vxlan import vxlan_owner  # noqa: PLC0415 - loads pyroute2

    state = Path(settings.state)
    kept, (owner, pins) = host.kept_id(state), vxlan_owner()
    if owner is not None:
        if kept is not None and kept != owner:
            raise SettingsError(
                f"this host's containers have interfaces of host id {owner}, --state={state} has "
                f"{kept}: start the driver with the folder that has the first one.  If that is "
                f"lost, remove {state / host.ID_FILE}: the id is then taken from the kernel")
        if pins and pins != settings.bpffs:
            raise SettingsError(
                f"this host's programs are pinned in {pins}, not in --bpffs={settings.bpffs}: say "
                f"--bpffs {pins}, or end them first with `slim cleanup --bpffs {pins}`")
    return owner
