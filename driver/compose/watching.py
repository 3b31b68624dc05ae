"""Owns building what watches namespaces: sandboxes that must keep off the host path, host's links.

Together with build.py and kernel.py the only place that knows the concrete adapters.
"""

from __future__ import annotations

from collections.abc import Callable

from driver.compose.kernel import Kernel, UnderlayState
from driver.compose.parts import Part, nothing
from driver.datapath.withheld import WithheldMaps
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

TICK_S = 0.5  # between looks at what programs have done; the kernel has acted by itself


def build_withholding(kernel: Kernel, watch: NamespaceWatch, underlay: UnderlayState,
                      networks: Networks, netns_path: Callable[[str], str]) -> Withholding:
    """Make it; the finisher's part of it is to be put in."""

    def choice_of(endpoint: Endpoint) -> HostPath:
        return choose(endpoint, networks.get(endpoint.network_id))

    return Withholding(
        verdicts=WithheldMaps(kernel.loaded), watch=watch, underlay=underlay.found.address,
        inspector=KernelInspector(overlay_mtu=underlay.overlay_mtu, path_of=netns_path),
        choice_of=choice_of)


def withholding_parts(withholding: Withholding, docker_socket: str) -> list[Part]:
    """What runs for it; labels are read where there is a socket of Docker's."""
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
    """What puts back programs and the VXLAN device; they stay when the driver stops."""
    return [Part("host's links", links.start, links.stop),
            Part("removals", lambda: watch.watch_removals_here(links.removed), nothing)]
