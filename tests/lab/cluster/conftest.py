"""Hosts as users have them after `make up`, for tests of `slim cluster`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.conftest import BUSYBOX
from tests.lab.rig import images
from tests.lab.rig.hosts import PROJECT, Host, Lab, lab_of_this_process

FOLDER = "/run/slim-command"  # /usr/local/bin is the machine's own
LINK = f"{FOLDER}/slim"


def shell(host: Host, line: str, timeout_s: float = 180) -> str:
    """Run a line as a person types it, in a checkout; return all that it prints."""
    return host.exec("env", "-C", str(PROJECT), f"UP_LINK={LINK}", "bash", "-c",
                     f"mkdir -p {FOLDER}; export PATH={FOLDER}:$PATH; exec 2>&1; {line}",
                     timeout_s=timeout_s)


@pytest.fixture(scope="module")
def up_lab() -> Iterator[Lab]:
    """A lab for hosts on which `make up` is typed."""
    with lab_of_this_process("slimcluster") as lab:
        yield lab


def come_up(lab: Lab, count: int) -> list[Host]:
    """Bring up `count` hosts called host1..., each with the driver as `make up` starts it."""
    before = len(lab.hosts)
    hosts = lab.up(count)
    for host in hosts[before:]:
        host.exec("hostname", host.name.replace("h", "host"))
        shell(host, "make up")
    for tag in (BUSYBOX, "busybox"):
        lab.load_image(tag, images.busybox())
    return hosts
