"""Tests well-known programs in containers, with their own clients.

Each works, and all of its TCP takes the host path, or within one host goes directly.  Each test
says how many connections the program made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from tests.lab.conftest import BUSYBOX
from tests.lab.docker.test_docker import address_of, create_network, start
from tests.lab.rig import images
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.hosts import Host, Lab
from tests.lab.rig.seeds import SERVERS
from tests.lab.rig.traffic import Traffic, only_host_path, wait_for_server
from tests.support.run.wait import wait_until

GO = "go"  # image tag
NGINX = ("nginx", "-e", "stderr")
REDIS = ("redis-server", "--protected-mode", "no", "--save", "", "--maxclients", "5000")
CLIENT = "client"  # container
# Where client and server are: across hosts, or on one host.
PLACES = pytest.mark.parametrize("place", ["across", "same-host"])
ACROSS = pytest.mark.parametrize("place", ["across"])


@pytest.fixture
def sides(hosts: list[Host], place: str) -> tuple[Host, Host]:
    """The client's and the server's host, with a network and a sleeping client container."""
    client, server = hosts[0 if place == "across" else 1], hosts[1]
    create_network(list(dict.fromkeys((client, server))))
    start(client, CLIENT, image=SERVERS)
    return client, server


def run_server(host: Host, *command: str, options: Sequence[str] = ()) -> str:
    return start(host, "server", *command, image=SERVERS, options=options)


def client_runs(host: Host, *command: str) -> str:
    """Run a client to its end, and return both its outputs; exit status 0 only."""
    return host.docker("exec", CLIENT, "sh", "-c", 'exec "$@" 2>&1', "client", *command)


def figure(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in:\n{text}"
    return float(found[1])


def established(host: Host) -> int:
    """Count the TCP connections in the client's namespace."""
    return host.docker("exec", CLIENT, "netstat", "-tn").count("ESTABLISHED")


@PLACES
def test_the_check_sees_other_traffic(sides: tuple[Host, Host]) -> None:
    """The other tests rely on only_host_path: it must notice a ping."""
    client, server = sides
    address = run_server(server, "sleep", "infinity")
    with pytest.raises(AssertionError), only_host_path(client, server):
        client_runs(client, "ping", "-c", "1", "-W", "3", address)


@every_docker
@feature("nginx, with keep-alive and without")
@PLACES
def test_nginx_and_wrk(sides: tuple[Host, Host]) -> None:
    """nginx has a dual-stack listener, whose connections are IPv4-mapped sockets."""
    client, server = sides
    address, own = run_server(server, *NGINX), address_of(client, CLIENT)
    seen = wait_for_server(client, CLIENT, "wget", "-qO-", f"http://{address}/who")
    assert seen.split() == [f"::ffff:{own}", f"::ffff:{address}", "80"]

    wrk = ("wrk", "-t", "2", "-c", "20", "-d", "2s", f"http://{address}/")
    with only_host_path(client, server) as kept:
        said = client_runs(client, *wrk)
    assert figure(r"(\d+) requests in", said) > 100, said
    assert not re.search("Socket errors|Non-2xx", said), said
    assert kept.connected(client) >= 20
    assert kept.accepted(server) >= 20

    with only_host_path(client, server) as closed:
        said = client_runs(client, *wrk, "-H", "Connection: close")
    requests = figure(r"(\d+) requests in", said)
    assert requests > 100, said
    assert not re.search("Socket errors|Non-2xx", said), said
    assert closed.connected(client) >= requests
    assert closed.accepted(server) >= requests


@feature("Redis")
@PLACES
def test_redis_and_redis_benchmark(sides: tuple[Host, Host]) -> None:
    client, server = sides
    address = run_server(server, *REDIS)
    assert wait_for_server(client, CLIENT, "redis-cli", "-h", address, "ping") == "PONG"
    own = client_runs(client, "redis-cli", "-h", address, "client", "list")
    assert f" addr={address_of(client, CLIENT)}:" in own
    assert f" laddr={address}:6379 " in own

    benchmark = ("redis-benchmark", "-h", address, "-c", "50", "-q", "-t", "ping_mbulk,set,get")
    with only_host_path(client, server) as traffic:
        plain = client_runs(client, *benchmark, "-n", "10000")
        pipelined = client_runs(client, *benchmark, "-n", "100000", "-P", "16")
    for said in (plain, pipelined):
        assert "rror" not in said, said
        for command in ("PING_MBULK", "SET", "GET"):
            assert figure(rf"{command}: ([\d.]+) requests per second", said) > 100
    assert traffic.connected(client) >= 2 * 3 * 50
    assert traffic.accepted(server) >= 2 * 3 * 50


