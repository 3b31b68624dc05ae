"""Finds containers that Docker should have started and could not for want of slim, and starts them.

Never call it while a call of dockerd's is served: to start a container dockerd calls the driver.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import docker

from driver.engine.docker import asked
from driver.errors import DOES_NOT_START
from driver.model import NetworkId

# Of an error that a network driver or an address plugin was the reason for.
_MARKS: Final = ('plugin "slim', "remote: ", DOES_NOT_START)
_TASK_LABEL: Final = "com.docker.swarm.task.id"  # a swarm starts its tasks anew by itself


class DockerStarts:
    """services.ports.FailedStarts over dockerd's unix socket.  Its constructor asks nothing."""

    def __init__(self, path: str) -> None:
        self._path = path

    def failed(self, networks: Collection[NetworkId]) -> dict[str, str]:
        """See services.ports.FailedStarts.  One request per container that does not run."""
        if not networks:  # a filter of none would be no filter
            return {}
        filters = {"status": ["created", "exited"], "network": sorted(networks)}

        def look(client: docker.APIClient) -> dict[str, str]:
            found = {}
            for container in client.containers(all=True, filters=filters):
                if _TASK_LABEL in (container.get("Labels") or {}):
                    continue
                try:
                    said = client.inspect_container(container["Id"])
                except docker.errors.NotFound:  # gone meanwhile
                    continue
                if should_run(said):
                    found[str(said["Id"])] = str(said["Name"]).removeprefix("/")
            return found

        return asked(self._path, look)

    def start(self, container_id: str) -> None:
        """See services.ports.FailedStarts."""
        def start(client: docker.APIClient) -> None:
            try:
                client.start(container_id)  # one that runs stays as it is
            except docker.errors.NotFound:
                return

        asked(self._path, start)


def should_run(said: dict[str, Any]) -> bool:
    """Judge by Docker's answer to `inspect`: does only slim's absence keep it from running?

    Docker notes a start's error until the next start; a container that somebody has stopped has
    none.
    """
    policy = ((said.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name")
    state = said.get("State") or {}
    return (policy not in (None, "", "no") and not state.get("Running")
            and any(mark in (state.get("Error") or "") for mark in _MARKS))
