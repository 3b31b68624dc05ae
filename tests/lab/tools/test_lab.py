"""Tests the lab itself, without a driver: the other tests rely on it."""

import json
import subprocess

import pytest

from tests.lab.conftest import BUSYBOX, CALL, SERVE, TOOLS
from tests.lab.rig.hosts import LAB_SH, CommandFailed, Lab


def test_hosts_reach_each_other_and_nothing_else(lab: Lab) -> None:
    h1, h2 = lab.hosts[:2]
    h1.exec("ping", "-c", "1", "-W", "2", str(h2.address))
    with pytest.raises(CommandFailed, match="nreachable"):
        h1.exec("ping", "-c", "1", "-W", "2", "192.0.2.1")


def test_each_host_has_pins_cgroup_run_and_state_of_its_own(lab: Lab) -> None:
    h1, h2 = lab.hosts[:2]
    for folder in ("/sys/fs/bpf", "/run", "/var/lib/slim", "/etc/slim", "/etc/docker"):
        h1.exec("mkdir", f"{folder}/only-here")
        assert "only-here" not in h2.exec("ls", folder)
        h1.exec("rmdir", f"{folder}/only-here")
    assert all(line.endswith((":/", ":/init.scope"))
               for line in h1.exec("cat", "/proc/self/cgroup").split())


def test_capture_counts_every_packet(lab: Lab) -> None:
    h1, h2 = lab.hosts[:2]
    with h1.capture() as capture:
        h1.exec("ping", "-c", "20", "-i", "0.01", "-W", "2", "-s", "777", str(h2.address))
    ours = "ip[2:2] == 805"  # drivers probe each other by ping, too
    assert len(capture.packets(f"icmp[icmptype] == icmp-echo and {ours}")) == 20
    assert len(capture.packets(f"icmp[icmptype] == icmp-echoreply and {ours}")) == 20
    assert capture.packets("udp port 4789") == []


def test_images_run_and_their_programs_speak(lab: Lab) -> None:
    h1 = lab.hosts[0]
    assert h1.docker("run", "--rm", "--network", "none", BUSYBOX, "echo", "hello") == "hello"
    h1.docker("run", "-d", "--name", "server", TOOLS, *SERVE)
    try:
        address = h1.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server")
        seen = json.loads(h1.docker("run", "--rm", TOOLS, *CALL, address, "7000"))
        assert seen["client"]["peer"] == seen["server"]["local"] == [address, 7000]
        assert seen["client"]["local"] == seen["server"]["peer"]
    finally:
        h1.docker("rm", "-f", "server")


def test_down_leaves_nothing_also_after_a_killed_up(lab: Lab) -> None:
    env = {**lab.env, "LAB_NAME": f"{lab.name}x", "LAB_STATE": f"{lab.state}x"}
    up = subprocess.Popen([str(LAB_SH), "up", "1"], env=env, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        up.wait(0.3)  # so that the kill comes in the middle of `up`
    up.kill()
    up.wait()
    subprocess.run([str(LAB_SH), "down"], env=env, check=True)
    look = (f"ls -d /var/lib/{lab.name}x /run/netns/{lab.name}x-*; "
            f"find /sys/fs/cgroup -name {lab.name}x; pgrep -f '^{lab.name}x-h1-init'")
    left = subprocess.run(["bash", "-c", look], capture_output=True, text=True, check=False)
    assert left.stdout == ""
    # The other lab is not affected.
    assert lab.hosts[0].docker("info", "--format", "{{.Driver}}") == "overlay2"
