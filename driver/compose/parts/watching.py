"""Builds what watches namespaces: sandboxes that must avoid the host path, and the host's links.

Programs and the VXLAN device stay when the driver stops.
"""

from __future__ import annotations

from collections.abc import Callable

from driver.compose.parts.kernel import Kernel, UnderlayState
from driver.compose.parts.part import Part, nothing
from driver.datapath.tables.withheld import WithheldMaps
from driver.engine.docker import DockerLabels
from driver.link.netlink.watch import NamespaceWatch
from driver.link.sandbox.inspection import KernelInspector
from driver.model import Endpoint, HostPath
from driver.services import options as network_options
from driver.services.ports import Networks
from driver.services.sandboxes.labels import LabelReader
from driver.services.sandboxes.standing import choose
from driver.services.sandboxes.withholding import Withholding
from driver.services.upkeep.host_links import HostLinks
from driver.work.repeater import Repeater

TICK_S = 0.5  # between checks of what programs did; the kernel has already acted


def build_withholding(kernel: Kernel, watch: NamespaceWatch, underlay: UnderlayState,
                      networks: Networks, netns_path: Callable[[str], str]) -> Withholding:
    """Build it; the caller adds the finisher's part."""

    def choice_of(endpoint: Endpoint) -> HostPath:
        return choose(endpoint, networks.get(endpoint.network_id))

    return Withholding(
        verdicts=WithheldMaps(kernel.loaded), watch=watch, underlay=underlay.host_path,
        inspector=KernelInspector(overlay_mtu=underlay.overlay_mtu, path_of=netns_path),
        choice_of=choice_of)


def withholding_parts(withholding: Withholding, docker_socket: str) -> list[Part]:
    """Return what runs for it; labels are read only if Docker's socket is configured."""
    ticking = Repeater("notes of programs", withholding.tick, TICK_S)
    parts = [Part("withholding", withholding.start, withholding.stop),
             Part("notes of programs", ticking.start, ticking.stop)]
    if docker_socket:
        reader = LabelReader(DockerLabels(docker_socket, network_options.HOST_PATH),
                             withholding.take_labels)
        withholding.on_new = reader.ask_soon
        parts.append(Part("labels", reader.start, reader.stop))
    return parts


def host_link_parts(links: HostLinks, watch: NamespaceWatch) -> list[Part]:
    """Return what restores programs and the VXLAN device; these stay when the driver stops."""
    return [Part("removals", lambda: watch.watch_removals_here(links.removed), nothing)]
