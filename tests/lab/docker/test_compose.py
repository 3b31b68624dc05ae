"""Tests Compose files on a real dockerd: all network options, and the texts for mistakes.

test_examples.py has the projects that people would run.  The `hosts` fixture checks after each
test that nothing is left.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.lab.conftest import CALL, SERVE
from tests.lab.docker.test_docker import create_network, start
from tests.lab.rig.compose import Project, project
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.hosts import PROJECT, CommandFailed, Host, Lab
from tests.lab.rig.snapshot import remove_everything
from tests.lab.rig.standard_images import load_standard_images

pytestmark = every_docker

EVERYTHING = Path(__file__).with_name("projects") / "everything.yaml"
STATIC = ("10.32.0.10", "fd00:32::10")  # the server's, in that file
SUBNET = "subnet: 10.70.0.0/24"


def called(made: Project, service: str, name: str) -> str:
    """Connect to the server by one of its names; return its address as the server sees it."""
    seen = json.loads(made.exec(service, *CALL, name, "7000"))
    return str(seen["server"]["local"][0]).removeprefix("::ffff:")


def address(made: Project, service: str, network: str) -> str:
    inspected = made.host.inspect(made.container(service))
    found = inspected["NetworkSettings"]["Networks"]
    return str(next(at["IPAddress"] for name, at in found.items() if name.endswith(f"_{network}")))


@feature("Compose: networks, addresses, aliases, ports, health, scale")
def test_everything_that_a_file_says_of_networks(h1: Host, h2: Host, tmp_path: Path) -> None:
    shutil.copy(EVERYTHING, tmp_path / "compose.yaml")
    with project(h1, tmp_path) as made:
        made("up", "-d")  # the caller starts when the server is healthy
        for static in STATIC:
            assert called(made, "caller", static) == static
        for name in ("server", "api"):
            assert called(made, "caller", name) in STATIC
        assert "mtu 1400" in made.exec("caller", "ip", "link", "show", "eth0")
        assert called(made, "stranger", "elsewhere") == address(made, "server", "other")
        with pytest.raises(CommandFailed):
            made.exec("stranger", *CALL, STATIC[0], "7000", "--timeout-s", "1", "--retry-s", "0")
        assert "default" not in made.exec("hermit", "ip", "route", "show")
        h2.docker("run", "--rm", "tools", *CALL, str(h1.address), "8000")  # the published port

        made("up", "-d", "--scale", "caller=3")
        assert len(made.container("caller").split()) == 3
        made("up", "-d", "--force-recreate", "server")
        assert called(made, "caller", "api") in STATIC


# What is wrong, and what the user then reads; a second text is that of newer Docker releases.
MISTAKES = [
    (f"{SUBNET}, ip_range: 10.71.0.0/25", "",
     r"10\.71\.0\.0/25 is not inside pool 10\.70\.0|10\.70\.0\.0/24 doesn't contain ip-range"),
    ("subnet: 10.32.8.0/24", "", r"overlaps 10\.32\.0\.0/16.*choose another subnet, or exactly"),
    ("subnet: 198.18.0.0/16", "", r"this host's own address 198\.18\.0\.1; choose another subnet"),
    (SUBNET, "10.70.0.0", r"want one from 10\.70\.0\.1 to 10\.70\.0\.254"),
    (SUBNET, "10.70.0.1", "is the network's gateway; choose another"),
    (SUBNET, "10.71.0.9", r"10\.71\.0\.9.*does not belong to any of this network's subnets"
                          r"|no configured subnet or ip-range contain the IP address 10\.71\.0\.9"),
    ("", "10.70.0.9", "only when connecting to networks with user configured subnets"),
    ("subnet: 10.32.0.0/16", "10.32.0.99",
     r"10\.32\.0\.99 belongs to endpoint [0-9a-f]{12} of host [0-9a-f]{12}; choose another"),
    (f"{SUBNET}\n    driver_opts: {{mtu: '1400'}}", "", "called com.docker.network.driver.mtu"),
]


def mistake(config: str, static: str) -> str:
    """Return a Compose file with the mistake."""
    subnet, _, options = config.partition("\n")
    return f"""\
services:
  web:
    image: busybox
    command: ["sleep", "infinity"]
    init: true
    networks: {{app: {{{f"ipv4_address: {static}" if static else ""}}}}}
networks:
  app:
    driver: slim
    ipam: {{driver: slim, config: [{f"{{{subnet}}}" if subnet else ""}]}}
{options}
"""


@feature("Compose: a mistake in a file is explained, and leaves nothing")
def test_mistakes(h1: Host, h2: Host, tmp_path: Path) -> None:
    create_network([h2])
    start(h2, "alice", *SERVE, options=("--ip", "10.32.0.99"))
    with project(h1, tmp_path) as made:
        for config, static, text in MISTAKES:
            (tmp_path / "compose.yaml").write_text(mistake(config, static))
            remove_everything(h1)  # the last file's: Compose 1.29's `down` is slow
            with pytest.raises(CommandFailed, match=re.compile(text, re.I | re.S)):
                made("up", "-d")


@feature("Compose: two projects with one subnet are one network")
def test_two_projects_with_one_subnet(h1: Host, h2: Host, tmp_path: Path) -> None:
    """Containers reach each other by address; each project has its own names."""
    paths = [tmp_path / name for name in ("one", "two")]
    for path, static in zip(paths, ("10.70.0.8", "10.70.0.9"), strict=True):
        path.mkdir()
        (path / "compose.yaml").write_text(mistake(SUBNET, static))
    with project(h1, paths[0]) as one, project(h1, paths[1]) as two, project(h2, paths[1]) as far:
        one("up", "-d")
        two("up", "-d")
        one.exec("web", "ping", "-c", "1", "-W", "3", "10.70.0.9")
        with pytest.raises(CommandFailed, match=r"10\.70\.0\.9 belongs to endpoint"):
            far("up", "-d")
        two("down")  # the other project still has its network
        far("up", "-d")
        one.exec("web", "ping", "-c", "1", "-W", "3", "10.70.0.9")


@feature("Compose: the first steps of docs/compose.md")
def test_first_steps_of_the_documentation(lab: Lab, h1: Host, tmp_path: Path) -> None:
    load_standard_images(lab)
    text = (PROJECT / "docs/compose.md").read_text()
    found = re.search(r"<!-- tested: as it is here -->\n((?: {4}.*\n)+)", text)
    assert found
    steps = re.sub("^ {4}", "", found[1], flags=re.M)
    # Both Composes answer to docker-compose, 1.29 to nothing else.  -T: there is no terminal.
    steps = steps.replace("docker compose", "docker-compose").replace(" exec ", " exec -T ")
    said = h1.exec("env", "-C", str(tmp_path), "bash", "-euxc", steps)
    assert "Welcome to nginx" in said
