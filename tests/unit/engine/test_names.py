"""Tests reading containers' names from Docker's answers, and hearing of its events."""

from __future__ import annotations

import gc
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from driver.engine import names as module
from driver.engine.names import EVENTS, DockerEvents, DockerNames, container_of
from driver.errors import EngineUnavailable
from driver.model import EndpointId
from driver.services.ports import Container
from tests.support.fakes.docker_api import serving
from tests.support.run.wait import wait_until

WAIT_S = 20.0
ID = "8b1f6c2a9d3e" + "0" * 52
SHORT_ID = ID[:12]


def inspected(hostname: str | None = SHORT_ID, **networks: dict[str, Any]) -> dict[str, Any]:
    """Return Docker's answer to `inspect`: each network by its name."""
    return {"Id": ID, "Name": "/web", "Config": {"Hostname": hostname},
            "NetworkSettings": {"Networks": networks}}


def names_of(said: dict[str, Any], endpoint: str = "e1") -> set[str]:
    return set(container_of(said).names[EndpointId(endpoint)])


# ------------------------------------------------------------------ one container
def test_docker_20_10_without_aliases() -> None:
    said = inspected(app={"EndpointID": "e1", "Aliases": None, "Links": None})
    assert container_of(said) == Container(
        "web", {EndpointId("e1"): frozenset({"web", SHORT_ID})}, frozenset())


def test_docker_20_10_lists_the_short_id_among_the_aliases() -> None:
    said = inspected(app={"EndpointID": "e1", "Aliases": ["www", SHORT_ID]},
                     back={"EndpointID": "e2", "Aliases": ["api"]})
    assert names_of(said) == {"web", "www", SHORT_ID}
    assert names_of(said, "e2") == {"web", "api", SHORT_ID}, "an alias is of one network"


def test_docker_25_lists_names() -> None:
    said = inspected(app={"EndpointID": "e1", "Aliases": None,
                          "DNSNames": ["web", "www", SHORT_ID, "front"]})
    assert names_of(said) == {"web", "www", SHORT_ID, "front"}
    said = inspected(app={"EndpointID": "e1", "Aliases": ["www"], "DNSNames": None})
    assert names_of(said) == {"web", "www", SHORT_ID}


@pytest.mark.parametrize("hostname", [None, "", SHORT_ID])
def test_a_host_name_that_nobody_has_chosen(hostname: str | None) -> None:
    assert names_of(inspected(hostname, app={"EndpointID": "e1"})) == {"web", SHORT_ID}


def test_a_host_name_that_the_user_has_chosen() -> None:
    assert names_of(inspected("front", app={"EndpointID": "e1"})) == {"web", SHORT_ID, "front"}


def test_without_a_configuration() -> None:
    said = {**inspected(app={"EndpointID": "e1"}), "Config": None}
    assert names_of(said) == {"web", SHORT_ID}


def test_links_of_both_kinds() -> None:
    said = inspected(app={"EndpointID": "e1", "Links": ["db:database", "cache:cache"]},
                     bridge={"EndpointID": "e2", "Links": ["/old:/web/older"]})
    assert container_of(said).links == {"database", "cache", "older"}


@pytest.mark.parametrize("settings", [
    None, {}, {"Networks": None}, {"Networks": {}}, {"Networks": {"host": {"EndpointID": ""}}}])
def test_in_no_network_yet(settings: object) -> None:
    said = {**inspected(), "NetworkSettings": settings}
    assert container_of(said) == Container("web", {}, frozenset())


