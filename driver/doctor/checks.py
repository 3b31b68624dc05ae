"""Checks for `slim doctor`: one for each thing the driver needs from this host.

Each check imports its adapters itself, so that a missing library fails one line and not the
command.  The checks leave nothing behind.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from driver.client_ports import client_ports, unreserved
from driver.commands.cleanup import driver_runs
from driver.doctor import procfs
from driver.errors import SlimError
from driver.process.unix_http import UnixConnection
from driver.settings import Settings
from driver.work.ledger import STUCK

if TYPE_CHECKING:
    from driver.store.etcd.client import EtcdKeyValue

KERNEL_MINIMUM = (6, 1)  # Debian 12; what the programs are tested with
DOCKER_API_MINIMUM = (1, 41)  # Engine 20.10
# IPv6 asks for links of 1280 bytes; VXLAN adds 50: 1280 + 50 = 1330.
UNDERLAY_MTU_MINIMUM = 1330
DOCKER_SOCKET = "/var/run/docker.sock"
ANSWER_S = 5.0  # for etcd and dockerd
DOUBTFUL = ("in doubt", "kept of networks", "cannot be read", "another one has")  # in the status
LOST = "registered; etcd did not know this host any more"
ALL_ENTERED = "all of this host's is in etcd"


class CheckError(Exception):
    """A check failed; the text says why, and what to do."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output."""

    name: str
    problem: str | None  # None: all is well
    detail: str = ""  # what was found

    def __str__(self) -> str:
        if self.problem is None:
            return f"ok    {self.name:<12} {self.detail}".rstrip()
        return f"FAIL  {self.name:<12} {self.problem}"


Check = Callable[[Settings], str]


def findings(settings: Settings) -> Iterator[Finding]:
    """Run the checks one after the other."""
    for name, check in CHECKS:
        yield _finding(name, check, settings)
    yield from _hooks(settings)
    yield from told_by_driver(settings)
    yield from doubts(settings)


def _finding(name: str, check: Check, settings: Settings) -> Finding:
    try:
        return Finding(name, None, check(settings))
    except (CheckError, SlimError) as error:
        return Finding(name, _line(str(error)))
    except Exception as error:  # a check that breaks must not hide the others
        return Finding(name, _line(f"cannot be checked: {type(error).__name__}: {error}"))


def _line(text: str) -> str:
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())


# ---- the host
def check_root(settings: Settings) -> str:
    """Check for root: only root may load programs and make links."""
    del settings
    if os.geteuid() != 0:
        raise CheckError("run as root: sudo slim doctor")
    return ""


def check_kernel(settings: Settings) -> str:
    """Check the kernel's version; the hooks show what it really can do."""
    del settings
    release = os.uname().release
    if procfs.kernel_version(release) < KERNEL_MINIMUM:
        wanted = ".".join(map(str, KERNEL_MINIMUM))
        raise CheckError(f"this is Linux {release}; {wanted} or later is needed")
    return release


