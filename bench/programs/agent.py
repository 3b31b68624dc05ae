"""Runs in a container and does what the harness asks: a line of JSON in, a line of JSON out.

It reads the machine's clocks right before and after a command, so that the CPU time Docker takes
to deliver the request is not counted.  It imports only the standard library.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
STARTED: list[tuple[subprocess.Popen[bytes], str]] = []  # servers and their logs
HELD: list[subprocess.Popen[bytes]] = []  # programs that wait for the end of their standard input


def read() -> dict[str, Any]:
    """Read CPU microseconds since boot, this namespace's TCP counters, the kernel's slab."""
    fields = [int(f) * TICK_US for f in text("/proc/stat").split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    tcp: dict[str, int] = {}
    for path in ("/proc/net/snmp", "/proc/net/netstat"):
        lines = text(path).splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            kind, *each = names.split()
            tcp.update({kind + n: int(v) for n, v in zip(each, values.split()[1:], strict=True)})
    return {"cpu": {"user": user + nice, "system": system, "softirq": irq + softirq},
            "boot_id": text("/proc/sys/kernel/random/boot_id").strip(), "steal_us": steal,
            "slab_kb": number(r"^Slab:\s+(\d+)", text("/proc/meminfo")),
            "opened": tcp["Tcp:ActiveOpens"], "retransmitted": tcp["Tcp:RetransSegs"],
            "sent": tcp["Tcp:OutSegs"]}


def text(path: str) -> str:
    """Return a file's content."""
    return pathlib.Path(path).read_text()


def number(pattern: str, where: str) -> int:
    """Return the number that the pattern's group matches; 0 if none."""
    found = re.search(pattern, where, re.MULTILINE)
    return int(found[1]) if found else 0


def machine() -> dict[str, Any]:
    """Return what results say of the machine that this container runs on."""
    info = text("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only looks up the route
            address = probe.getsockname()[0]
        except OSError:
            address = ""
    return {"boot_id": read()["boot_id"], "kernel": os.uname().release,
            "architecture": os.uname().machine,
            "cores": os.cpu_count(), "cpu": model[1] if model else "",
            "memory_gib": round(number(r"^MemTotal:\s+(\d+)", text("/proc/meminfo")) / 2**20),
            "hypervisor": " hypervisor" in info,
            "congestion": text("/proc/sys/net/ipv4/tcp_congestion_control").strip(),
            "address": address}


def run(argv: list[str], env: dict[str, str] | None = None, timeout_s: float = 60
        ) -> dict[str, Any]:
    """Run a command to its end; read the clocks before and after."""
    before, begin = read(), time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                          timeout=timeout_s, env={**os.environ, **(env or {})})
    seconds = time.monotonic() - begin
    return {"status": done.returncode, "out": done.stdout.decode(errors="replace"),
            "err": done.stderr.decode(errors="replace")[-2000:], "seconds": seconds,
            "before": before, "after": read()}


def start(argv: list[str], user: int | None = None) -> dict[str, Any]:
    """Start a server; it runs until `stop`.  Its output goes to a file that `log` shows."""
    with open(f"/tmp/server-{len(STARTED)}.log", "wb") as log:  # noqa: S108 (the container's)
        os.chmod(log.name, 0o644)
        STARTED.append((subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log,
                                         stderr=subprocess.STDOUT, user=user, group=user,
                                         extra_groups=[] if user else None,
                                         start_new_session=True), log.name))
    return {}


def log() -> dict[str, Any]:
    """Return the last lines of the servers' logs."""
    return {"log": "\n".join(text(name)[-1500:] for _, name in STARTED)}


def stop() -> dict[str, Any]:
    """End all servers and everything they started."""
    while STARTED:
        process, name = STARTED.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.unlink(name)
    return {}


def wait(host: str, port: int, timeout_s: float) -> dict[str, Any]:
    """Wait until something listens there."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, port), 2).close()
            return {}
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{host}:{port}: {error}") from error
            time.sleep(0.05)


def hold(argvs: list[list[str]], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Start all programs at once, read the first line of each, and leave them waiting."""
    begin = time.monotonic()
    for argv in argvs:
        HELD.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     env={**os.environ, **(env or {})}))
    lines = [held.stdout.readline().decode() for held in HELD if held.stdout]
    return {"lines": lines, "seconds": time.monotonic() - begin}


def release() -> dict[str, Any]:
    """End what `hold` started."""
    while HELD:
        HELD.pop().communicate(timeout=60)
    return {}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        """Take the socket's path."""
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        """Open the connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def counters() -> dict[str, Any]:
    """Read the driver's counters from its socket: a service's, or a managed plugin's."""
    for path in sorted(glob.glob("/plugins/slim.sock") + glob.glob("/plugins/*/slim.sock")):
        connection = UnixConnection(path)
        try:
            connection.request("POST", "/Slim.Counters")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()
    raise FileNotFoundError("no slim.sock under /run/docker/plugins of the host")


ACTIONS = {action.__name__: action for action in
           (read, machine, run, start, log, stop, wait, hold, release, counters)}


def main() -> None:
    """Answer until the end of standard input; then end all we started."""
    try:
        for line in sys.stdin:
            ask = json.loads(line)
            asked = ask.pop("id")
            try:
                answer = ACTIONS[ask.pop("do")](**ask)
            except Exception as error:  # the harness judges it
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps({"id": asked, **answer}), flush=True)
    finally:
        stop()
        for held in HELD:
            held.kill()


if __name__ == "__main__":
    main()
