"""Tests reading Docker's answers, with an HTTP server in dockerd's place."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from driver.engine.docker import DockerEngine
from driver.errors import EngineUnavailable
from tests.support.fakes.docker_api import serving

NETWORKS = {
    "n1": {"Id": "n1", "IPAM": {"Driver": "slim", "Config": [
        {"Subnet": "10.32.4.9/16", "IPRange": "10.32.7.0/24", "Gateway": "10.32.0.1",
         "AuxiliaryAddresses": {"printer": "10.32.7.9"}}]},
        "Containers": {"c1": {"EndpointID": "e1", "IPv4Address": "10.32.7.2/16",
                              "IPv6Address": ""}}},
    "n2": {"Id": "n2", "IPAM": {"Driver": "default", "Config": [{"Subnet": "172.17.0.0/16"}]},
           "Containers": None},
    "n3": {"Id": "n3", "ConfigOnly": True},
}


VERSION: object = {"ApiVersion": "1.41"}


def answer(url: str) -> tuple[int, object]:
    wanted = url.partition("?")[0].rpartition("/networks")[2].lstrip("/")
    if url.endswith("/version"):
        return 200, VERSION
    if not wanted:
        return 200, [*NETWORKS.values(), {"Id": "gone"}]
    if wanted in NETWORKS:
        return 200, NETWORKS[wanted]
    return 404, {"message": f"network {wanted} not found"}


@pytest.fixture
def dockerd(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "docker.sock")
    with serving(path, answer):
        yield path


def test_what_docker_knows(dockerd: str) -> None:
    view = DockerEngine(dockerd).look()
    assert view.networks == {"n1", "n2"}  # Docker removed one meanwhile
    assert view.endpoints == {"e1"}
    assert view.pools == {("10.32.0.0/16", "10.32.7.0/24"): 1}
    assert view.addresses == {ip_address(text) for text in (
        "10.32.0.1", "10.32.7.9", "10.32.7.2")}


# The SDK leaves a socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning",
                            "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"cannot be asked on .*/none\.sock"):
        DockerEngine(str(tmp_path / "none.sock")).look()
    gc.collect()


def test_an_answer_that_is_none(dockerd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "n1", {"Id": "n1", "Containers": "what?"})
    with pytest.raises(EngineUnavailable, match="AttributeError"):
        DockerEngine(dockerd).look()
