"""Asks a lab host's dockerd over its API what tests ask often: starting a client costs more.

For commands that users type, tests use the client: Host.docker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
from docker.errors import DockerException
from requests import RequestException

from tests.lab.rig.hosts import CommandFailed, Host

API = "1.41"  # of Debian 12's Docker, the lab's oldest


@contextmanager
def engine(host: Host) -> Iterator[docker.APIClient]:
    """Error: CommandFailed, as from the client."""
    client = docker.APIClient(base_url=host.docker_socket, version=API, timeout=120)
    try:
        yield client
    except (DockerException, RequestException) as error:
        raise CommandFailed(f"dockerd of {host.name}: {error}") from error
    finally:
        client.close()


def containers(host: Host, *, only_running: bool = False, **filters: str) -> list[dict[str, Any]]:
    """List containers as `docker ps` does; filters as its --filter."""
    with engine(host) as client:
        found: list[dict[str, Any]] = client.containers(all=not only_running, filters=filters)
        return found


def networks(host: Host, **filters: str) -> list[dict[str, Any]]:
    """List networks as `docker network ls` does."""
    with engine(host) as client:
        found: list[dict[str, Any]] = client.networks(filters=filters)
        return found


def logs(host: Host, container: str) -> str:
    with engine(host) as client:
        written: bytes = client.logs(container)
        return written.decode()
