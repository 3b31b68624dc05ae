"""Checks what slim talks to: etcd and Docker, and whether their networks fit this host."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from driver.doctor.finding import CheckError
from driver.process.unix_http import UnixConnection
from driver.settings import Settings

if TYPE_CHECKING:
    from driver.store.etcd.client import EtcdKeyValue

DOCKER_API_MINIMUM = (1, 41)  # Engine 20.10
DOCKER_SOCKET = "/var/run/docker.sock"
ANSWER_S = 5.0  # for etcd and dockerd


def check_etcd(settings: Settings) -> str:
    """Check that each etcd answers over HTTP, lets us read, and would let us write."""
    context = _tls(settings) if settings.etcd[0].startswith("https:") else None
    said = []
    for url in settings.etcd:
        try:
            with urllib.request.urlopen(f"{url}/version", timeout=ANSWER_S,  # noqa: S310 - http(s)
                                        context=context) as answer:
                version = json.load(answer)["etcdserver"]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise CheckError(f"etcd at {url} does not answer ({reason}): is it running, and does "
                          "--etcd name it?") from error
        said.append(f"{url} ({version})")
    _use_etcd(settings)
    return ", ".join(said)


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.etcd_ca or None)
    if settings.etcd_cert:
        context.load_cert_chain(settings.etcd_cert, settings.etcd_key)
    return context


def _use_etcd(settings: Settings) -> None:
    from driver.store.etcd.health import trouble  # noqa: PLC0415
    from driver.store.format.keys import ROOT  # noqa: PLC0415

    with _open_etcd(settings) as kv:
        kv.count(ROOT)
        problem = trouble(kv)
    if problem:
        raise CheckError(f"etcd answers, but {problem}")


def _open_etcd(settings: Settings) -> EtcdKeyValue:
    from driver.compose.parts.etcd import etcd_settings  # noqa: PLC0415
    from driver.store.etcd.client import EtcdKeyValue  # noqa: PLC0415

    return EtcdKeyValue(etcd_settings(settings))


def check_networks(settings: Settings) -> str:
    """Check slim's networks on this host: no route of the host may have come to overlap one."""
    from driver.link.underlay.routed import routed_networks  # noqa: PLC0415
    from driver.services.addresses.overlaps import describe, overlap  # noqa: PLC0415
    from driver.state.host import ID_FILE, host_id  # noqa: PLC0415
    from driver.store.networks import EtcdNetworks  # noqa: PLC0415

    state = Path(settings.state)
    if not (state / ID_FILE).exists():
        return "none yet"
    with _open_etcd(settings) as kv:
        networks = EtcdNetworks(kv, host_id(state)).list()
    routed = routed_networks()
    for network in networks:
        for subnet in network.subnets:
            other = overlap(ip_network(subnet), routed)
            if other is not None:
                raise CheckError(f"network {network.id[:12]} has {subnet}, which overlaps "
                                 f"{describe(other)}: containers cannot reach one of the two; "
                                 "remove that network, or this one")
    return f"{len(networks)}, none overlaps a network of the host"


def check_docker(settings: Settings) -> str:
    """Check for a new enough Docker Engine."""
    del settings
    try:
        answer = _docker_version()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CheckError(f"no Docker Engine answers on {DOCKER_SOCKET} ({error}): systemctl start "
                      "docker, or make up") from error
    version, api = str(answer["Version"]), str(answer["ApiVersion"])
    if tuple(int(part) for part in api.split(".")) < DOCKER_API_MINIMUM:
        raise CheckError(f"Docker {version} has API {api}; 20.10 (API 1.41) or later is needed")
    return f"{version} (API {api})"


def _docker_version() -> dict[str, object]:
    with closing(UnixConnection(DOCKER_SOCKET, ANSWER_S)) as connection:
        connection.request("GET", "/version")
        answer = json.loads(connection.getresponse().read())
    if not isinstance(answer, dict):
        raise ValueError("no object")
    return answer
