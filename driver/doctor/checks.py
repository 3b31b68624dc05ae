"""Runs the checks of `slim doctor`: one for each thing the driver needs from this host.

Each check imports its adapters itself, so that a missing library fails one line and not the
command.  The checks leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from driver.doctor import cluster, host, managers, network, outside
from driver.doctor.driver_says import doubts, told_by_driver
from driver.doctor.finding import Check, CheckError, Finding, one_line
from driver.errors import SlimError
from driver.settings import Settings


def findings(settings: Settings) -> Iterator[Finding]:
    """Run the checks one after the other."""
    for name, check in CHECKS:
        yield _finding(name, check, settings)
    yield from host.hooks(settings)
    yield from told_by_driver(settings)
    yield from doubts(settings)


def _finding(name: str, check: Check, settings: Settings) -> Finding:
    try:
        return Finding(name, None, check(settings))
    except (CheckError, SlimError) as error:
        return Finding(name, one_line(str(error)))
    except Exception as error:  # a check that breaks must not hide the others
        return Finding(name, one_line(f"cannot be checked: {type(error).__name__}: {error}"))


CHECKS: tuple[tuple[str, Check], ...] = (
    ("root", host.check_root),
    ("kernel", host.check_kernel),
    ("cgroup", host.check_cgroup),
    ("bpffs", host.check_bpffs),
    ("underlay", network.check_underlay),
    ("ports", network.check_ports),
    ("vxlan-port", network.check_vxlan_port),
    ("pairs", network.check_pairs),
    ("guard", network.check_guard),
    ("notrack", network.check_notrack),
    ("networkd", managers.check_networkd),
    ("nm", managers.check_network_manager),
    ("docker", outside.check_docker),
    ("etcd", outside.check_etcd),
    ("cluster", cluster.check_cluster),
    ("networks", outside.check_networks),
    ("bcc", host.check_bcc),
    ("headers", host.check_headers),
)
