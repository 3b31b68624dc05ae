"""Asks a lab host's dockerd by its API what tests ask many times: a client's start costs more.

What users type is typed by tests, too: Host.docker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
from docker.errors import DockerException
from requests import RequestException

from tests.lab.rig.hosts import CommandFailed, Host

API = "1.41"  # of Debian 12's Docker, the oldest that the lab has


@contextmanager
def engine(host: Host) -> Iterator[docker.APIClient]:
    """Error: CommandFailed, as of a client that is typed."""
    client = docker.APIClient(base_url=host.docker_socket, version=API, timeout=120)
    try:
        yield client
    except (DockerException, RequestException) as error:
        raise CommandFailed(f"dockerd of {host.name}: {error}") from error
    finally:
        client.close()


def containers(host: Host, *, only_running: bool = False, **filters: str) -> list[dict[str, Any]]:
    """As `docker ps` lists them; filters as its --filter."""
    with engine(host) as client:
        found: list[dict[str, Any]] = client.containers(all=not only_running, filters=filters)
        return found


def networks(host: Host, **filters: str) -> list[dict[str, Any]]:
    """As `docker network ls` lists them."""
    with engine(host) as client:
        found: list[dict[str, Any]] = client.networks(filters=filters)
        return found


def logs(host: Host, container: str) -> str:
    with engine(host) as client:
        written: bytes = client.logs(container)
        return written.decode()
