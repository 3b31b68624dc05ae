"""Writes other hosts' endpoints into etcd, as their drivers would.

It is a process inside a namespace.  It reads commands from standard input and answers each with a
line; see `main`.
"""

from __future__ import annotations

import sys
import time
from ipaddress import IPv4Address, IPv4Interface

from driver.model import Endpoint, EndpointId, HostId, NetworkId, Vni
from driver.store.etcd.client import EtcdKeyValue, EtcdSettings
from driver.store.format import keys, records
from driver.store.kv.protocol import Put

HOSTS = 400  # other hosts, each with as many endpoints as the directory's size gives
PORT_FIRST, PORTS = 61000, 4536
BATCH = 100  # etcd takes up to 128 operations in one transaction
UNDERLAY_FIRST = int(IPv4Address("198.19.0.1"))


def remote(vni: int, subnet: int, number: int) -> Endpoint:
    """Return endpoint `number` of a network whose first address is `subnet`."""
    host = number % HOSTS
    return Endpoint(
        id=EndpointId(f"{vni:08x}{number:056x}"), network_id=NetworkId(f"{vni:064x}"),
        vni=Vni(vni), host=HostId(f"{host:032x}"), underlay=IPv4Address(UNDERLAY_FIRST + host),
        # From the subnet's end: the driver assigns addresses from its beginning.
        mac=b"\x02\x42" + number.to_bytes(4, "big"),
        address=IPv4Interface((subnet + 65534 - number, 16)), address6=None,
        # Networks share a host's ports.
        port=PORT_FIRST + (vni * 1129 + number // HOSTS) % PORTS)


def _put(endpoint: Endpoint) -> Put:
    return Put(keys.endpoint(endpoint.vni, endpoint.id),
               records.encode(records.shared_endpoint_fields(endpoint)))


def main() -> None:
    """`fill VNI SUBNET FIRST LAST` enters many, `put VNI SUBNET NUMBER` one.

    The answer is the moment at which the last write began (CLOCK_MONOTONIC, seconds).
    """
    with EtcdKeyValue(EtcdSettings((sys.argv[1],))) as kv:
        for line in sys.stdin:
            command, vni, subnet, first, *rest = line.split()
            last = int(rest[0]) if command == "fill" else int(first)
            puts = [_put(remote(int(vni), int(subnet), number))
                    for number in range(int(first), last + 1)]
            begin_s = time.monotonic()
            for start in range(0, len(puts), BATCH):
                begin_s = time.monotonic()
                kv.commit((), puts[start:start + BATCH])
            print(begin_s, flush=True)


if __name__ == "__main__":
    main()
