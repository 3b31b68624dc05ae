"""Containers' interfaces: netkit where the kernel has it (tests/vm/run.sh), else veth."""

from __future__ import annotations

from functools import partial

from driver.datapath.attachments import attach_to_netkit
from driver.link.veth import probe_kind
from tests.support.machines import Machine


def test_the_hook_of_a_netkit_pair_is_replaced_in_place(machines: list[Machine]) -> None:
    machine = machines[0]
    container = machine.container("10.32.0.2/16")
    (_, veth), = container.endpoints
    is_netkit = probe_kind("auto") == "netkit"
    for name in ("to_container", "from_container_direct"):  # more than one would be refused
        attach = partial(attach_to_netkit, machine.loaded.programs[name], veth.host_ifindex)
        assert machine.netns.call(attach) == is_netkit
