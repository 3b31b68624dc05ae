"""Reads and writes the host's settings of TCP ports: clients' ports, and reserved ports.

The kernel keeps one list of reserved ports for everybody.  A note in the state folder says what
this driver has added, so that exactly that can be taken back.
"""

from __future__ import annotations

import os
from pathlib import Path

from driver.client_ports import Ports, format_ports, parse_ports
from driver.errors import LinkError
from driver.link.netlink.netns import current_cookie

_SETTINGS = Path("/proc/sys/net/ipv4")
_EPHEMERAL = "ip_local_port_range"
_RESERVED = "ip_local_reserved_ports"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NOTE = "reserved-ports"
_LONGEST = 1 << 18  # bytes; the kernel returns the list in a single read only, 65,536 ports at most


def ephemeral_ports() -> Ports:
    """Return the ports that the kernel gives to clients, in the caller's network namespace."""
    first, last = (_SETTINGS / _EPHEMERAL).read_text().split()
    return int(first), int(last)


class ReservedPorts:
    """net.ipv4.ip_local_reserved_ports of the caller's network namespace."""

    def __init__(self, state: Path) -> None:
        """state: the folder for the note."""
        self._note = state / _NOTE

    def all(self) -> set[int]:
        """Return all reserved ports."""
        with (_SETTINGS / _RESERVED).open("rb", buffering=0) as file:
            return parse_ports(os.read(file.fileno(), _LONGEST).decode())

    def others(self) -> set[int]:
        """Return the ports reserved by others."""
        return self.all() - self._noted()

    def writable(self) -> bool:
        """Tell whether this process can change the setting."""
        return os.access(_SETTINGS / _RESERVED, os.W_OK)

    def reserve(self, ports: Ports) -> None:
        """Add these to others' ports, and replace what was added before.  Idempotent.

        Error: LinkError, if the setting cannot be written; nothing is changed then.
        """
        before = self._noted()
        others = self.all() - before
        wanted = set(range(ports[0], ports[1] + 1))
        try:
            # Noted first: after a kill in between, taking back ports not added yet does no harm.
            self._write_note(before | (wanted - others))
            try:
                self._write(others | wanted)
            except OSError:
                self._write_note(before)
                raise
            self._write_note(wanted - others)
        except OSError as error:
            raise LinkError(f"net.ipv4.{_RESERVED} cannot be set: {error}") from error

    def release(self) -> None:
        """Take back what was added, and the note.  Error: LinkError."""
        ours = self._noted()
        try:
            if ours:
                self._write(self.all() - ours)
            self._note.unlink(missing_ok=True)
        except OSError as error:
            raise LinkError(f"net.ipv4.{_RESERVED} cannot be set back: {error}") from error

    def _write(self, ports: set[int]) -> None:
        if ports != self.all():
            (_SETTINGS / _RESERVED).write_text(format_ports(ports) + "\n", encoding="ascii")

    def _noted(self) -> set[int]:
        """Read the note; void after a reboot and in another namespace, where the list is new."""
        try:
            place, ports = self._note.read_text(encoding="ascii").splitlines()
            return parse_ports(ports) if place == _place() else set()
        except (OSError, ValueError):
            return set()  # rather leave ports reserved than take back somebody else's

    def _write_note(self, ports: set[int]) -> None:
        self._note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._note.with_suffix(".new")
        new.write_text(f"{_place()}\n{format_ports(ports)}\n", encoding="ascii")
        new.rename(self._note)


def _place() -> str:
    return f"{_BOOT.read_text().strip()} {current_cookie()}"
