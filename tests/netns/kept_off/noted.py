"""Reads the kernel's note of a container and the verdict on it, for tests without a driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from driver.datapath.code.reasons import read_reasons
from tests.support.world.machines import Container

# Bits of a note, kernel/include/slim.h.
KEYS, RULES, BOUND_LISTENER, IPV6_OPTIONS, LISTENER_GROUP = 1, 2, 4, 8, 16


def noted(container: Container) -> int:
    """Return the bits of the container's note; 0: it has none."""
    table = container.machine.loaded.table("notes")
    found = table.get(table.Key(container.netns.cookie))
    return int(found.what) if found is not None else 0


def withheld(container: Container) -> str | None:
    """Return why the container's new connections avoid the host path; None: they do not."""
    table = container.machine.loaded.table("withheld")
    found = table.get(table.Key(container.netns.cookie))
    return read_reasons()[int(found.value) & 0xffff].name if found is not None else None


@contextmanager
def told(container: Container) -> Iterator[None]:
    """During the block all hosts call this container over the overlay path: its ports are 0."""
    cluster = container.machine.cluster
    endpoints = [endpoint for endpoint, _ in container.endpoints]

    def announce(*, offered: bool) -> None:
        for machine in cluster.machines:
            for each in endpoints:
                machine.datapath.put_remote(each if offered else replace(each, port=0))

    announce(offered=False)
    try:
        yield
    finally:
        announce(offered=True)  # what the fixtures expect to withdraw