def check_cgroup(settings: Settings) -> str:
    """Check for a cgroup v2 tree, also beside v1 trees."""
    mounts = procfs.mounts()
    if settings.cgroup:
        mount = procfs.mount_of(settings.cgroup, mounts)
        if not Path(settings.cgroup).is_dir() or mount is None or mount.kind != "cgroup2":
            raise CheckError(f"--cgroup={settings.cgroup} is no folder of a cgroup2 file system")
        return settings.cgroup
    found = [mount.path for mount in mounts if mount.kind == "cgroup2"]
    if not found:
        raise CheckError("no cgroup2 file system is mounted: mkdir -p /sys/fs/cgroup/unified && "
                      "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    return found[0]


def check_bpffs(settings: Settings) -> str:
    """Check the bpffs, which holds the pins while the driver does not run."""
    mount = procfs.mount_of(settings.bpffs, procfs.mounts())
    if mount is None or mount.kind != "bpf":
        raise CheckError(f"no bpf file system at {settings.bpffs}: "
                      f"mount -t bpf bpf {settings.bpffs}")
    return settings.bpffs


def check_bcc(settings: Settings) -> str:
    """Check the BPF Compiler Collection's binding, which is not PyPI's package of that name."""
    del settings
    found = importlib.util.find_spec("bcc")
    if found is None:
        raise CheckError("there is no bcc here: apt-get install python3-bpfcc, and run slim with a "
                         ".venv that sees system packages (make setup)")
    if importlib.util.find_spec("bcc.libbcc") is None:
        raise CheckError(f"{found.origin} is another project of that name: pip uninstall bcc")
    return str(Path(found.origin or "").parent)


def check_headers(settings: Settings) -> str:
    """Check for headers of the kernel's API; any version will do."""
    del settings
    from driver.datapath.headers import UAPI, header_tree  # noqa: PLC0415
    from driver.datapath.programs import KERNEL_FOLDER  # noqa: PLC0415

    with header_tree(KERNEL_FOLDER):
        return str(UAPI / "linux")


def _hooks(settings: Settings) -> Iterator[Finding]:
    """Check each program by really compiling and loading it."""
    pins = Path(settings.bpffs) / f"slim-doctor-{os.getpid()}"
    try:
        from driver.datapath.probe import probe  # noqa: PLC0415

        for name, error in probe(pins):
            yield Finding("hook", None if error is None else _line(f"{name}: {error}"), name)
    except Exception as error:
        yield Finding("hook", _line(f"cannot be loaded: {error}"))


def told_by_driver(settings: Settings) -> Iterator[Finding]:
    """Report what only a running driver knows.

    That is: whether this host is admitted, what is in conflict, and which other hosts the host
    path does not reach.
    """
    from driver.commands.control_client import NotRunningError, ask  # noqa: PLC0415

    try:
        status = ask(settings.socket, "Slim.Status").get("Status")
    except NotRunningError:
        return
    except SlimError as error:
        yield Finding("peers", _line(str(error)))
        return
    if not isinstance(status, dict):
        return
    said = status.get("registration")
    if said is not None:  # an older driver reports neither this nor the next two
        # Why it had to be entered again is worth a line, but nothing is wrong by now.
        mended = said.startswith(LOST) and status.get("records", "").startswith(ALL_ENTERED)
        yield Finding("registration", None if said == "registered" or mended else said, said)
    said = status.get("outstanding")
    if said is not None:
        yield Finding("outstanding", f"{said}: it is repeated until it works; is the cause "
                      "something to mend?" if said.startswith(STUCK) else None, said)
    said = status.get("peers")
    if said is not None:
        yield Finding("peers", f"{said}: let TCP {settings.port_range}, and TCP option 254, pass "
                      "between the hosts" if " blocked: " in said else None, said)


def doubts(settings: Settings) -> Iterator[Finding]:
    """Report what a running driver knows and cannot find on record."""
    from driver.commands.control_client import ask  # noqa: PLC0415

    try:
        status = ask(settings.socket, "Slim.Status").get("Status")
    except SlimError:
        return  # said in another line, or none runs
    for name in ("directory", "services"):
        said = status.get(name) if isinstance(status, dict) else None
        if said is not None and any(word in said for word in DOUBTFUL):
            yield Finding(name, f"{said}: what is kept works on; is etcd the right one, has it "
                          "all its data (docs/recovery.md), do all drivers run?")


# ---- the network
def check_underlay(settings: Settings) -> str:
    """Check the device and address of the real network."""
    from driver.link.underlay.device import find_underlay  # noqa: PLC0415
    from driver.link.underlay.vxlan import overlay_mtu  # noqa: PLC0415

    found = find_underlay(settings.underlay)
    if found.mtu < UNDERLAY_MTU_MINIMUM:
        raise CheckError(f"{found.name} has an MTU of {found.mtu} bytes, {UNDERLAY_MTU_MINIMUM} "
                         f"are needed: ip link set {found.name} mtu 1500, or another --underlay")
    return (f"{found.name}, {found.address}, MTU {found.mtu} "
            f"(overlay path {overlay_mtu(found.mtu)})")


def check_ports(settings: Settings) -> str:
    """Check the endpoint ports: clients have enough other ports, and nobody listens on these."""
    from driver.link.underlay.port_settings import ReservedPorts, ephemeral_ports  # noqa: PLC0415

    first, last = settings.port_range.first, settings.port_range.last
    reserved, ephemeral = ReservedPorts(Path(settings.state)), ephemeral_ports()
    # As the driver judges at its start.
    clients = client_ports((first, last), ephemeral, reserved.others())
    problem = unreserved((first, last), ephemeral, reserved.all())
    if problem and (driver_runs(settings.socket) or not reserved.writable()):
        raise CheckError(problem)
    taken = sorted({one.port for one in procfs.bound("tcp", listening=True)
                    if first <= one.port <= last and not one.loopback_only})
    if taken:
        raise CheckError(f"in {settings.port_range} somebody listens on {_some(taken)} (ss -ltnp "
                      "shows who): stop it, or take another --port-range")
    return (f"{settings.port_range}, {last - first + 1} endpoints; source ports {clients}"
            f"{'; the driver reserves them at its start' if problem else ''}")


def check_vxlan_port(settings: Settings) -> str:
    """Check the overlay path's UDP port: free, or held by our own device."""
    from driver.link.netlink.names import VXLAN_NAME  # noqa: PLC0415

    port = settings.vxlan_port
    if procfs.has_link(VXLAN_NAME):
        return f"{port}, {VXLAN_NAME} is there"
    if any(one.port == port and not one.loopback_only for one in procfs.bound("udp")):
        raise CheckError(f"UDP port {port} is in use (ss -lunp, ip -d link show type vxlan): take "
                      "another --vxlan-port, the same on all hosts")
    return str(port)


def check_pairs(settings: Settings) -> str:
    """Check the kind of containers' interfaces by really making a pair."""
    from driver.link.pairs.veth import probe_kind  # noqa: PLC0415

    try:
        return probe_kind(settings.pair_kind)
    except SlimError as error:
        raise CheckError(str(error)) from None


def check_guard(settings: Settings) -> str:
    """Check the kernel's packet filter, for what others would forward in this host's name."""
    del settings
    from driver.link.underlay.guard import packet_filter_works  # noqa: PLC0415

    packet_filter_works()
    return "nf_tables, nft_ct, nft_nat"


def check_notrack(settings: Settings) -> str:
    """Check the rules that keep host-path packets in containers from being tracked."""
    del settings
    from driver.link.sandbox import untracked  # noqa: PLC0415

    untracked.works()
    return "nf_tables, nft_ct"


# ---- the others
def check_etcd(settings: Settings) -> str:
    """Check that each etcd answers over HTTP, lets us read, and would let us write."""
    context = _tls(settings) if settings.etcd[0].startswith("https:") else None
    said = []
    for url in settings.etcd:
        try:
            with urllib.request.urlopen(f"{url}/version", timeout=ANSWER_S,  # noqa: S310 - http(s)
                                        context=context) as answer:
                version = json.load(answer)["etcdserver"]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise CheckError(f"etcd at {url} does not answer ({reason}): is it running, and does "
                          "--etcd name it?") from error
        said.append(f"{url} ({version})")
    _use_etcd(settings)
    return ", ".join(said)


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.etcd_ca or None)
    if settings.etcd_cert:
        context.load_cert_chain(settings.etcd_cert, settings.etcd_key)
    return context


