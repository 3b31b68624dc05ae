"""Tests the names that programs see of their connections: both families, static programs, too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.netns.talk import Program, best_path, client, run, server, started
from tests.support.world.machines import Container

Pair = tuple[Container, Container]


@pytest.mark.parametrize("listener", ["0.0.0.0", "::"])
@pytest.mark.parametrize("prefix", ["", "::ffff:"])
def test_accept_getsockname_getpeername(pair: Pair, listener: str, prefix: str) -> None:
    here, there = pair
    seen = server(there, address=listener)
    with best_path(here, there):
        own = client(here, prefix + there.address).split()
    port = own[1]
    assert own == [prefix + here.address, port, prefix + there.address, "80"]
    other = "::ffff:" if listener == "::" else ""
    assert seen.line().split() == [other + there.address, "80", other + here.address, port]


def test_names_before_bind_and_after_close(pair: Pair) -> None:
    """A socket has no name before it connects, and keeps its name while it is open."""
    here, there = pair
    started(there, """
        def handle(c):
            c.recv(5)
            c.close()
        serve(listen("0.0.0.0", 80), handle)
    """)
    with best_path(here, there):
        lines = run(here, """
            c = socket.socket()
            print(*c.getsockname(), error_of(c.getpeername))
            c.connect((sys.argv[1], 80))
            print(c.getsockname()[0], *c.getpeername())
            print(error_of(lambda: c.bind(("", 5555))))
            c.sendall(b"hello")
            assert c.recv(1) == b""
            print(c.getsockname()[0], *c.getpeername())
            c.shutdown(socket.SHUT_RDWR)
            print(error_of(c.getpeername))
        """, there.address).splitlines()
    both = f"{here.address} {there.address} 80"
    assert lines[:4] == ["0.0.0.0 0 ENOTCONN", both, "EINVAL", both]


def test_a_socket_passed_to_another_process(pair: Pair) -> None:
    here, there = pair
    server(there)
    with best_path(here, there):
        assert run(here, """
            c = connected(sys.argv[1], 80)
            left, right = socket.socketpair(socket.AF_UNIX)
            if os.fork() == 0:
                _, (fd,), _, _ = socket.recv_fds(right, 1, 1)
                passed = socket.socket(fileno=fd)
                passed.settimeout(8)
                assert asked(passed) == b"hello"
                print(passed.getsockname()[0], *passed.getpeername(), flush=True)
                os._exit(0)
            socket.send_fds(left, [b"x"], [c.fileno()])
            c.close()
            os.wait()
        """, there.address) == f"{here.address} {there.address} 80"


@pytest.fixture(scope="session")
def static_tool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A statically linked client and server program."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    target = tmp_path_factory.mktemp("static") / "static_tool"
    source = Path(__file__).with_name("static_tool.c")
    subprocess.run(["gcc", "-static", "-O1", "-w", "-o", target, source], check=True)
    headers = subprocess.run(["readelf", "-lW", target], check=True, capture_output=True)
    assert b"INTERP" not in headers.stdout
    return str(target)


@pytest.mark.parametrize("static", ["client", "server", "both"])
def test_static_binaries(pair: Pair, static_tool: str, static: str) -> None:
    here, there = pair
    if static == "client":
        seen = server(there)
    else:
        seen = Program(there.start(static_tool, "serve", "80"))
        assert seen.line() == "ready"
    with best_path(here, there):
        if static == "server":
            own = client(here, there.address)
        else:
            answer, own = here.run(static_tool, "ask", there.address, "80").stdout.splitlines()
            assert answer == "hello"
    port = own.split()[1]
    assert own == f"{here.address} {port} {there.address} 80"
    assert seen.line() == f"{there.address} 80 {here.address} {port}"


def test_a_static_web_server_and_client(pair: Pair, tmp_path: Path) -> None:
    here, there = pair
    if shutil.which("busybox") is None:
        pytest.skip("busybox is missing")
    (tmp_path / "page").write_text("from afar")
    there.start("busybox", "httpd", "-f", "-p", "80", "-h", str(tmp_path))
    run(there, """
        import time
        while error_of(lambda: connected("127.0.0.1", 80).close()) != "none":
            time.sleep(0.02)
    """)
    with best_path(here, there, connections=2):
        url = f"http://{there.address}/page"
        assert here.run("busybox", "wget", "-q", "-O", "-", url).stdout == "from afar"
        assert run(here, """
            import urllib.request
            print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())
        """, url) == "from afar"