@feature("a thousand open connections")
@ACROSS
def test_a_thousand_idle_connections(sides: tuple[Host, Host]) -> None:
    client, server = sides
    address = run_server(server, *REDIS)
    ask = ("redis-cli", "-h", address)
    wait_for_server(client, CLIENT, *ask, "ping")

    def clients() -> int:
        return int(figure(r"connected_clients:(\d+)", client_runs(client, *ask, "info", "clients")))

    with only_host_path(client, server) as traffic:
        client.docker("exec", "-d", CLIENT, "redis-benchmark", "-h", address, "-c", "1000", "-I")
        wait_until(lambda: clients() == 1000 + 1, 30, "1000 connections and the one that asks")
        client_runs(client, "redis-benchmark", "-h", address, "-q", "-t", "get", "-n", "1000")
        assert clients() == 1000 + 1
        client.docker("exec", CLIENT, "killall", "redis-benchmark")
        wait_until(lambda: clients() == 1, 10, "the server sees that they are closed")
    assert traffic.connected(client) >= 1000
    assert traffic.accepted(server) >= 1000


@feature("memcached")
@ACROSS
def test_memcached_and_memcaslap(sides: tuple[Host, Host]) -> None:
    client, server = sides
    address = run_server(server, "memcached", "-u", "nobody", "-c", "4096")
    wait_for_server(client, CLIENT, "memcstat", f"--servers={address}")
    with only_host_path(client, server) as traffic:
        said = client_runs(client, "memcaslap", "-s", f"{address}:11211", "-T", "2", "-c", "32",
                           "-x", "5000")
        assert figure(r"TPS: (\d+)", said) > 100, said
        # memcached's conformance tests, a connection each.
        capable = client_runs(client, "memccapable", "-h", address, "-a")
    assert "[FAIL]" not in capable, capable
    passed = capable.count("[pass]")
    assert passed > 20, capable
    assert traffic.connected(client) >= 32
    assert traffic.accepted(server) == traffic.connected(client)


@feature("PostgreSQL")
@ACROSS
def test_postgresql_and_pgbench(sides: tuple[Host, Host]) -> None:
    client, server = sides
    address = run_server(
        server, "sh", "-c", "initdb -D /tmp/data -U postgres -A trust --no-sync --locale=C && "
        "echo host all all 10.32.0.0/16 trust >> /tmp/data/pg_hba.conf && "
        "exec postgres -D /tmp/data -h '*' -k /tmp -c fsync=off", options=("-u", "65534:65534"))
    to = ("-h", address, "-U", "postgres")
    asked = "select host(inet_client_addr()), host(inet_server_addr()), inet_server_port()"
    seen = wait_for_server(client, CLIENT, "psql", *to, "-Atc", asked, "postgres")
    assert seen == f"{address_of(client, CLIENT)}|{address}|5432"

    with only_host_path(client, server) as many:
        client_runs(client, "pgbench", *to, "-q", "-i", "postgres")
        said = client_runs(client, "pgbench", *to, "-c", "20", "-j", "2", "-T", "2", "postgres")
    assert figure(r"actually processed: (\d+)", said) > 20, said
    assert figure(r"failed transactions: (\d+)", said) == 0, said
    assert many.connected(client) >= 20
    assert many.accepted(server) == many.connected(client)

    # -C: a connection for each transaction.
    with only_host_path(client, server) as each:
        said = client_runs(client, "pgbench", *to, "-C", "-S", "-c", "4", "-t", "25", "postgres")
    assert "processed: 100/100" in said, said
    assert each.connected(client) >= 100


@feature("iperf3")
@PLACES
def test_iperf3(sides: tuple[Host, Host]) -> None:
    client, server = sides
    address = run_server(server, "iperf3", "-s")
    wait_for_server(client, CLIENT, "iperf3", "-c", address, "-n", "1K")
    for options in (("-P", "4"), ("-R",), ("--bidir",), ("-l", "64", "-N")):
        with only_host_path(client, server) as traffic:
            said = client_runs(client, "iperf3", "-c", address, "-t", "1", "-J", *options)
        result = json.loads(said)
        assert "error" not in result, said
        sent = result["end"]["sum_sent"]["bytes"]
        assert sent > 100_000
        assert result["end"]["sum_received"]["bytes"] > 0.5 * sent
        assert traffic.connected(client) >= len(result["start"]["connected"]) + 1  # and control


