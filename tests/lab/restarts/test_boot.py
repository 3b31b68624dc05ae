"""Tests that after a crash of their host containers run again, with no command typed.

Whatever was late: the driver, or etcd.
"""

from __future__ import annotations

import pytest

from tests.lab.conftest import BUSYBOX, SERVE
from tests.lab.docker.test_docker import address_of, call, check_views, create_network, start
from tests.lab.restarts.test_dockerd import running, start_driver
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.hosts import LAB_SH, Host, Lab, run
from tests.support.run.wait import wait_until

pytestmark = [every_docker, pytest.mark.timeout(600)]

ALWAYS = ("--restart", "always")
FIXED = [f"10.32.9.{number}" for number in range(1, 4)]
OTHERS = [f"other-{number}" for number in range(5)]
BACK_S = 120  # on a busy machine, after what was missing is there


@feature("a host's boot: containers run again by themselves")
@pytest.mark.parametrize("late", ["nothing", "driver", "etcd"])
def test_containers_run_again(late: str, lab: Lab, h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    bob = start(h2, "bob", *SERVE)
    server = start(h1, "server", *SERVE, options=[*ALWAYS, "--ip", "10.32.9.99"])
    # Without a driver dockerd waits 15 s at the start of each container and network.
    fixed, others = (FIXED[:1], OTHERS[:1]) if late == "driver" else (FIXED, OTHERS)
    for number, address in enumerate(fixed):
        start(h1, f"fixed-{number}", image=BUSYBOX, options=[*ALWAYS, "--ip", address])
    for name in others:
        start(h1, name, image=BUSYBOX, options=["--restart", "unless-stopped"])
    start(h1, "not-again", image=BUSYBOX)
    start(h1, "stopped", image=BUSYBOX, options=["--restart", "unless-stopped"])
    h1.docker("stop", "-t", "0", "stopped")
    if late == "etcd":
        lab.stop_etcd()
    run([str(LAB_SH), "crash", h1.name], env=lab.env)
    assert h1.driver is not None
    h1.driver.join()
    if late == "driver":
        for step in ("boot", "start"):
            run([str(LAB_SH), step, h1.name], env=lab.env, timeout_s=300)
        assert not running(h1, "server")
        start_driver(h1)
    else:
        h1.reboot()
    if late == "etcd":
        assert not running(h1, "server")
        lab.start_etcd()
    expected = ["server", *others, *(f"fixed-{number}" for number in range(len(fixed)))]
    wait_until(lambda: all(running(h1, name) for name in expected), BACK_S, "all run again")
    assert [address_of(h1, f"fixed-{number}") for number in range(len(fixed))] == fixed
    assert not running(h1, "not-again")
    assert not running(h1, "stopped")
    check_views(call(h2, "bob", server, "--retry-s", "20"), client=bob, server=server)
    check_views(call(h1, "server", bob), client=server, server=bob)
