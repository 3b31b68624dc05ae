"""What a host and the store hold, to be compared before and after: the test of "leaves nothing".

It reads the kernel, Docker and etcd as they are and asks the driver nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from tests.lab.hosts import Host, Lab

# dockerd makes it for the first container that needs egress, and keeps it.
_DOCKERS_OWN = {"docker_gwbridge"}
# Records that outlive what they were made for, on purpose.
_LASTING_KEYS = ("/slim/v1/hosts/", "/slim/v1/known/", "/slim/v1/absent/",
                 "/slim/v1/publishers/", "/slim/v1/subnet-guard")


@dataclass(frozen=True)
class HostState:
    links: frozenset[str]
    rules: tuple[str, ...]
    pins: frozenset[str]
    map_entries: tuple[tuple[str, int], ...]  # of the pinned hash maps
    containers: frozenset[str]
    networks: frozenset[str]

    def difference(self, later: HostState) -> str:
        """Say what is new or gone in `later`; empty if nothing is."""
        lines = []
        for field in fields(self):
            before, after = set(getattr(self, field.name)), set(getattr(later, field.name))
            if before != after:
                new, gone = sorted(after - before), sorted(before - after)
                lines.append(f"{field.name}: new {new}, gone {gone}")
        return "; ".join(lines)


# Runs on the host, one start for all maps: arrays are always full, LRU maps age by themselves.
_COUNT_ENTRIES = """
import json, subprocess
def bpftool(*argv):
    out = subprocess.run(["bpftool", "--json", *argv], capture_output=True, check=True).stdout
    return json.loads(out or "[]")
counted = {}
for entry in bpftool("--bpffs", "map", "show"):
    pins = [pin for pin in entry.get("pinned", []) if pin.startswith("/sys/fs/bpf/")
            and not pin.endswith("/shares")]  # of all sandboxes together: stays once it is there
    if pins and entry.get("type") in ("hash", "percpu_hash", "lpm_trie", "sockhash"):
        counted[pins[0]] = len(bpftool("map", "dump", "id", str(entry["id"])))
print(json.dumps(sorted(counted.items())))
"""


def _map_entries(host: Host) -> tuple[tuple[str, int], ...]:
    """Count the entries of each pinned hash map."""
    counted = json.loads(host.exec("/usr/bin/python3", "-c", _COUNT_ENTRIES))
    return tuple((str(pin), int(count)) for pin, count in counted)


def host_state(host: Host) -> HostState:
    links = json.loads(host.exec("ip", "-j", "link", "show"))
    return HostState(
        links=frozenset(link["ifname"] for link in links) - _DOCKERS_OWN,
        rules=tuple(host.exec("ip", "rule", "show").splitlines()),
        pins=frozenset(host.exec("find", "/sys/fs/bpf", "-mindepth", "1").split()),
        map_entries=_map_entries(host),
        containers=frozenset(host.docker("ps", "-aq").split()),
        networks=frozenset(host.docker("network", "ls", "--format", "{{.Name}}").split())
        - _DOCKERS_OWN,
    )


def store_keys(lab: Lab) -> frozenset[str]:
    """slim's keys in the lab's etcd, but for those that stay while a host is registered."""
    keys = lab.etcdctl("get", "--prefix", "--keys-only", "/slim/").split()
    return frozenset(key for key in keys
                     if not key.startswith(_LASTING_KEYS) and not key.endswith("/fence"))


def remove_everything(host: Host) -> None:
    """Through Docker alone: all containers, then all networks that a user made."""
    if containers := host.docker("ps", "-aq").split():
        host.docker("rm", "-f", "-v", *containers)
    networks = host.docker("network", "ls", "--filter", "type=custom", "--format", "{{.Name}}")
    if wanted := set(networks.split()) - _DOCKERS_OWN:
        host.docker("network", "rm", *sorted(wanted))