@every_docker
@feature("a static binary")
@ACROSS
def test_a_static_binary(sides: tuple[Host, Host]) -> None:
    """It makes its own system calls: no library could be preloaded to intercept them."""
    client, server = sides
    address = start(server, "server", "sh", "-c", "mkdir /www && dd if=/dev/zero bs=1M count=16 "
                    "of=/www/file && httpd -f -v -p 8000 -h /www", image=BUSYBOX)
    wait_for_server(client, CLIENT, "wget", "-qO-", f"http://{address}:8000/file")
    with only_host_path(client, server) as traffic:
        said = client_runs(client, "sh", "-c", "for i in 1 2 3 4 5; do "
                           f"wget -qO- http://{address}:8000/file | wc -c; done")
    assert said.split() == [str(16 << 20)] * 5
    assert traffic.connected(client) == traffic.accepted(server) == 5
    own = address_of(client, CLIENT)
    wait_until(lambda: own in server.docker("logs", "server") or own in server.exec(
        "sh", "-c", "docker logs server 2>&1"), 5, "the server logs the virtual address")


def bird(own: str, peer: str, *, own_as: int, password: str) -> str:
    """Return the shell command for Debian's BGP daemon with one peer, in the foreground."""
    conf = (f"router id {own}; protocol device {{}} protocol bgp peer {{ local {own} as {own_as}; "
            f"neighbor {peer} as {129025 - own_as}; multihop; ipv4 {{ import all; export none; }}; "
            "connect delay time 1; connect retry time 1; error wait time 1, 1; "
            + (f'password "{password}"; ' if password else "") + "}")
    return f"echo '{conf}' > /tmp/bird.conf && exec bird -f -c /tmp/bird.conf -s /tmp/bird.ctl"


@feature("BGP with a password (BIRD)")
@ACROSS
def test_bgp_with_a_password(sides: tuple[Host, Host]) -> None:
    """TCP-MD5 keys (RFC 2385) are for virtual addresses: such containers take the overlay path."""
    client, server = sides
    address, own = "10.32.99.7", address_of(client, CLIENT)
    run_server(server, "sh", "-c", bird(address, own, own_as=64512, password="secret"),
               options=("--ip", address))
    ask = ("birdc", "-s", "/tmp/bird.ctl")

    def session(host: Host, name: str) -> bool:
        return "Established" in host.docker("exec", name, *ask, "show", "protocols", "peer")

    def refused() -> int:
        lines = server.docker("exec", "server", "grep", "^TcpExt", "/proc/net/netstat").splitlines()
        counts = dict(zip(*(line.split()[1:] for line in lines), strict=True))
        return int(counts["TCPMD5Failure"]) + int(counts["TCPMD5NotFound"])

    traffic = Traffic([client, server])
    for password in ("wrong", "", "secret"):
        before = refused()
        client.docker("exec", "-d", CLIENT, "sh", "-c",
                      bird(own, address, own_as=64513, password=password))
        wait_until(lambda: "Daemon is up" in client.docker(
            "exec", CLIENT, "sh", "-c", f"{' '.join(ask)} show status; true"), 10, "BIRD to be up")
        if password == "secret":
            wait_until(lambda: session(client, CLIENT) and session(server, "server"), 30,
                       "the session")
            break
        wait_until(lambda before=before: refused() >= before + 3, 30, "attempts to be refused")
        assert not session(client, CLIENT)
        assert not session(server, "server")
        client.docker("exec", CLIENT, *ask, "down")
        wait_until(lambda: "bird" not in client.docker("exec", CLIENT, "ps"), 10, "BIRD to end")
    traffic.end()
    assert traffic.connected(client) == traffic.accepted(server) == 0
    assert traffic.grown[client]["keys"] >= 1


@feature("programs in Go (etcd)")
@ACROSS
def test_etcd_and_etcdctl(sides: tuple[Host, Host]) -> None:
    """Go programs use no C library, and have dual-stack listeners."""
    client, server = sides
    address = run_server(server, "etcd", "--data-dir", "/tmp/etcd", "--listen-client-urls",
                         "http://0.0.0.0:2379,http://[::]:2389", "--advertise-client-urls",
                         "http://localhost:2379")
    ctl = ("env", "ETCDCTL_API=3", "etcdctl", "--dial-timeout=3s")
    for port in (2379, 2389):
        to = (*ctl, "--endpoints", f"http://{address}:{port}")
        wait_for_server(client, CLIENT, *to, "endpoint", "health")
        with only_host_path(client, server) as traffic:
            assert client_runs(client, *to, "put", "key", "value") == "OK"
            assert client_runs(client, *to, "get", "key").split() == ["key", "value"]
            # 50 clients for a minute; we end it as soon as all are connected.
            client.docker("exec", "-d", CLIENT, *to, "check", "perf", "--load", "s",
                          "--prefix", f"/of-{port}/")
            wait_until(lambda: established(client) >= 50, 20, "50 clients")
            client.docker("exec", CLIENT, "killall", "etcdctl")
        assert traffic.connected(client) >= 52


