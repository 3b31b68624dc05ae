"""Asks Docker what the running containers are called, and hears when that changes.

Never call it while a call of dockerd's is served.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import docker
import requests

from driver.engine.docker import TIMEOUT_S, asked
from driver.errors import EngineUnavailable
from driver.model import EndpointId, NetworkId
from driver.services.ports import Container, NamesView

log = logging.getLogger(__name__)

SHORT_ID: Final = 12  # digits
# After these a container has other names, or is in other networks.
EVENTS: Final = ("start", "rename", "connect", "disconnect", "die")
AGAIN_S: Final = 1.0  # after the connection to dockerd was lost, or refused
END_S: Final = 1.0  # for the thread's end; it cannot be called away from a dockerd that is silent


class DockerNames:
    """services.ports.ContainerNames over dockerd's unix socket.  Its constructor asks nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Container's id, name and endpoints -> what was found: one request for a new container.
        self._known: dict[tuple[str, ...], Container] = {}

    def look(self) -> NamesView:
        """See services.ports.ContainerNames.  Takes one request, and one per new container."""
        return asked(self._path, self._look)

    def _look(self, client: docker.APIClient) -> NamesView:
        found: dict[tuple[str, ...], Container] = {}
        networks: dict[NetworkId, str] = {}
        network_of: dict[EndpointId, NetworkId] = {}
        for container in client.containers():
            for name, network in _networks(container):
                networks[NetworkId(network["NetworkID"])] = name
                network_of[EndpointId(network["EndpointID"])] = NetworkId(network["NetworkID"])
            key = (str(container["Id"]), *map(str, container.get("Names") or ()),
                   *sorted(network["EndpointID"] for _, network in _networks(container)))
            known = self._known.get(key)
            if known is None:
                try:
                    known = container_of(client.inspect_container(container["Id"]))
                except docker.errors.NotFound:  # gone meanwhile
                    continue
            found[key] = known
        self._known = found
        return NamesView(tuple(found.values()), networks, network_of)


def container_of(said: dict[str, Any]) -> Container:
    """Return a container's names, from Docker's answer to `inspect`.

    Docker 25 and later list them (DNSNames), earlier ones only the user's aliases.
    """
    short_id = str(said["Id"])[:SHORT_ID]
    name = str(said["Name"]).removeprefix("/")
    everywhere = {name, short_id,
                  str((said.get("Config") or {}).get("Hostname") or short_id)}
    return Container(
        name=name, names={EndpointId(network["EndpointID"]): frozenset(
            everywhere | set(network.get("Aliases") or ()) | set(network.get("DNSNames") or ()))
            for _, network in _networks(said)},
        # As "other:name" in a network, as "/other:/this/name" on Docker's default bridge.
        links=frozenset(link.rpartition(":")[2].rpartition("/")[2]
                        for _, network in _networks(said) for link in network.get("Links") or ()))


def _networks(container: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the networks that the container is in by now, with their names."""
    networks: dict[str, dict[str, Any]] = (container.get("NetworkSettings") or {}).get(
        "Networks") or {}
    return [(name, network) for name, network in networks.items() if network.get("EndpointID")]


class DockerEvents:
    """Calls a function after each event that may change names, and after each reconnection."""

    def __init__(self, path: str, changed: Callable[[], None]) -> None:
        """changed: must return at once."""
        self._path = path
        self._changed = changed
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of the stream
        self._stream: Any = None
        self._away = False
        self._thread = threading.Thread(target=self._run, name="events of Docker", daemon=True)

    def start(self) -> None:
        """Start hearing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop hearing."""
        with self._lock:
            self._stopping.set()
            stream = self._stream
        if stream is not None:
            with suppress(OSError, AttributeError):  # it has just ended by itself
                stream.close()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._hear()
            except (docker.errors.DockerException, requests.RequestException, OSError,
                    ValueError, AttributeError) as error:
                if not self._away and not self._stopping.is_set():
                    log.warning("%s", EngineUnavailable(
                        f"names of containers are not heard of: Docker's events on {self._path}: "
                        f"{type(error).__name__}: {error}"))
                self._away = True
            self._stopping.wait(AGAIN_S)

    def _hear(self) -> None:
        client = docker.APIClient(f"unix://{self._path}", "auto", timeout=TIMEOUT_S)
        try:
            stream = client.events(filters={"event": list(EVENTS)})
            with self._lock:
                self._stream = stream
                if self._stopping.is_set():
                    return
            self._changed()  # what happened before is not told
            for _event in stream:  # without a timeout: nothing may happen for days
                self._away = False
                self._changed()
            raise ConnectionError("they have ended, or are refused")  # the SDK does not say which
        finally:
            with self._lock:
                self._stream = None
            client.close()