# ------------------------------------------------------------------------ look
class Dockerd:
    """What runs on a host, and what was asked about it."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.gone: set[str] = set()  # since they were listed
        self.streams: SimpleQueue[SimpleQueue[bytes | None]] = SimpleQueue()  # as they are opened
        self.filters: list[object] = []  # of each
        self.refusing = False  # events
        self.closing = threading.Event()

    def run(self, name: str, network: str, endpoint: str, number: int = 1) -> str:
        container_id = f"{number:064x}"
        self.containers[container_id] = {
            "Id": container_id, "Names": [f"/{name}"], "NetworkSettings": {"Networks": {
                network: {"EndpointID": endpoint, "NetworkID": f"id of {network}"}}}}
        return container_id

    def answer(self, url: str) -> tuple[int, object]:
        path = urlsplit(url).path
        if path.endswith("/version"):
            return 200, {"ApiVersion": "1.41"}
        if path.endswith("/containers/json"):
            return 200, list(self.containers.values())
        if path.endswith("/events"):
            if self.refusing:
                return 500, {"message": "not now"}
            self.filters.append(json.loads(parse_qs(urlsplit(url).query)["filters"][0]))
            stream: SimpleQueue[bytes | None] = SimpleQueue()
            self.streams.put(stream)
            return 200, self._chunks(stream)
        container_id = path.split("/")[-2]
        self.asked.append(container_id)
        if container_id in self.gone:
            return 404, {"message": "no such container"}
        listed = self.containers[container_id]
        return 200, {**listed, "Name": listed["Names"][0], "Config": {"Hostname": ""}}

    def _chunks(self, stream: SimpleQueue[bytes | None]) -> Iterator[bytes]:
        while (chunk := stream.get()) is not None:
            if chunk == b"":
                raise ConnectionError
            yield chunk

    def next_stream(self) -> SimpleQueue[bytes | None]:
        return self.streams.get(timeout=WAIT_S)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "docker.sock")


@pytest.fixture
def dockerd(path: str) -> Iterator[Dockerd]:
    made = Dockerd()
    with serving(path, made.answer):
        yield made


def names_in(found: DockerNames) -> list[set[str]]:
    return [set().union(*each.names.values()) for each in found.look().containers]


def test_a_look(dockerd: Dockerd, path: str) -> None:
    web, db = dockerd.run("web", "app", "e1"), dockerd.run("db", "back", "e2", 2)
    view = DockerNames(path).look()
    assert [dict(each.names) for each in view.containers] == [
        {"e1": {"web", web[:12]}}, {"e2": {"db", db[:12]}}]
    assert view.networks == {"id of app": "app", "id of back": "back"}
    assert view.network_of == {"e1": "id of app", "e2": "id of back"}


def test_a_container_is_inspected_once(dockerd: Dockerd, path: str) -> None:
    found = DockerNames(path)
    web = dockerd.run("web", "app", "e1")
    first = found.look()
    assert found.look() == first
    assert dockerd.asked == [web]
    db = dockerd.run("db", "app", "e2", 2)
    assert len(found.look().containers) == 2
    assert dockerd.asked == [web, db]


def test_it_is_inspected_again_after_what_changes_its_names(dockerd: Dockerd, path: str) -> None:
    found = DockerNames(path)
    web = dockerd.run("web", "app", "e1")
    found.look()
    dockerd.run("www", "app", "e1")
    assert names_in(found) == [{"www", web[:12]}]
    assert dockerd.asked == [web] * 2
    dockerd.run("www", "app", "e3")  # connected anew, with other aliases perhaps
    assert set(found.look().containers[0].names) == {"e3"}
    assert dockerd.asked == [web] * 3


def test_one_that_has_gone_is_forgotten(dockerd: Dockerd, path: str) -> None:
    found = DockerNames(path)
    web = dockerd.run("web", "app", "e1")
    found.look()
    listed = dockerd.containers.pop(web)
    assert found.look().containers == ()
    dockerd.containers[web] = listed
    found.look()
    assert dockerd.asked == [web] * 2


def test_one_that_goes_meanwhile_is_left_out(dockerd: Dockerd, path: str) -> None:
    gone = dockerd.run("web", "app", "e1")
    dockerd.run("db", "app", "e2", 2)
    dockerd.gone.add(gone)
    assert [set(each.names) for each in DockerNames(path).look().containers] == [{"e2"}]


# The SDK leaves a socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning",
                            "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_there(path: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"cannot be asked on .*docker\.sock"):
        DockerNames(path).look()
    gc.collect()


def test_an_answer_that_is_none(dockerd: Dockerd, path: str) -> None:
    dockerd.containers["x"] = {"Id": "x", "Names": None, "NetworkSettings": "what?"}
    with pytest.raises(EngineUnavailable, match="AttributeError"):
        DockerNames(path).look()


# ---------------------------------------------------------------------- events
class Hearing:
    """Counts how often something may have changed."""

    def __init__(self, path: str) -> None:
        self.count = 0
        self.events = DockerEvents(path, self._changed)

    def _changed(self) -> None:
        self.count += 1

    def until(self, count: int) -> None:
        wait_until(lambda: self.count >= count, WAIT_S, f"it hears {count} times")
        assert self.count == count


@contextmanager
def hearing(path: str) -> Iterator[Hearing]:
    made = Hearing(path)
    made.events.start()
    try:
        yield made
    finally:
        made.events.stop()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "events of Docker"]


def test_each_event_is_told_and_what_may_have_been_before(dockerd: Dockerd, path: str) -> None:
    with hearing(path) as heard:
        stream = dockerd.next_stream()
        heard.until(1)
        for count in (2, 3):
            stream.put(b'{"status": "start"}\n')
            heard.until(count)
        assert dockerd.filters == [{"event": list(EVENTS)}]
        stream.put(None)


@pytest.mark.parametrize("end", [None, b""])
def test_a_connection_that_ends_is_opened_again(dockerd: Dockerd, path: str,
                                                end: bytes | None) -> None:
    with hearing(path) as heard:
        dockerd.next_stream().put(end)
        stream = dockerd.next_stream()
        heard.until(2)
        stream.put(b'{"status": "die"}\n')
        heard.until(3)
        stream.put(None)


def test_dockerd_that_refuses_is_asked_again_and_logged_once(
        dockerd: Dockerd, path: str, caplog: pytest.LogCaptureFixture) -> None:
    dockerd.refusing = True
    with hearing(path) as heard:
        wait_until(lambda: heard.count > 2, WAIT_S, "it is refused again and again")
        assert "they have ended, or are refused" in caplog.text
        dockerd.refusing = False
        stream = dockerd.next_stream()
        assert caplog.text.count("names of containers are not heard of") == 1
        stream.put(b'{"status": "start"}\n')
        stream.put(None)
        wait_until(lambda: caplog.text.count("names of containers are not heard of") == 2, WAIT_S,
                   "after a time in which they were heard, it is news again")


@pytest.mark.filterwarnings("ignore::ResourceWarning",
                            "ignore::pytest.PytestUnraisableExceptionWarning")
def test_dockerd_that_comes_later(path: str, caplog: pytest.LogCaptureFixture) -> None:
    made = Dockerd()
    with hearing(path) as heard:
        wait_until(lambda: caplog.text, WAIT_S, "nobody is there")
        with serving(path, made.answer):
            made.next_stream().put(None)
            wait_until(lambda: heard.count, WAIT_S, "it is heard")
            heard.events.stop()
    assert threads() == []
    gc.collect()


def test_it_stops_while_nothing_happens(dockerd: Dockerd, path: str) -> None:
    with hearing(path) as heard:
        stream = dockerd.next_stream()
        heard.until(1)
        assert threads()
        heard.events.stop()
        assert threads() == []
        stream.put(b'{"status": "start"}\n')
        stream.put(None)
    assert heard.count == 1


def test_it_stops_while_dockerd_does_not_answer(path: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "END_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        made = Hearing(path)
        made.events.start()
        silent.settimeout(WAIT_S)
        asked, _ = silent.accept()
        made.events.stop()
        assert threads(), "it could not be ended"
        asked.close()
        wait_until(lambda: not threads(), WAIT_S, "the thread ends when it can")


def test_it_stops_though_it_was_never_started(path: str) -> None:
    DockerEvents(path, lambda: None).stop()