@feature("programs in Go since 1.24, whose listeners speak MPTCP")
@PLACES
def test_go_and_its_mptcp_listeners(lab: Lab, sides: tuple[Host, Host]) -> None:
    """Clients speak plain TCP: one in Go, one in C."""
    client, server = sides
    lab.load_image(GO, images.go_names())
    address = start(server, "server", "names", "serve", ":80", image=GO)
    own = start(client, "caller", image=GO)
    to = ("names", "call", f"{address}:80")
    wait_for_server(client, "caller", *to, "1")
    with only_host_path(client, server) as traffic:
        said = client.docker("exec", "caller", *to, "20")
        assert client_runs(client, "sh", "-c", f"echo hello | nc {address} 80") == "hello"
    assert re.fullmatch(rf"{re.escape(own)}:\d+ {re.escape(address)}:80", said)
    assert traffic.connected(client) == traffic.accepted(server) == 21
    protocol, *seen = server.docker("logs", "server").splitlines()
    assert protocol == "262"  # IPPROTO_MPTCP: with TCP this test would show nothing
    assert f"{address}:80 {said.split()[0]}" in seen


@every_docker
@feature("`--network container:X`")
def test_a_container_in_the_network_of_another(h1: Host, h2: Host) -> None:
    """--network container:X shares the namespace, so its clients are the sandbox's."""
    create_network([h1, h2])
    address = run_server(h2, *NGINX)
    owner = start(h1, "owner", image=BUSYBOX)
    h1.docker("run", "-d", "--init", "--name", CLIENT, "--network", "container:owner", SERVERS,
              "sleep", "infinity")
    seen = wait_for_server(h1, CLIENT, "wget", "-qO-", f"http://{address}/who")
    assert seen.split()[0] == f"::ffff:{owner}"
    # Now the server is there: called from the other host, and over loopback from its own namespace.
    h1.docker("exec", "-d", CLIENT, *NGINX)
    start(h2, "caller", image=SERVERS)
    seen = wait_for_server(h2, "caller", "wget", "-qO-", f"http://{owner}/who")
    assert seen.split()[:2] == [f"::ffff:{address_of(h2, 'caller')}", f"::ffff:{owner}"]
    with only_host_path(h2, h1) as traffic:
        h2.docker("exec", "caller", "wrk", "-t", "1", "-c", "10", "-d", "1s", f"http://{owner}/")
        assert h1.docker("exec", "owner", "wget", "-qO-", "http://127.0.0.1/") == "hello"
        assert h1.docker("exec", "owner", "wget", "-qO-", f"http://{owner}/") == "hello"
    assert traffic.connected(h2) >= 10
    assert traffic.connected(h1) == 0


@every_docker
@feature("a container on several slim networks")
def test_a_server_on_two_networks(h1: Host, h2: Host) -> None:
    for name, subnet in (("app", "10.32.0.0/16"), ("other", "10.33.0.0/16")):
        create_network([h1, h2], name, subnet)
    run_server(h2, *NGINX)
    h2.docker("network", "connect", "other", "server")
    for name in ("app", "other"):
        client = f"{CLIENT}-{name}"
        own = start(h1, client, image=SERVERS, network=name)
        address = address_of(h2, "server", name)
        seen = wait_for_server(h1, client, "wget", "-qO-", f"http://{address}/who")
        assert seen.split() == [f"::ffff:{own}", f"::ffff:{address}", "80"]
        with only_host_path(h1, h2) as traffic:
            said = h1.docker("exec", client, "wrk", "-t", "1", "-c", "10", "-d", "1s",
                             f"http://{address}/")
        assert "Socket errors" not in said, said
        assert traffic.connected(h1) >= 10
        assert traffic.accepted(h2) >= 10
    # One network's interface goes away; the other network works on.
    h2.docker("network", "disconnect", "app", "server")
    with only_host_path(h1, h2) as traffic:
        assert h1.docker("exec", f"{CLIENT}-other", "wget", "-qO-", f"http://{address}/") == "hello"
    assert traffic.connected(h1) == 1
