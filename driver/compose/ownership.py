"""Owns that one driver runs on a host, under the id that the host's kernel knows.

Like compose it knows the concrete adapters.  It changes nothing, and must come before what does.
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

# In the abstract name space, which each network namespace has of its own, as it has one slim-vxlan:
# it goes with the process, whatever folders that was started with.
_NAME = "\0slim-driver"
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def lock_host() -> socket.socket:
    """Keep other drivers off this host, whatever --state, --socket or --bpffs they have.

    Returns the lock, to be closed.  Error: SettingsError, with the process that has it.
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
    """Return this host's id: as --state has it, else as the kernel does, else a new one.

    Error: SettingsError; also if what is in the kernel is another host id's, or its pins are in
    another folder than --bpffs: then nothing here may be touched.
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
