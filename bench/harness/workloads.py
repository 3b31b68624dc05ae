"""Lists the workloads: which program runs where, and how its output becomes figures.

Pure: it starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.harness import outputs
from bench.harness.outputs import Outcome

HIGHER, LOWER = "higher", "lower"
CONNECTIONS = 32  # how many a client opens if it opens several


@dataclass(frozen=True)
class Server:
    """A server program; `argv` takes a port, and the client runs `prepare` once."""

    argv: Callable[[int], Sequence[str]]
    offset: int  # of its port, from the first port
    user: int | None = None
    prepare: Callable[[str, int], Sequence[str]] | None = None


@dataclass(frozen=True)
class Figure:
    """One number of a run: its key in the results, its title, which direction is better."""

    key: str
    title: str
    unit: str
    better: str = HIGHER


@dataclass(frozen=True)
class Workload:
    """What a client does to a server for so many seconds."""

    name: str
    group: str
    servers: tuple[str, ...]
    argv: Callable[[str, int, float], Sequence[str]]  # server's address, its first port, seconds
    parse: Callable[[str], Outcome]
    work: str  # one unit of work: CPU time is given for each
    figures: tuple[Figure, ...]
    tcp: bool = True
    rounds: int | None = None  # at most
    extra_s: float = 0.3  # beyond the run itself, for estimates
    idle: int = 0  # connections that are opened and left alone, instead of a client program


def _initdb(port: int) -> Sequence[str]:
    return ("sh", "-c", "initdb -D /tmp/data -U postgres -A trust --no-sync --locale=C && "
            "echo host all all all trust >> /tmp/data/pg_hba.conf && "
            f"exec postgres -D /tmp/data -h 0.0.0.0 -p {port} -k /tmp -c fsync=off")


def _nginx(port: int) -> Sequence[str]:
    settings = (f"listen {port}; default_type text/plain; "
                "location / { return 200 \"hello\\n\"; }")
    text = ("worker_processes 2; daemon off; user nobody nogroup; pid /tmp/nginx.pid; "
            "error_log stderr; events { worker_connections 4096; } http { access_log off; "
            f"keepalive_requests 1000000; server {{ {settings} }} }}")
    return ("sh", "-c", "printf '%s' \"$0\" > /tmp/nginx.conf; "
            "exec nginx -e stderr -c /tmp/nginx.conf", text)


IDLE_PROCESSES = 10  # a process may have 20,000 descriptors on some machines
SERVERS: dict[str, Server] = {
    "netbench": Server(lambda port: ("netbench", "serve", str(port)), 0),
    "netstream": Server(lambda port: ("netstream", "serve", str(port)), 8),
    "memcached": Server(lambda port: ("memcached", "-u", "nobody", "-c", "4096", "-p", str(port),
                                      "-U", "0"), 10),
    "nginx": Server(_nginx, 11),
    "postgresql": Server(_initdb, 12, 65534, lambda address, port: (
        "pgbench", "-h", address, "-p", str(port), "-U", "postgres", "-q", "-i", "-s", "4",
        "postgres")),
    "redis": Server(lambda port: ("redis-server", "--port", str(port), "--protected-mode", "no",
                                  "--save", "", "--maxclients", "4096"), 13),
    "nats": Server(lambda port: ("nats-server", "-p", str(port)), 14),
    **{f"manyconns-{number}": Server(
        lambda port: ("manyconns", "serve", str(port)), 20 + number)
        for number in range(IDLE_PROCESSES)},
}


def _port(server: str, first: int) -> str:
    return str(first + SERVERS[server].offset)


def _stream(name: str, title: str, size: int, streams: int) -> Workload:
    messages = name.startswith("messages")
    figures = (Figure("", title, "1/s" if messages else "Gbit/s"),)
    return Workload(
        name, "streams", ("netstream",), lambda address, port, seconds: (
            "netstream", "send", address, _port("netstream", port), str(seconds), str(size),
            str(streams)),
        outputs.messages if messages else outputs.gigabits, "message" if messages else "MB",
        figures)


def _transactions(name: str, kind: str, title: str, group: str) -> Workload:
    work = "round trip" if group == "latency" else "connection"
    offset = 2 if kind == "crr+" else 0  # netbench says what it does on which port
    figures = [Figure("", title, "1/s")]
    if work == "round trip":
        figures += [Figure(f"p{share}", f"{title}: p{share}", "µs", LOWER)
                    for share in ("50", "99", "99.9")]
    else:
        figures += [Figure(f"connect p{share}", f"Time to connect ({title}): p{share}", "µs", LOWER)
                    for share in ("50", "99")]
    return Workload(
        name, group, ("netbench",), lambda address, port, seconds: (
            "netbench", kind, address, str(port + offset), str(seconds)),
        outputs.netbench, work, tuple(figures), tcp=kind != "urr")


def _requests(count_per_s: int, seconds: float) -> str:
    return str(max(1000, int(count_per_s * seconds)))


def _whole(seconds: float) -> str:
    return str(max(1, round(seconds)))


def _latency(title: str, *shares: str) -> tuple[Figure, ...]:
    return tuple(Figure(share, f"{title}: {share}", "µs", LOWER) for share in shares)


def _redis(name: str, title: str, *command: str) -> Workload:
    return Workload(
        name, "redis", ("redis",), lambda address, port, seconds: (
            "redis-benchmark", "-h", address, "-p", _port("redis", port), "-c", str(CONNECTIONS),
            "-n", _requests(40000, seconds), *command),
        outputs.redis_benchmark, "request",
        (Figure("", title, "1/s"), *_latency(title, "p50", "p99")))


def _wrk(name: str, title: str, *options: str) -> Workload:
    return Workload(
        name, "nginx", ("nginx",), lambda address, port, seconds: (
            "wrk", "-t", "2", "-c", str(CONNECTIONS), "-d", f"{_whole(seconds)}s", "--latency",
            *options, f"http://{address}:{_port('nginx', port)}/"),
        outputs.wrk, "request", (Figure("", title, "1/s"), *_latency(title, "p50", "p99")))


WORKLOADS: tuple[Workload, ...] = (
    _stream("stream", "One stream, messages of 64 kB", 65536, 1),
    _stream("16 streams", "16 streams, messages of 64 kB", 65536, 16),
    *(_stream(f"messages {size}", f"Messages of {size:,} bytes", size, 1)
      for size in (64, 1024, 8192)),
    _transactions("tcp round trips", "rr", "Round trips, TCP", "latency"),
    _transactions("udp round trips", "urr", "Round trips, UDP", "latency"),
    _transactions("connections, client closes", "crr4", "Connections, client closes first",
                  "connections"),
    _transactions("connections, server closes", "crr+", "Connections, server closes first",
                  "connections"),
    Workload("idle connections", "idle", tuple(f"manyconns-{n}" for n in range(IDLE_PROCESSES)),
             lambda *_: (), outputs.nothing, "connection",
             (Figure("", "20,000 idle connections, both ends", "kB each", LOWER),
              Figure("opened/s", "20,000 connections opened", "1/s")),
             rounds=3, extra_s=6.0, idle=20_000),
    Workload("memcached", "memcached", ("memcached",), lambda address, port, seconds: (
                 "memcaslap", "-s", f"{address}:{_port('memcached', port)}", "-T", "2", "-c",
                 str(CONNECTIONS), "-w", "1k", "-X", "1024", "-S", "1000s", "-x",
                 _requests(50000, seconds)),
             outputs.memcaslap, "request",
             (Figure("", "memcached (memcaslap)", "1/s"), *_latency("memcached", "mean"))),
    _wrk("nginx, keep-alive", "nginx (wrk), keep-alive"),
    _wrk("nginx, a connection each", "nginx (wrk), a connection each", "-H", "Connection: close"),
    Workload("postgresql", "postgresql", ("postgresql",), lambda address, port, seconds: (
                 "pgbench", "-h", address, "-p", _port("postgresql", port), "-U", "postgres", "-S",
                 "-n", "-c", "16", "-j", "2", "-T", _whole(seconds), "postgres"),
             outputs.pgbench, "transaction",
             (Figure("", "PostgreSQL (pgbench -S)", "1/s"), *_latency("PostgreSQL", "mean"))),
    _redis("redis", "Redis, GET", "-t", "get"),
    Workload("nats", "nats", ("nats",), lambda address, port, seconds: (
                 "python3", "/programs/nats_bench.py", address, _port("nats", port), str(seconds),
                 "1024"),
             outputs.messages, "message",
             (Figure("", "NATS, 1 kB messages to a subscriber", "1/s"),)),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
GROUPS = tuple(dict.fromkeys(workload.group for workload in WORKLOADS))
