"""Runs commands, programs and captures on the lab's hosts, for pytest, the demo and the benchmark.

It reaches a host through lab.sh, or the `enter` program that lab.sh made for the host.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any

from driver.process.unix_http import UnixConnection
from driver.store.kv.protocol import Entry
from tests.support.run.wait import wait_until
from tests.support.world.etcd_gateway import EtcdGateway

LAB_SH = Path(__file__).with_name("lab.sh")
PROJECT = LAB_SH.parents[3]
SOCKET = "/run/docker/plugins/slim.sock"
START_S = 150  # the driver compiles its programs first, which takes long on a busy machine


class CommandFailed(AssertionError):
    """A command on a host failed; the text has its output."""


def run(argv: Sequence[str], *, data: bytes | None = None, timeout_s: float = 120,
        env: dict[str, str] | None = None) -> str:
    """Return the command's standard output.  Error: CommandFailed."""
    done = subprocess.run(argv, input=data, capture_output=True, timeout=timeout_s, env=env,
                          stdin=None if data is not None else subprocess.DEVNULL, check=False)
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(argv)}\nended with {done.returncode}\n{out}{err}")
    return out


class Program:
    """A program that runs on a host until we stop it; its output goes to a file."""

    _numbers = itertools.count(1)

    def __init__(self, host: Host, argv: Sequence[str], log: Path,
                 env: dict[str, str] | None = None) -> None:
        self.host, self.argv, self.log = host, list(argv), log
        # The pid in the host's own PID namespace: signals from outside reach only nsenter.
        self._pid_file = f"/run/lab-{next(self._numbers)}.pid"
        with log.open("ab") as out:
            self._outer = subprocess.Popen(
                host.command("env", *(f"{k}={v}" for k, v in (env or {}).items()),
                             "sh", "-c", 'echo $$ > "$0"; exec "$@"', self._pid_file, *argv),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=host.lab.env, cwd=PROJECT, start_new_session=True)

    @property
    def running(self) -> bool:
        return self._outer.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        if self.running:
            self.host.exec("sh", "-c", f'kill -{int(number)} "$(cat {self._pid_file})"')

    def join(self, timeout_s: float = 20) -> int:
        """Wait until it ends; return the exit status."""
        return self._outer.wait(timeout_s)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 20) -> int:
        """Send the signal; return the exit status.  A program that ignores it fails the test."""
        with contextlib.suppress(CommandFailed):  # it may have ended meanwhile
            self.send(number)
        try:
            return self.join(timeout_s)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.join(timeout_s)
            raise AssertionError(f"{self.argv} did not end in {timeout_s} s") from None


class Capture:
    """Captures what passes a host's interface during the block; count the packets after it.

    `only`: a tcpdump filter, for when all packets would be too many to keep.
    """

    _numbers = itertools.count(20000)

    def __init__(self, host: Host, interface: str = "eth0", snap_bytes: int = 128,
                 only: str = "") -> None:
        number = next(self._numbers)
        self._host, self._interface, self._mark_port = host, interface, number
        self._file = host.folder / f"capture-{number}.pcap"
        self._argv = ["tcpdump", "-i", interface, "-Z", "root", "-U", "-n", "--immediate-mode",
                      "-s", str(snap_bytes), "-B", "16384", "-w", str(self._file)]
        if only:
            self._argv.append(f"({only}) or udp dst port {number}")
        self._log = host.folder / f"capture-{number}.log"

    def __enter__(self) -> Capture:
        self._program = Program(self._host, self._argv, self._log)
        wait_until(lambda: "listening on" in self._program.output(), 10, "tcpdump listens")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            # A packet of our own: once it is in the file, all earlier packets are, too.
            mark = f"/dev/udp/{self._host.lab.gateway}/{self._mark_port}"
            self._host.exec("bash", "-c", f"echo > {mark}")
            wait_until(lambda: self._read(f"udp dst port {self._mark_port}"), 10, "all captured")
        self._program.end(signal.SIGINT)

    def _read(self, expression: str) -> list[str]:
        done = subprocess.run(["tcpdump", "-nn", "-r", str(self._file), expression],
                              capture_output=True, text=True, check=False)
        return done.stdout.splitlines()

    def packets(self, expression: str = "") -> list[str]:
        """Return tcpdump's line for each packet that matches."""
        own = (f".{self._mark_port}:", f" port {self._mark_port} unreachable")
        return [line for line in self._read(expression) if not any(text in line for text in own)]


