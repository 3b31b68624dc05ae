"""Types the lines of docs/first-cluster.md on three hosts, and compares what they print."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.lab.cluster.conftest import come_up, shell
from tests.lab.rig.hosts import CommandFailed, Host, Lab
from tests.support.run.wait import wait_until

SETTLE_S = 180
DRIVER_LOG = "/var/log/slim/slim.log"
PROMPT = re.compile(r"host(\d)# (.*)")

# What differs from one cluster to the next, and by what it is replaced in the page and in what was
# printed; runs of spaces, since columns are as wide as their cells.
VARIABLE = [(re.compile(pattern), name) for pattern, name in (
    (r"SLIM-1-[a-z2-7-]+", "TOKEN"), (r"\b[0-9a-f]{64}\b", "ID64"), (r"\b[0-9a-f]{12}\b", "ID12"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME"), (r"\b\d+(\.\d)? [KM]B\b", "SIZE"),
    (r"etcd \d+\.\d+\.\d+", "etcd VERSION"), (r"\b(leader|follower)\b", "ROLE"),
    (r" +", " "))]


def commands(page: str) -> list[tuple[int, str, str]]:
    """Return the page's commands: the host's number, the line, and what it prints."""
    found: list[tuple[int, str, str]] = []
    for line in page.splitlines():
        if not line.startswith("    "):
            if line.strip():
                found.append((0, "", ""))  # prose: the output above has ended
            elif found and found[-1][0]:
                found[-1] = (*found[-1][:2], found[-1][2] + "\n")
            continue
        prompt = PROMPT.fullmatch(line.strip())
        if prompt is not None:
            found.append((int(prompt[1]), prompt[2], ""))
        elif found and found[-1][0]:
            found[-1] = (*found[-1][:2], found[-1][2] + line.removeprefix("    ") + "\n")
    return [(host, line, output) for host, line, output in found if host]


def plain(text: str) -> str:
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    return text.strip()


def test_the_page_has_commands(project: Path) -> None:
    found = commands((project / "docs/first-cluster.md").read_text())
    assert len(found) > 10
    assert {host for host, _, _ in found} == {1, 2, 3}


def say(host: Host, line: str, network: str) -> str:
    """Type a line on a host; return what it prints, with the addresses of the page."""
    try:
        printed = shell(host, line)
    except CommandFailed as error:
        printed = str(error)
    return printed.replace(f"{network}.", "10.0.0.")


@pytest.mark.timeout(600)
def test_its_lines_do_what_it_says(up_lab: Lab, project: Path) -> None:
    hosts = come_up(up_lab, 3)
    network = str(hosts[0].address).rpartition(".")[0]
    token = ""
    for number, line, expected in commands((project / "docs/first-cluster.md").read_text()):
        host = hosts[number - 1]
        typed = re.sub(r"SLIM-1-\S+", token, line).replace("10.0.0.", f"{network}.")
        printed = say(host, typed, network)
        until_s = time.monotonic() + SETTLE_S
        # It settles; and a name is on record some moments after its container runs (docs/names.md).
        settles = "status" in line or "wget" in line
        while settles and plain(printed) != plain(expected) and time.monotonic() < until_s:
            printed = say(host, typed, network)
        assert plain(printed) == plain(expected), line
        if found := re.search(r"SLIM-1-\S+", printed):
            token = found[0]
    # Whoever joined has tested the ways to the others by itself.
    wait_until(lambda: "other hosts were tested" in hosts[1].exec("cat", DRIVER_LOG), SETTLE_S,
               "its driver's log says what it has found")
    assert "other hosts were tested" not in hosts[0].exec("cat", DRIVER_LOG)
