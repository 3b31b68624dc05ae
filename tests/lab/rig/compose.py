"""Runs Compose projects on a lab host, with the Compose of the host's Docker release.

Files and commands come from the tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.lab.rig.hosts import Host


class Project:
    """A folder with a Compose file, and the host on which its commands run."""

    def __init__(self, host: Host, folder: Path, file: str = "compose.yaml",
                 profile: str = "") -> None:
        self.host, self.folder = host, folder
        self._env = [f"COMPOSE_FILE={file}", *([f"COMPOSE_PROFILES={profile}"] * bool(profile))]

    def __call__(self, *argv: str, timeout_s: float = 120) -> str:
        """Run `docker-compose ARGV`: 1.29 with Docker 20.10, else 2.  Error: CommandFailed."""
        return self.host.exec("env", "-C", str(self.folder), *self._env, "docker-compose", *argv,
                              timeout_s=timeout_s).rstrip("\n")

    def exec(self, service: str, *command: str) -> str:
        """Do as `docker-compose exec -T`, without the second that Compose 1.29 takes to start."""
        first, *_ = self.container(service).split()
        return self.host.docker("exec", first, *command)

    def container(self, service: str) -> str:
        """Return the id of the service's running container, or those of all."""
        labels = (f"project={self.folder.name}", f"service={service}")
        return self.host.docker("ps", "-q", "--no-trunc", *(
            word for label in labels
            for word in ("--filter", f"label=com.docker.compose.{label}")))


@contextlib.contextmanager
def project(host: Host, folder: Path, file: str = "compose.yaml",
            profile: str = "") -> Iterator[Project]:
    """Take the project down after the block, with its volumes; Compose must leave nothing."""
    made = Project(host, folder, file, profile)
    try:
        yield made
    finally:
        made("down", "-v", "-t", "5")
    mine = ("-q", "--filter", f"label=com.docker.compose.project={folder.name}")
    for left in ("ps", "-a"), ("network", "ls"), ("volume", "ls"):
        assert host.docker(*left, *mine) == "", f"left on {host.name}: {left}"
