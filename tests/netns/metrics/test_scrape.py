"""Tests the metrics of a real driver with a real etcd, as Prometheus and as a person reads them."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from driver.metrics.families import FAMILIES, SCRAPE_ERRORS
from tests.conftest import PROJECT
from tests.support.metrics import COUNTED_RUNS, PROCESS, Scraped, named, promtool
from tests.support.run.wait import wait_until
from tests.support.world.netns import Netns
from tests.support.world.served import (
    EP,
    Host,
    attach,
    create_network,
    delete_network,
    detach,
    one_host,
)

AT = "127.0.0.1:9500"
ALWAYS = {each.name for each in (*FAMILIES, SCRAPE_ERRORS)} - COUNTED_RUNS | PROCESS
SERVED = f"served at {AT}"


@pytest.fixture
def host(make_netns: Callable[[str], Netns], tmp_path: Path) -> Iterator[Host]:
    with one_host(make_netns, tmp_path, Host) as made:
        made.options = ("--metrics", AT)
        yield made


@pytest.fixture
def running(host: Host) -> Host:
    """A driver that has read etcd."""
    host.start_driver()
    host.start_etcd()
    return host


def get(host: Host, at: str = AT, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    name, _, port = at.rpartition(":")

    def ask() -> tuple[int, str]:
        with closing(http.client.HTTPConnection(name.strip("[]"), int(port), timeout=10)) as found:
            found.request(method, path)
            answer = found.getresponse()
            return answer.status, answer.read().decode()

    return host.netns.call(ask)


def scrape(host: Host) -> Scraped:
    status, text = get(host)
    assert status == 200
    return Scraped(text)


def command(host: Host) -> subprocess.CompletedProcess[str]:
    """`slim metrics`, as somebody types it."""
    return subprocess.run(
        [sys.executable, "-m", "driver", "metrics", "--socket", host.socket, "--config",
         os.devnull], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)


def no_errors(found: Scraped) -> bool:
    return not any(found.values("slim_scrape_errors_total").values())


def test_before_and_after_a_container(running: Host, make_sandbox: Callable[[str], Netns],
                                      ) -> None:
    before = scrape(running)
    assert before.families - COUNTED_RUNS == ALWAYS
    assert no_errors(before)
    assert before.value("slim_endpoints") == before.value("slim_networks") == 0
    assert before.value("slim_guard_in_force") == 1
    assert before.value("slim_docker_calls_total", method="NetworkDriver.Join") == 0

    sandbox = make_sandbox("box")
    create_network(running)
    refused = running.dockerd.call("IpamDriver.RequestAddress", PoolID="slim-local/10.1.0.0/16",
                                   Address="", Options=None)
    assert refused.error
    address = attach(running, sandbox)
    wait_until(lambda: scrape(running).value("slim_sandboxes", state="host_path") == 1, 30,
               "the sandbox is on the host path")
    wait_until(lambda: scrape(running).value("slim_directory_endpoints") == 1, 30,
               "the directory has it")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("10.50.9.9", 9))

    sandbox.call(send)
    wait_until(lambda: scrape(running).value(
        "slim_reasons_total", reason="unknown_destination", kind="drop") >= 1, 30, "the drop")

    found = scrape(running)
    assert no_errors(found)
    assert found.value("slim_endpoints") == found.value("slim_networks") == 1
    assert found.value("slim_endpoints_waiting") == 0
    assert found.value("slim_endpoint_ports_used") == 1
    assert (before.value("slim_endpoint_ports_free")
            - found.value("slim_endpoint_ports_free")) == 1
    assert found.value("slim_sandbox_setup_duration_seconds_count") == 1
    assert 0 < found.value("slim_sandbox_setup_duration_seconds_sum") < 30
    assert found.value("slim_pool_addresses_used", pool="10.50.0.0/16") == 1
    assert found.value("slim_pool_addresses", pool="10.50.0.0/16") == (1 << 16) - 3
    for name in ("sandboxes", "veths", "endpoints"):
        assert found.value("slim_map_entries", map=name) == 1, name
    assert found.value("slim_map_max_entries", map="flows") == 262144
    for method, result in (("NetworkDriver.CreateEndpoint", "ok"), ("NetworkDriver.Join", "ok"),
                           ("IpamDriver.RequestAddress", "NotFound")):
        assert found.value("slim_docker_calls_total", method=method, result=result) == 1, method
    assert found.value("slim_docker_call_duration_seconds_count",
                       method="IpamDriver.RequestAddress") == 3  # the gateway's, refused, and ours
    for operation in ("read", "write", "list", "lease_grant"):
        assert found.value("slim_etcd_requests_total", operation=operation, result="ok") > (
            before.value("slim_etcd_requests_total", operation=operation, result="ok")
            if operation == "write" else 0), operation
    assert found.value("slim_hosts", state="registered") == 1
    assert found.value("slim_watch_silence_seconds") < 30
    assert sum(found.values("slim_outstanding_steps").values()) == 0
    # Nothing in any label is of a container, an endpoint or a host.
    for hidden in (EP[:12], sandbox.name, address.partition("/")[0], running.netns.name):
        assert hidden not in found.text
    assert found.values("slim_reasons_total").keys() == before.values("slim_reasons_total").keys()
    assert {dict(each)["reason"]: value for each, value in
            found.values("slim_reasons_total").items()}.keys() == running.counters().keys()

    detach(running, address)
    delete_network(running)
    wait_until(lambda: scrape(running).value("slim_endpoints") == 0, 30, "the endpoint is gone")
    after = scrape(running)
    assert after.value("slim_endpoint_ports_used") == after.value("slim_map_entries",
                                                                   map="sandboxes") == 0
    assert after.values("slim_pool_addresses") == {}


def test_only_get_metrics(running: Host) -> None:
    assert get(running, path="/")[0] == 404
    assert get(running, path="/Slim.Status", method="POST")[0] == 404
    assert get(running, method="POST")[0] == 405


def test_the_command_says_the_same(running: Host) -> None:
    def stable(text: str) -> set[str]:
        """Without what changes by itself, from one reading to the next."""
        moving = re.compile(r"^slim_(process|watch_silence|etcd|map|start_time|program|reasons)")
        return {line for line in text.splitlines() if not moving.match(line)}

    done = command(running)
    assert (done.returncode, done.stderr) == (0, "")
    served = scrape(running)
    assert Scraped(done.stdout).families == served.families
    assert stable(done.stdout) == stable(served.text)


def test_the_command_works_without_the_setting(running: Host) -> None:
    running.end_driver(signal.SIGTERM)
    running.options = ()
    running.start_driver()
    assert running.status()["metrics"] == "off: no --metrics"
    with pytest.raises(ConnectionRefusedError):
        get(running)
    assert Scraped(command(running).stdout).families - COUNTED_RUNS == ALWAYS


def test_the_command_without_a_driver(host: Host) -> None:
    done = command(host)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is it running?" in done.stderr


def test_without_etcd(running: Host) -> None:
    """The same families, as fast; requests that failed are told, and how long etcd is silent."""
    assert running.etcd is not None
    running.etcd.kill()
    wait_until(lambda: scrape(running).value("slim_etcd_requests_total", result="error") > 0, 60,
               "requests fail")
    wait_until(lambda: scrape(running).value("slim_watch_silence_seconds") > 11, 60,
               "the silence is told")
    found = scrape(running)
    assert found.families - COUNTED_RUNS == ALWAYS
    assert no_errors(found)


def test_a_driver_that_has_never_read_etcd(host: Host) -> None:
    """One part of many is missing, and counted."""
    host.start_driver()
    found = scrape(host)
    assert ALWAYS - found.families == {each.name for each in FAMILIES if each.part == "pools"}
    failed = {dict(each)["part"] for each, value in
              found.values("slim_scrape_errors_total").items() if value}
    assert failed == {"pools"}


def test_several_scrapes_at_once(running: Host) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: scrape(running), range(40)))
    assert all(each.families - COUNTED_RUNS == ALWAYS for each in found)
    assert all(map(no_errors, found))


def test_a_port_that_is_taken(host: Host) -> None:
    """The driver runs; when the port is free, metrics are served."""
    taken = host.netns.call(lambda: socket.create_server(("127.0.0.1", 9500)))
    with closing(taken):
        host.start_driver()
        status = host.status()
        assert status["metrics"] == f"not served at {AT} yet: see outstanding"
        assert f"serve metrics at {AT}" in status["outstanding"]
        assert "Address already in use" in status["outstanding"]
        assert Scraped(command(host).stdout).value(
            "slim_outstanding_steps", step="serve metrics at") == 1
    wait_until(lambda: host.status()["metrics"] == SERVED, 90, "it is served")
    assert get(host)[0] == 200
    assert host.status()["outstanding"].startswith("nothing")


@pytest.mark.parametrize(("at", "warned"), [("[::1]:9501", False), ("198.18.7.1:9502", True)])
def test_other_addresses(host: Host, at: str, warned: bool) -> None:
    host.options = ("--metrics", at)
    host.start_driver()
    assert host.status()["metrics"] == f"served at {at}"
    assert get(host, at)[0] == 200
    assert (f"metrics are served at {at}, which is not loopback" in host.log()) is warned
    with pytest.raises(ConnectionRefusedError):
        get(host, f"127.0.0.1:{at[-4:]}")


def test_promtool_finds_nothing_to_mend(running: Host, make_sandbox: Callable[[str], Netns]
                                        ) -> None:
    create_network(running)
    attach(running, make_sandbox("box"))
    done = subprocess.run([promtool(), "check", "metrics"], input=scrape(running).text,
                          capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_prometheus_reads_it(running: Host, make_sandbox: Callable[[str], Netns],
                               tmp_path: Path) -> None:
    """With the example's configuration and alerts; and each name of the dashboard has a value."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is missing (Debian package prometheus)")
    create_network(running)
    attach(running, make_sandbox("box"))
    folder = tmp_path / "monitoring"
    shutil.copytree(PROJECT / "examples/monitoring", folder)
    config = folder / "prometheus.yml"
    config.write_text(config.read_text().replace("15s", "1s"))
    log = tmp_path / "prometheus.log"
    with log.open("w") as out:
        process = subprocess.Popen(running.netns.command(
            program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            "--web.listen-address=127.0.0.1:9090"), stdout=out, stderr=out)
    try:
        def query(expression: str) -> list[dict[str, Any]]:
            def ask() -> list[dict[str, Any]]:
                with urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query?" + (
                        urllib.parse.urlencode({"query": expression})), timeout=10) as answer:
                    return json.load(answer)["data"]["result"]  # type: ignore[no-any-return]

            assert process.poll() is None, log.read_text()
            try:
                return running.netns.call(ask)
            except OSError:  # it is not there yet
                return []

        wait_until(lambda: query('up{job="slim"} == 1'), 60, "Prometheus has read the driver")
        (build,) = query("slim_build_info")
        assert build["metric"]["instance"] == AT
        wanted = named((folder / "grafana/slim.json").read_text()) | named(
            (folder / "alerts.yml").read_text())

        def told() -> set[str]:
            return named("\n".join(each["metric"]["__name__"] for each in query(
                '{__name__=~"slim_.+"}')))

        wait_until(lambda: wanted - COUNTED_RUNS <= told(), 30, "each has a value")
        wait_until(lambda: query('slim_sandboxes{state="host_path"} == 1'), 30, "the sandbox")
        assert query('slim_docker_calls_total{method="NetworkDriver.Join",result="ok"} == 1')
        assert query('ALERTS{alertname=~"Slim.+",alertstate="firing"}') == []
    finally:
        process.terminate()
        process.wait(30)