class Host:
    """One Docker host of the lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.folder = lab.state / name
        self.address = IPv4Address(run([str(LAB_SH), "ip", name], env=lab.env).strip())
        self.driver: Program | None = None
        self.driver_log = self.folder / "driver.log"
        self.socket = SOCKET  # the driver's, on the host

    def __repr__(self) -> str:
        return f"Host({self.name})"

    def command(self, *argv: str) -> list[str]:
        return [str(self.folder / "enter"), *argv]

    def exec(self, *argv: str, data: bytes | None = None, timeout_s: float = 120) -> str:
        """Run a command on the host and return its standard output.  Error: CommandFailed."""
        return run(self.command(*argv), data=data, timeout_s=timeout_s, env=self.lab.env)

    def docker(self, *argv: str, data: bytes | None = None, timeout_s: float = 120) -> str:
        """Run the docker client on the host; return its output without the last newline."""
        return self.exec("docker", *argv, data=data, timeout_s=timeout_s).rstrip("\n")

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what `docker inspect` shows, from the API: tests ask often, and a client is slow.

        Error: CommandFailed.
        """
        try:
            with contextlib.closing(UnixConnection(f"{self.folder}/docker.sock")) as connection:
                connection.request("GET", f"/containers/{container}/json")
                answer = connection.getresponse()
                body = answer.read()
        except OSError as error:
            raise CommandFailed(f"inspect {container} on {self.name}: {error}") from error
        if answer.status != 200:
            raise CommandFailed(f"inspect {container} on {self.name}: {body.decode()}")
        found = json.loads(body)
        assert isinstance(found, dict)
        return found

    @property
    def root(self) -> Path:
        """The path here of the host's file system."""
        pid = (self.folder / "init.pid").read_text().split()[0]
        return Path(f"/proc/{pid}/root")

    @property
    def netns(self) -> str:
        """The name of its network namespace, for `ip -n`."""
        return f"{self.lab.name}-{self.name}"

    @property
    def docker_socket(self) -> str:
        """The URL here of its dockerd."""
        return f"unix://{self.folder}/docker.sock"

    def call(self, method: str, body: bytes = b"") -> tuple[int, bytes]:
        """POST to the driver's socket as dockerd does: `call("/Plugin.Activate")`."""
        with contextlib.closing(UnixConnection(f"{self.root}{self.socket}")) as connection:
            connection.request("POST", method, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    # ---- the driver
    def start_driver(self, *args: str, env: dict[str, str] | None = None) -> Program:
        """Start `slim serve` with the lab's etcd (or `args`' own) and wait until it answers."""
        if self.driver is None or not self.driver.running:
            self.driver = self.launch_driver(*args, env=env)
        wait_until(self._driver_answers, START_S, f"driver of {self.name} answers")
        return self.driver

    def launch_driver(self, *args: str, env: dict[str, str] | None = None) -> Program:
        """Start `slim serve`; arguments as start_driver's."""
        if "--etcd" not in args and self.lab.etcd_url:
            args = ("--etcd", self.lab.etcd_url, *args)
        python = str(PROJECT / ".venv/bin/python")
        return Program(self, [python, "-m", "driver", "serve", *args], self.driver_log, env)

    def _driver_answers(self) -> bool:
        assert self.driver is not None
        assert self.driver.running, f"driver of {self.name} ended:\n{self.driver.output()[-4000:]}"
        try:
            return self.call("/NetworkDriver.GetCapabilities")[0] == 200
        except OSError:
            return False

    def reboot(self, *args: str) -> None:
        """Boot after lab.sh's `crash`.

        As under systemd, the driver answers before dockerd starts.  `args`: as start_driver's.
        """
        run([str(LAB_SH), "boot", self.name], env=self.lab.env)
        self.start_driver(*args)
        run([str(LAB_SH), "start", self.name], env=self.lab.env)

    def stop_driver(self) -> None:
        """Send SIGTERM; the driver must end by itself, with status 0."""
        if self.driver is not None and self.driver.running:
            status = self.driver.end(signal.SIGTERM)
            assert status == 0, f"driver of {self.name} ended with {status}"
        self.driver = None

    def kill_driver(self) -> None:
        """Send SIGKILL, as if it crashed."""
        if self.driver is not None:
            self.driver.end(signal.SIGKILL)
        self.driver = None

    def capture(self, interface: str = "eth0", only: str = "") -> Capture:
        return Capture(self, interface, only=only)

    def counters(self) -> dict[str, int]:
        """Return the driver's counters: packets or connections by reason."""
        status, answer = self.call("/Slim.Counters")
        assert status == 200, answer
        return {str(name): int(count) for name, count in json.loads(answer)["Counters"].items()}


# For a Docker tree: the folders with which its hosts' /var/lib/docker begins.
Seeds = Callable[[str], Sequence[Path]]


class Lab:
    """Hosts h1..hN and one etcd in the fabric between them."""

    def __init__(self, name: str, *docker_trees: str, seeds: Seeds | None = None) -> None:
        """docker_trees: folders with usr/sbin/dockerd, for hosts in turn; none: LAB_DOCKER's.

        seeds: returns, for such a folder, what its hosts' /var/lib/docker begins with (seeds.py).
        """
        self.name = name
        self.state = Path("/var/lib") / name
        self.env = {**os.environ, "LAB_NAME": name, "LAB_STATE": str(self.state)}
        self.env.pop("DOCKER_HOST", None)
        if docker_trees:
            self.env.pop("LAB_DOCKER", None)
        self._docker_trees, self._seeds = docker_trees, seeds
        self.hosts: list[Host] = []
        self.gateway = IPv4Address("198.18.0.254")
        self.etcd_url = ""
        self._etcd: subprocess.Popen[bytes] | None = None

    def up(self, count: int) -> list[Host]:
        """Bring up h1..h`count`; those that are up stay as they are."""
        trees = self._docker_trees
        # Hosts of different releases come up one by one: `up` leaves earlier hosts as they are.
        for number in range(1, count + 1) if len(trees) > 1 else [count]:
            chosen = {}
            if trees:
                tree = trees[(number - 1) % len(trees)]
                found = self._seeds(tree) if self._seeds and number > len(self.hosts) else ()
                chosen = {"LAB_DOCKER": tree, "LAB_SEEDS": " ".join(map(str, found))}
            run([str(LAB_SH), "up", str(number)], env={**self.env, **chosen})
        for number in range(len(self.hosts) + 1, count + 1):
            self.hosts.append(Host(self, f"h{number}"))
        return self.hosts[:count]

    def down(self) -> None:
        """Remove everything, whatever state it is in."""
        run([str(LAB_SH), "down"], env=self.env)
        if self._etcd is not None:
            self._etcd.wait(10)
        for host in self.hosts:
            if host.driver is not None:
                host.driver.join()
        self.hosts, self._etcd, self.etcd_url = [], None, ""

    def fabric(self, *argv: str) -> list[str]:
        """Return the command line that runs `argv` in the fabric's network namespace."""
        return [str(LAB_SH), "fabric", "--", *argv]

    def load_image(self, tag: str, tar: bytes) -> None:
        names = [host.name for host in self.hosts]
        run([str(LAB_SH), "image", tag, *names], data=tar, env=self.env)

    # ---- etcd
    def start_etcd(self) -> str:
        """Start etcd on the fabric (its data survives stop_etcd) and return its URL."""
        url, peer = f"http://{self.gateway}:2379", f"http://{self.gateway}:2380"
        folder = self.state / "etcd"
        folder.mkdir(mode=0o700, exist_ok=True)
        with (self.state / "etcd.log").open("ab") as log:
            self._etcd = subprocess.Popen(
                # It stands for a remote etcd, so the hosts' work must not delay its answers.
                self.fabric("nice", "-n", "-10", "etcd", "--data-dir", str(folder),
                            "--listen-client-urls", url, "--advertise-client-urls", url,
                            "--listen-peer-urls", peer,
                            "--initial-advertise-peer-urls", peer,
                            "--initial-cluster", f"default={peer}"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self.env,
                start_new_session=True)
        self.etcd_url = url
        wait_until(self._etcd_healthy, 20, "etcd answers")
        return url

    def stop_etcd(self, number: int = signal.SIGTERM) -> None:
        if self._etcd is not None:
            self._etcd.send_signal(number)
            self._etcd.wait(20)
            self._etcd = None

    def etcdctl(self, *argv: str) -> str:
        # Not through `fabric`: it ends before the next line, so `down` need not end it.
        return run(["ip", "netns", "exec", f"{self.name}-fab",
                    "etcdctl", "--endpoints", self.etcd_url, *argv],
                   env={**self.env, "ETCDCTL_API": "3"})

    def stored(self, prefix: str) -> list[Entry]:
        """Return what etcd has under a prefix."""
        return [read.entry for read in self._gateway().range(prefix)]

    def _gateway(self) -> EtcdGateway:
        return EtcdGateway((self.etcd_url,), f"/run/netns/{self.name}-fab")

    def _etcd_healthy(self) -> bool:
        assert self._etcd is not None
        assert self._etcd.poll() is None, (self.state / "etcd.log").read_text()[-2000:]
        return self._gateway().serves(self.etcd_url)


def remove_abandoned_labs(prefix: str) -> None:
    """Take down labs named `prefix`PID whose process is gone: their runs were killed."""
    names = {p.name for p in Path("/var/lib").glob(f"{prefix}[0-9]*")}
    names |= {p.name.removesuffix("-fab") for p in Path("/run/netns").glob(f"{prefix}[0-9]*-fab")}
    for name in names:
        if re.fullmatch(rf"{re.escape(prefix)}\d+", name) and not Path(
                f"/proc/{name.removeprefix(prefix)}").exists():
            Lab(name).down()


@contextlib.contextmanager
def lab_of_this_process(prefix: str, *docker_trees: str,
                        seeds: Seeds | None = None) -> Iterator[Lab]:
    """A lab that is taken down after the block, however that ends; arguments as Lab's."""
    missing = [p for p in ("dockerd", "docker", "etcd", "etcdctl", "tcpdump", "ip", "unshare")
               if shutil.which(p) is None]
    if missing or os.geteuid() != 0:
        raise RuntimeError(f"the lab needs root and {', '.join(missing) or 'nothing else'}")
    remove_abandoned_labs(prefix)
    lab = Lab(f"{prefix}{os.getpid()}", *docker_trees, seeds=seeds)
    try:
        yield lab
    finally:
        lab.down()
