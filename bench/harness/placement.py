"""Sets up a benchmark's networks and containers on one or two engines, and removes them again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bench.harness.engine import Agent, Engine
from bench.harness.errors import BenchError
from bench.harness.image import BIND_FIRST, TAG
from bench.harness.networks import CLIENT, CROSS, HOST, LOCAL, PREFIX, SERVER, SLIM, TITLES, Plan

FILES = 16384  # descriptors that a process in a container may have
REMOVE_S = 15.0
IDLE_S = 1.0  # how long to watch what other programs use


@dataclass(frozen=True)
class Path:
    """A client and a server on one network; `env` is what the client's programs get."""

    network: str
    scope: str
    client: Agent
    server: Agent
    address: str  # at which the client calls the server
    env: dict[str, str]
    driver: Agent | None  # reads slim's counters on the client's host

    def __str__(self) -> str:
        return f"{self.network}, {self.scope}"

    @property
    def shared(self) -> bool:
        """Whether client and server are in one network namespace."""
        return self.network == HOST and self.scope == LOCAL


@dataclass(frozen=True)
class Wanted:
    """What to set up."""

    plans: Sequence[Plan]
    scopes: Sequence[str]
    congestion: str
    addresses: Sequence[str]  # of the hosts; if empty, the hosts are asked
    strict: bool  # a network that cannot be set up is an error


