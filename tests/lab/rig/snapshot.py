"""Takes snapshots of a host and the store, to compare them: what "leaves nothing" means.

It reads the kernel, Docker and etcd, and asks the driver nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from driver.store.format import keys
from tests.lab.rig.engine import containers, engine, networks
from tests.lab.rig.hosts import Host, Lab, run
from tests.support.world.etcd import live_keys
from tests.support.world.maps import count_entries, opened

# dockerd makes it for the first container that needs a way out, and keeps it.
_DOCKERS_OWN = {"docker_gwbridge"}
# Records that outlive their subjects on purpose.
_LASTING_KEYS = ("/slim/v1/publishers/", "/slim/v1/subnet-guard", "/slim/v1/services-question")


@dataclass(frozen=True)
class HostState:
    links: frozenset[str]
    rules: tuple[str, ...]
    pins: frozenset[str]
    map_entries: tuple[tuple[str, int], ...]  # of the pinned hash maps
    containers: frozenset[str]
    networks: frozenset[str]

    def difference(self, later: HostState) -> str:
        """Say what is new or gone in `later`; "" if nothing is."""
        lines = []
        for field in fields(self):
            before, after = set(getattr(self, field.name)), set(getattr(later, field.name))
            if before != after:
                new, gone = sorted(after - before), sorted(before - after)
                lines.append(f"{field.name}: new {new}, gone {gone}")
        return "; ".join(lines)


# Types whose entries containers make; arrays are always full, and LRU maps age by themselves.
# Numbers of include/uapi/linux/bpf.h: HASH, PERCPU_HASH, LPM_TRIE, SOCKHASH.
_COUNTED_TYPES = {1, 5, 11, 18}
# Their entries stay for a while: they count for all sandboxes together, or are for namespaces that
# may come back to a network.
_LASTING_MAPS = {"shares", "notes", "hosts6", "numbers6"}


def _map_entries(pins: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Count the entries of each pinned hash map."""
    for pin in pins:
        with contextlib.suppress(FileNotFoundError), opened(pin) as fd:  # it may be gone
            text = Path(f"/proc/self/fdinfo/{fd}").read_text()
            info = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            if int(info.get("map_type", 0)) in _COUNTED_TYPES:  # programs have no type
                yield pin.name, count_entries(fd)


def host_state(host: Host) -> HostState:
    """Take the snapshot, mostly without starting programs on the host: tests do it often."""
    links = json.loads(run(["ip", "-n", host.netns, "-j", "link", "show"]))
    top = host.root / "sys/fs/bpf"
    pins = [Path(folder, name) for folder, folders, files in os.walk(top)
            for name in (*folders, *files)]
    return HostState(
        links=frozenset(link["ifname"] for link in links) - _DOCKERS_OWN,
        rules=tuple(run(["ip", "-n", host.netns, "rule", "show"]).splitlines()),
        pins=frozenset(str(pin.relative_to(top)) for pin in pins),
        map_entries=tuple(sorted(_map_entries(
            [pin for pin in pins if pin.name not in _LASTING_MAPS]))),
        containers=frozenset(found["Id"] for found in containers(host)),
        networks=frozenset(found["Name"] for found in networks(host)) - _DOCKERS_OWN,
    )


def store_keys(lab: Lab) -> frozenset[str]:
    """Return slim's keys in the lab's etcd, without those of registered hosts."""
    return frozenset(key for key in live_keys(lab.stored(keys.ROOT))
                     if not key.startswith(_LASTING_KEYS))


def remove_everything(host: Host) -> None:
    """Remove all containers, then all networks that users made, through Docker alone."""
    if found := [each["Id"] for each in containers(host)]:
        host.docker("rm", "-f", "-v", *found)
    wanted = {each["Name"] for each in networks(host, type="custom")} - _DOCKERS_OWN
    with engine(host) as client:
        for name in sorted(wanted):
            client.remove_network(name)
