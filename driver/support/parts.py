"""Lists the parts of a bundle; each reads something of its own, so that one failure costs one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from driver.commands.control_client import ask
from driver.errors import SlimError
from driver.settings import Settings
from driver.support import docker_here, machine

LINES: Final = 5000  # of the log
LOG_FILE: Final = Path("/var/log/slim/slim.log")  # of `make up` on a system without systemd


def parts(settings: Settings, log_file: Path = LOG_FILE) -> dict[str, Callable[[], str]]:
    """Return file name -> what makes its text."""
    docker = cache(partial(docker_here.look, settings))
    hosts = cache(partial(_hosts, settings))
    return {
        "README": _contents,
        "about.json": partial(machine.about, settings),
        "settings": partial(docker_here.settings_text, settings),
        "doctor": partial(_doctor, settings),
        "status.json": partial(_asked, settings, "Slim.Status"),
        "counters.json": partial(_asked, settings, "Slim.Counters"),
        "metrics": lambda: str(ask(settings.socket, "Slim.Metrics")["Metrics"]),
        "names.json": partial(_asked, settings, "Slim.Names"),
        "sockets.json": partial(_asked, settings, "Slim.Sockets", {"Everything": True}),
        "refusals.json": partial(_asked, settings, "Slim.Refusals", {}),
        "hosts": hosts,
        "maps": partial(machine.maps, settings),
        "network": machine.network,
        "docker.json": lambda: docker_here.as_json(docker()),
        "reproduce.sh": lambda: docker_here.reproduction(
            settings, _docker_or_nothing(docker), _count_hosts(hosts)),
        "log": partial(_log, settings, log_file)}


def _contents() -> str:
    return ("What `slim support` found on this host.  Secrets are left out; names and addresses\n"
            "of containers, networks and hosts are not: read it before you give it away.\n"
            "docs/operations.md of slim says what each file is.\n")


def _asked(settings: Settings, call: str, request: Mapping[str, object] | None = None) -> str:
    return json.dumps(ask(settings.socket, call, request), indent=2) + "\n"


def _doctor(settings: Settings) -> str:
    from driver.doctor.checks import findings  # noqa: PLC0415

    return "".join(f"{finding}\n" for finding in findings(settings))


def _hosts(settings: Settings) -> str:
    from driver.commands.hosts import host_rows  # noqa: PLC0415

    return "".join("\t".join(row) + "\n" for row in host_rows(settings))


def _count_hosts(hosts: Callable[[], str]) -> int:
    with suppress(SlimError):
        return len(hosts().splitlines()) - 1  # without the heading
    return 0


def _docker_or_nothing(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with suppress(SlimError):
        return look()
    return {"Engine": {}, "Networks": [], "Containers": []}


def _log(settings: Settings, log_file: Path) -> str:
    """Return the last lines: of the system's log, of `make up`'s file, else what the driver kept.

    The first two have what a driver said that runs no more.
    """
    from driver.cluster.programs import ProgramFailed, run  # noqa: PLC0415

    text = ""
    with suppress(ProgramFailed):
        text = run(["journalctl", "--quiet", "--no-pager", "--output=short-iso", "--lines",
                    str(LINES), "--unit=slim", "--unit=slim-etcd", "--unit=slim-cluster"]
                   ).decode(errors="replace")
    if not text and log_file.exists():
        lines = log_file.read_text(errors="replace").splitlines(keepends=True)
        text = "".join(lines[-LINES:])
    if not text:
        lines = ask(settings.socket, "Slim.Log")["Lines"]  # type: ignore[assignment]
        text = "".join(f"{line}\n" for line in lines)
    return text