def _use_etcd(settings: Settings) -> None:
    from driver.store.etcd.health import trouble  # noqa: PLC0415
    from driver.store.format.keys import ROOT  # noqa: PLC0415

    with _open_etcd(settings) as kv:
        kv.count(ROOT)
        problem = trouble(kv)
    if problem:
        raise CheckError(f"etcd answers, but {problem}")


def _open_etcd(settings: Settings) -> EtcdKeyValue:
    from driver.state.host import read_password  # noqa: PLC0415
    from driver.store.etcd.client import EtcdKeyValue, EtcdSettings  # noqa: PLC0415

    return EtcdKeyValue(EtcdSettings(
        settings.etcd, settings.etcd_ca, settings.etcd_cert, settings.etcd_key,
        settings.etcd_user, read_password(settings.etcd_password_file)))


def check_networks(settings: Settings) -> str:
    """Check slim's networks on this host: no route of the host may have come to overlap one."""
    from driver.link.underlay.routed import routed_networks  # noqa: PLC0415
    from driver.services.addresses.overlaps import describe, overlap  # noqa: PLC0415
    from driver.state.host import ID_FILE, host_id  # noqa: PLC0415
    from driver.store.networks import EtcdNetworks  # noqa: PLC0415

    state = Path(settings.state)
    if not (state / ID_FILE).exists():
        return "none yet"
    with _open_etcd(settings) as kv:
        networks = EtcdNetworks(kv, host_id(state)).list()
    routed = routed_networks()
    for network in networks:
        for subnet in network.subnets:
            other = overlap(ip_network(subnet), routed)
            if other is not None:
                raise CheckError(f"network {network.id[:12]} has {subnet}, which overlaps "
                                 f"{describe(other)}: containers cannot reach one of the two; "
                                 "remove that network, or this one")
    return f"{len(networks)}, none overlaps a network of the host"


def check_docker(settings: Settings) -> str:
    """Check for a new enough Docker Engine."""
    del settings
    try:
        answer = _docker_version()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CheckError(f"no Docker Engine answers on {DOCKER_SOCKET} ({error}): systemctl start "
                      "docker, or make up") from error
    version, api = str(answer["Version"]), str(answer["ApiVersion"])
    if tuple(int(part) for part in api.split(".")) < DOCKER_API_MINIMUM:
        raise CheckError(f"Docker {version} has API {api}; 20.10 (API 1.41) or later is needed")
    return f"{version} (API {api})"


def _docker_version() -> dict[str, object]:
    with closing(UnixConnection(DOCKER_SOCKET, ANSWER_S)) as connection:
        connection.request("GET", "/version")
        answer = json.loads(connection.getresponse().read())
    if not isinstance(answer, dict):
        raise ValueError("no object")
    return answer


def _some(ports: list[int]) -> str:
    shown = ", ".join(map(str, ports[:5]))
    return shown if len(ports) <= 5 else f"{shown} and {len(ports) - 5} more"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("root", check_root),
    ("kernel", check_kernel),
    ("cgroup", check_cgroup),
    ("bpffs", check_bpffs),
    ("underlay", check_underlay),
    ("ports", check_ports),
    ("vxlan-port", check_vxlan_port),
    ("pairs", check_pairs),
    ("guard", check_guard),
    ("notrack", check_notrack),
    ("docker", check_docker),
    ("etcd", check_etcd),
    ("networks", check_networks),
    ("bcc", check_bcc),
    ("headers", check_headers),
)
