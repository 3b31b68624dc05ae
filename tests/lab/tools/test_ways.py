"""Tests what somebody sees who types `slim test` on a real host."""

from __future__ import annotations

import re

import pytest

from tests.lab.rig.dockers import VERSIONS, docker
from tests.lab.rig.hosts import PROJECT, CommandFailed, Host, Lab, run
from tests.support.run.wait import wait_until

pytestmark = docker(VERSIONS[0])
FOUND_S = 60  # for the drivers to be registered, on a busy machine


def slim_test(host: Host, *arguments: str) -> str:
    return host.exec(str(PROJECT / ".venv/bin/python"), "-m", "driver", "test", "--etcd",
                     host.lab.etcd_url, *arguments)


def is_well(host: Host) -> bool:
    """Both ways were tested, and nothing is wrong but with hosts that other tests have stopped."""
    try:
        said = slim_test(host)
    except CommandFailed as error:
        said = str(error)
    faults = [line for line in said.splitlines()
              if line.startswith("! ") and not line.startswith("! no-driver: ")]
    return re.search(r"; 2 of \d+ ways tested", said) is not None and not faults


@pytest.mark.timeout(400)
def test_a_firewall_that_lacks_the_overlays_port(hosts: list[Host], lab: Lab) -> None:
    first, second = hosts
    wait_until(lambda: is_well(first), FOUND_S, "all is well")
    run(lab.fabric("nft", """
        table netdev fire {
            chain frames {
                type filter hook ingress device h1 priority 0;
                udp dport 14789 drop
            }
        }"""), env=lab.env)
    try:
        with pytest.raises(CommandFailed, match=(
                rf"! udp: {first.name} to {second.name}: UDP 14789 does not arrive: let it pass")):
            slim_test(second)
    finally:
        run(lab.fabric("nft", "delete table netdev fire"), env=lab.env)
    wait_until(lambda: is_well(second), FOUND_S, "it is over")
