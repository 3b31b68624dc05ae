"""Tells which path connections took, by the drivers' counters and a capture between the hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

from driver.datapath.code.reasons import read_reasons
from tests.lab.rig.hosts import CommandFailed, Host
from tests.support.run.wait import wait_until

VXLAN_PORT = 14789
READY_S = 20  # how long a server may take on a busy machine
# Packets of neighbour discovery, which a container sends by itself.
_HARMLESS = {"link_local6", "not_ip"}
# None of these may grow while TCP is the only traffic.
NOT_HOST_PATH = {reason.name for reason in read_reasons()
                 if reason.kind != "path" or reason.name.startswith("overlay_")} - _HARMLESS


class Traffic:
    """What hosts counted during the block; read it after the block."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = list(dict.fromkeys(hosts))
        self._before = {host: host.counters() for host in self._hosts}
        self.grown: dict[Host, dict[str, int]] = {}

    def end(self) -> None:
        for host in self._hosts:
            before, after = self._before[host], host.counters()
            self.grown[host] = {name: after[name] - before[name] for name in after
                                if after[name] != before[name]}

    def connected(self, host: Host) -> int:
        """Count the connections that programs on `host` made, on the host path or directly."""
        return made(self.grown[host])

    def accepted(self, host: Host) -> int:
        """Count the connections that programs on `host` accepted, on the host path or directly."""
        return self.grown[host].get("accepted", 0) + self.grown[host].get("local", 0)


def made(counters: Mapping[str, int]) -> int:
    """Count the connections on the path meant for them: the host path, or directly."""
    return counters.get("connected", 0) + counters.get("local", 0)


@contextlib.contextmanager
def only_host_path(client: Host, server: Host,
                   older: Collection[str] = ()) -> Iterator[Traffic]:
    """Fail if anything but host path connections passed between the two hosts.

    If the two are one host, fail unless there were direct connections, and only these.

    `older`: counters that packets of connections made before the block may raise.
    """
    with client.capture(only=f"udp port {VXLAN_PORT}") as capture:
        traffic = Traffic([client, server])
        yield traffic
        traffic.end()
    print({host.name: grown for host, grown in traffic.grown.items()})
    assert capture.packets() == [], "VXLAN packets"
    for host, grown in traffic.grown.items():
        other = {name: count for name, count in grown.items()
                 if name in NOT_HOST_PATH.difference(older)}
        if client is server:
            other.pop("overlay_local", None)  # a packet each
            assert grown.get("local", 0) > 0, "no connection"
            assert not grown.keys() & {"connected", "accepted"}, "the host path within one host"
        # The ACK of the peer's FIN may leave on another CPU after our own FIN, and so after the
        # connection's end.  It is obsolete by then, and dropped without harm.
        other.pop("late_ack", None)
        assert other == {}, f"{host.name} counted what is no host connection"


def wait_for_server(host: Host, container: str, *probe: str) -> str:
    """Repeat a client's command until it succeeds on the path meant for it; return its output.

    A server needs a moment until it listens, and other hosts until they know a new endpoint.
    """
    return wait_until(lambda: _probed(host, ("exec", container, *probe)), READY_S,
                      f"{' '.join(probe)} on the path meant for it")


def _probed(host: Host, argv: Sequence[str]) -> str:
    before = made(host.counters())
    try:
        printed = host.docker(*argv)
    except CommandFailed as failure:
        print(failure)
        return ""
    return (printed or " ") if made(host.counters()) > before else ""




def segments_lost(host: Host, container: str) -> int:
    """Count the segments, SYNs too, that the container's TCP sent again because they were lost.

    On a busy machine TCP also repeats segments that are only late.  These do not count: the
    receiver reports them (DSACK), or they probed for a tail that was not lost.  The peer counts
    lost answers.
    """
    text = host.docker("exec", container, "cat", "/proc/net/snmp", "/proc/net/netstat")
    rows = [line.split() for line in text.splitlines()]
    count = {name: int(value) for names, values in zip(rows[::2], rows[1::2], strict=True)
             if names[0] in {"Tcp:", "TcpExt:"}
             for name, value in zip(names[1:], values[1:], strict=True)}
    late = count["TCPDSACKRecv"] + count["TCPDSACKOfoRecv"]
    probes = count["TCPLossProbes"] - count["TCPLossProbeRecovery"]
    return count["RetransSegs"] - late - probes
