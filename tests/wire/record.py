"""Records what a real dockerd sends, for tests/wire/recorded; run it for each new Docker release.

    .venv/bin/python -m tests.wire.record OUT.json [DOCKER_TREE]

It is a proxy between a lab host's dockerd and a real driver, and runs docker commands that make
dockerd send all that it can send outside a swarm.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

REAL_SOCKET = "/run/slim-real.sock"
PLUGIN_SOCKET = "/run/docker/plugins/slim.sock"

# A command may fail: only what dockerd sends matters.  {image} has a program that sleeps.
COMMANDS = (
    "network create -d slim --ipam-driver slim --subnet 10.50.0.0/16 --ip-range 10.50.4.0/24 "
    "--gateway 10.50.0.254 --aux-address printer=10.50.0.5 "
    "-o com.docker.network.driver.mtu=1400 one",
    "network create -d slim --ipam-driver slim two",
    "network create -d slim --ipam-driver slim --internal --subnet 10.51.0.0/24 three",
    "network create -d slim --ipam-driver slim --ipv6 --subnet 10.52.0.0/24 "
    "--subnet fd00:52::/64 four",
    "network create -d slim --subnet 10.53.0.0/24 five",
    "run -d --name box-a --network one --ip 10.50.0.77 --mac-address 02:42:de:ad:be:ef "
    "-p 8080:80 -p 8081:81/udp --expose 9000 {image} sleep 1000",
    "run -d --name box-b --network three {image} sleep 1000",
    "run -d --name box-c --network four --dns 10.0.0.1 {image} sleep 1000",
    "run -d --name box-d --network five {image} sleep 1000",
    "network connect --driver-opt com.docker.network.endpoint.ifname=web0 two box-b",
    "network disconnect two box-b", "restart -t 0 box-a", "rm -f box-a",
    "rm -f box-b box-c box-d",
    "network rm one two three four five",
)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def proxy(out: Path) -> None:
    """Listen where dockerd looks; append each request with its answer to `out`, as a JSON line."""
    from driver.process.unix_http import UnixConnection

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = UnixConnection(REAL_SOCKET)
            connection.request("POST", self.path, body)
            response = connection.getresponse()
            answer = response.read()
            connection.close()
            with out.open("a") as file:
                file.write(json.dumps({
                    "path": self.path, "headers": dict(self.headers.items()),
                    "body": body.decode(), "status": response.status,
                    "answer": json.loads(answer)}) + "\n")
            self.send_response(response.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def address_string(self) -> str:
            return "dockerd"

    with contextlib.suppress(FileNotFoundError):
        os.unlink(PLUGIN_SOCKET)
    os.makedirs(os.path.dirname(PLUGIN_SOCKET), exist_ok=True)
    _UnixServer(PLUGIN_SOCKET, Handler).serve_forever()


def main(out: Path, tree: str = "") -> None:
    from tests.lab.rig import images
    from tests.lab.rig.hosts import CommandFailed, Program, lab_of_this_process
    from tests.support.run.wait import wait_until
    from tests.support.world.client import Dockerd

    with lab_of_this_process("slimrecord", *([tree] if tree else [])) as lab:
        lab.up(1)
        lab.load_image("busybox", images.busybox())
        lab.start_etcd()
        host = lab.hosts[0]
        python = sys.executable
        docker = "docker" if tree else "/usr/bin/docker"  # Debian's own, of dockerd's version
        driver = Program(host, [python, "-m", "driver", "serve", "--etcd", lab.etcd_url,
                                "--socket", REAL_SOCKET], host.driver_log)
        real = Dockerd(f"{host.root}{REAL_SOCKET}")

        def answers() -> bool:
            assert driver.running, driver.output()
            with contextlib.suppress(OSError):
                return real.raw("Plugin.Activate", b"").status == 200
            return False

        wait_until(answers, 60, "the driver answers")
        lines = host.folder / "recorded.jsonl"
        recorder = Program(host, [python, "-m", "tests.wire.record", "--proxy", str(lines)],
                           host.folder / "recorder.log")
        wait_until(lambda: os.path.exists(f"{host.root}{PLUGIN_SOCKET}"), 10, "the proxy listens")
        for command in COMMANDS:
            try:
                host.exec(docker, *command.format(image="busybox").split())
            except CommandFailed as error:
                print(error, file=sys.stderr)
        version = host.exec(docker, "version", "--format", "{{.Server.Version}}").strip()
        recorder.end()
        driver.end()
        requests = [json.loads(line) for line in lines.read_text().splitlines()]
        out.write_text(json.dumps({"docker": version, "requests": requests}, indent=1) + "\n")
        print(f"{out}: {len(requests)} requests of dockerd {version}")


if __name__ == "__main__":
    if sys.argv[1] == "--proxy":
        proxy(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), *sys.argv[2:])