class Placement:
    """`engines` are the client's host and the server's; a single one is both.

    `image` is a tar for `docker import`; `say` shows a line to the user.
    """

    def __init__(self, engines: Sequence[Engine], wanted: Wanted, image: bytes,
                 say: Callable[[str], None]) -> None:
        self._engines = (engines[0], engines[-1])
        self._wanted, self._image, self._say, self._stack = wanted, image, say, ExitStack()
        self._made: set[tuple[str, str]] = set()  # engine and network
        self._agents: dict[tuple[str, str], Agent] = {}
        self.paths: list[Path] = []
        self.machines: list[dict[str, Any]] = []
        self.busy_cpus = 0.0  # kept busy by others, while nothing of ours runs

    def __enter__(self) -> Placement:
        try:
            self._refuse_leftovers()
            self._load_image()
            self._examine()
            for plan in self._wanted.plans:
                self._set_up(plan)
            self.busy_cpus = self._busy_cpus()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _load_image(self) -> None:
        def load(engine: Engine) -> None:
            engine.docker("import", "-", TAG, data=self._image, timeout_s=600)

        distinct = self._distinct()
        for engine in distinct:
            self._stack.callback(self._remove, engine, "rmi", "-f", TAG)
        with ThreadPoolExecutor() as pool:
            list(pool.map(load, distinct))

    def _distinct(self) -> list[Engine]:
        return list(dict.fromkeys(self._engines))

    def _refuse_leftovers(self) -> None:
        for engine in self._distinct():
            label = ("--filter", f"label={PREFIX}")
            containers = engine.docker("ps", "-aq", *label).split()
            networks = engine.docker("network", "ls", "-q", *label).split()
            if containers or networks:
                remove = [f"docker rm -f {' '.join(containers)}"] if containers else []
                remove += [f"docker network rm {' '.join(networks)}"] if networks else []
                raise BenchError(
                    f"{engine.name} has containers or networks of another benchmark, or of one "
                    f"that was killed. If none runs: {'; '.join(remove)}")

    def _examine(self) -> None:
        """Read each machine's properties, through a container in its host's network."""
        for engine in self._distinct():
            agent = self._agent(engine, "meter", "--network", "host", "-v",
                                "/run/docker/plugins:/plugins:ro")
            found = agent.ask("machine")
            if found["congestion"] != self._wanted.congestion:
                raise BenchError(
                    f"{engine.name} uses TCP congestion control {found['congestion']!r}, and only "
                    f"you can change that: `sysctl -w net.ipv4.tcp_congestion_control="
                    f"{self._wanted.congestion}` there, or --congestion {found['congestion']} here")
            if found["boot_id"] not in [machine["boot_id"] for machine in self.machines]:
                self.machines.append(found)
            self._agents[engine.name, "meter"] = agent
        self._addresses = list(self._wanted.addresses) or [
            self._agents[engine.name, "meter"].ask("machine")["address"]
            for engine in self._engines]

    def _busy_cpus(self) -> float:
        """Return how many CPUs others keep busy, on the busiest machine."""
        meters = [self._agents[engine.name, "meter"] for engine in self._distinct()]
        before = [meter.ask("read") for meter in meters]
        time.sleep(IDLE_S)
        after = [meter.ask("read") for meter in meters]
        return max(sum(float(late["cpu"][kind] - early["cpu"][kind]) for kind in early["cpu"])
                   / (IDLE_S * 1e6) for early, late in zip(before, after, strict=True))

    def _set_up(self, plan: Plan) -> None:
        scopes = [scope for scope in self._wanted.scopes if scope in plan.scopes]
        if not scopes:
            where = "within one host" if plan.scopes == (LOCAL,) else "between hosts"
            self._say(f"left out: {TITLES.get(plan.name, plan.name)}: it is {where} only")
            return
        try:
            self._create(plan)
            self.paths += [self._path(plan, scope) for scope in scopes]
        except BenchError as error:
            if self._wanted.strict or plan.name in (HOST, SLIM):
                raise  # without these two there is nothing to compare
            self._say(f"left out: {TITLES.get(plan.name, plan.name)}: {error}")

    def _create(self, plan: Plan) -> None:
        for side, options in plan.create.items():
            engine = self._engines[side]
            if (engine.name, plan.docker_name) in self._made:
                continue
            engine.docker("network", "create", "--label", PREFIX, *options, plan.docker_name)
            self._made.add((engine.name, plan.docker_name))
            self._stack.callback(self._remove, engine, "network", "rm", plan.docker_name)

    def _path(self, plan: Plan, scope: str) -> Path:
        client_engine = self._engines[SERVER if scope == LOCAL else CLIENT]
        server, address = self._place(plan, self._engines[SERVER], "server")
        role = "client" if scope == CROSS else "client-local"
        client, own = self._place(plan, client_engine, role)
        env = {"LD_PRELOAD": BIND_FIRST, "BIND_ADDRESS": own} if plan.bound else {}
        driver = self._agents[client_engine.name, "meter"] if plan.on_slim else None
        return Path(plan.name, scope, client, server, address, env, driver)

    def _place(self, plan: Plan, engine: Engine, role: str) -> tuple[Agent, str]:
        """Return a container's agent and address; make the container if it does not exist."""
        name = f"{plan.docker_name}-{role}" if plan.docker_name.startswith(PREFIX) else (
            f"{PREFIX}-{plan.docker_name}-{role}")
        own_stack = plan.docker_name != "host"
        sysctl = ("--sysctl", f"net.ipv4.tcp_congestion_control={self._wanted.congestion}")
        agent = self._agents.get((engine.name, name)) or self._agent(
            engine, name, "--network", plan.docker_name, *(sysctl if own_stack else ()))
        self._agents[engine.name, name] = agent
        if not own_stack:
            return agent, self._addresses[self._engines.index(engine)]
        shown = engine.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} "
                              "{{end}}", name)
        if not shown:
            raise BenchError(f"{engine.name}: {name} has no IPv4 address on {plan.docker_name}")
        return agent, shown.split()[0]

    def _agent(self, engine: Engine, name: str, *options: str) -> Agent:
        name = name if name.startswith(PREFIX) else f"{PREFIX}-{name}"
        self._stack.callback(self._remove, engine, "rm", "-f", "-v", name)
        engine.docker("run", "-d", "--init", "--name", name, "--label", PREFIX,
                      "--ulimit", f"nofile={FILES}:{FILES}", *options, TAG, "sleep", "infinity")
        return self._stack.enter_context(Agent(engine, name))

    def _remove(self, engine: Engine, *argv: str) -> None:
        """Retry until it is gone: a swarm learns late that other nodes no longer use a network."""
        deadline = time.monotonic() + REMOVE_S
        while True:
            try:
                engine.docker(*argv)
                return
            except BenchError as error:
                if re.search("no such|not found", str(error), re.IGNORECASE):
                    return
                if time.monotonic() > deadline:
                    self._say(f"not removed: {error}")
                    return
            time.sleep(0.5)
