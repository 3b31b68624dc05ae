"""Tests that resolvers nobody here wrote find the names of containers on another host.

glibc's is in test_names.py.  Debian's curl has none of its own, so aria2 stands for programs with
c-ares.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab.conftest import BUSYBOX
from tests.lab.docker.test_docker import create_network, start
from tests.lab.docker.test_programs import GO
from tests.lab.rig import borrowed, images
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.hosts import CommandFailed, Host, Lab
from tests.lab.rig.seeds import SERVERS
from tests.support.run.wait import wait_until

pytestmark = [every_docker, pytest.mark.usefixtures("no_such_name")]

WAIT_S = 60  # nginx asks again after 5 s, Go's resolver too
ASKER, PROXY = "asker", "proxy"  # containers
# Says which container it is.
WEB = ("sh", "-c", "mkdir /www && hostname > /www/index.html && exec httpd -f -p 80 -h /www")
# While the driver is away, servers outside say that there is no such name as one of the other
# host's, and for how long that may be kept.  dnsmasq keeps it, and a test does not wait so long.
DNSMASQ = ("--keep-in-foreground", "--user=root", "--pid-file", "--no-resolv", "--no-hosts",
           "--no-negcache", "--server=127.0.0.11", "--bind-interfaces",
           "--listen-address=127.0.0.1")
NGINX_CONF = """
worker_processes 1;
daemon off;
user nobody nogroup;
pid /tmp/proxy.pid;
events {}
http {
    access_log off;
    resolver 127.0.0.11 valid=1s;
    proxy_connect_timeout 1s;  # for that second it may call an address that nobody has any more
    server {
        listen 80;
        location ~ ^/(?<name>.+)$ { proxy_pass http://$name:80/; }
    }
}
"""
Finds = Callable[[str], str]  # what a name leads to, and something else if nothing


def start_web(host: Host, name: str, *aliases: str) -> str:
    """Start a container that says over HTTP which one it is; return its address."""
    return start(host, name, *WEB, image=BUSYBOX, options=(
        "--hostname", name, *(word for each in aliases for word in ("--network-alias", each))))


def dig(host: Host, container: str, server: str) -> Finds:
    """Return a way to ask a server that runs in the container."""
    def asked(name: str) -> str:
        try:
            return host.docker("exec", container, "dig", f"@{server}", "+short", "+time=2", name)
        except CommandFailed as failure:  # it does not listen yet, or does not answer
            return str(failure)
    return asked


def start_dnsmasq(host: Host) -> Finds:
    host.docker("exec", "-d", ASKER, borrowed.path_of("dnsmasq"), *DNSMASQ)
    return dig(host, ASKER, "127.0.0.1")


def start_proxy(host: Host) -> Finds:
    """Start an nginx that asks for the name in each request's path, and hands the request on."""
    start(host, PROXY, "sh", "-c", 'echo "$0" > /tmp/conf && exec nginx -e stderr -c /tmp/conf',
          NGINX_CONF, image=SERVERS)

    def fetched(name: str) -> str:
        try:
            return host.docker("exec", PROXY, "wget", "-qO-", f"http://127.0.0.1/{name}")
        except CommandFailed as failure:
            return str(failure)
    return fetched


def wait_for(finds: Finds, name: str, wanted: str) -> None:
    with suppress(AssertionError):
        wait_until(lambda: finds(name) == wanted, WAIT_S, f"{name} to be {wanted}")
    assert finds(name) == wanted


def wait_for_none(finds: Finds, name: str, not_wanted: str) -> None:
    wait_until(lambda: finds(name) != not_wanted, WAIT_S, f"{name} not to be {not_wanted}")


@feature("names across hosts")
def test_programs_that_ask_by_themselves(lab: Lab, h1: Host, h2: Host, tmp_path: Path) -> None:
    """A static program with musl, Go's resolver, both of Java's, and c-ares."""
    create_network([h1, h2])
    lab.load_image(GO, images.go_names())
    web = start_web(h2, "web", "www")
    start(h1, ASKER, image=BUSYBOX, options=borrowed.lent())
    start(h1, "gopher", image=GO)
    wait_for(dig(h1, ASKER, "127.0.0.11"), "web", web)
    names = ("web", "www", "web.app", "WEB")

    musl = borrowed.put_static_musl_program(h1, ASKER, tmp_path)
    for name in names:
        said = h1.docker("exec", ASKER, musl, name)
        assert said.splitlines() == [web, web], f"by IPv4 alone, and both: {said}"
    assert web not in h1.docker("exec", ASKER, musl, "nobody")

    for name in names:
        assert h1.docker("exec", "gopher", "names", "look", name) == web
    assert "no such host" in h1.docker("exec", "gopher", "names", "look", "nobody")

    h1.docker("cp", str(images.PROGRAMS / "Look.java"), f"{ASKER}:/Look.java")
    said = h1.docker("exec", ASKER, borrowed.path_of("java"), "/Look.java", *names)
    assert said.splitlines() == [web, web] * len(names), "by the C library, and by itself"

    assert "c-ares/" in h1.docker("exec", ASKER, "aria2c", "--version")
    for name in names:
        h1.docker("exec", ASKER, "aria2c", "--quiet", "--allow-overwrite=true", "--dir=/tmp",
                  "--out=found", f"http://{name}/")
        assert h1.docker("exec", ASKER, "cat", "/tmp/found") == "web"


@feature("names across hosts")
def test_nginx_follows_a_name_to_another_container(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    start_web(h2, "one", "web")
    proxied = start_proxy(h1)
    wait_for(proxied, "web", "one")
    h2.docker("rm", "-f", "one")
    start_web(h2, "two", "web")
    wait_for(proxied, "web", "two")
    start_web(h1, "three", "web")  # the name has moved to this host
    h2.docker("rm", "-f", "two")
    wait_for(proxied, "web", "three")


@feature("names across hosts")
def test_go_and_servers_outlive_a_driver(lab: Lab, h1: Host, h2: Host) -> None:
    """They run on, and keep their sockets; Go asks again and again.

    Without a driver they find what Docker's name server knows, with the next one all.
    """
    create_network([h1, h2])
    lab.load_image(GO, images.go_names())
    here, there = start_web(h1, "here"), start_web(h2, "there")
    start(h1, ASKER, image=BUSYBOX, options=borrowed.lent())
    wait_for(dig(h1, ASKER, "127.0.0.11"), "there", there)
    for name in ("here", "there"):
        start(h1, f"watches-{name}", "names", "watch", name, image=GO)

    def watched(name: str) -> str:
        return h1.docker("logs", f"watches-{name}").rpartition("\n")[2]

    dnsmasq, proxied = start_dnsmasq(h1), start_proxy(h1)
    ways = ((dnsmasq, here, there), (proxied, "here", "there"), (watched, here, there))
    for finds, found_here, found_there in ways:
        wait_for(finds, "here", found_here)
        wait_for(finds, "there", found_there)
    h1.kill_driver()
    for finds, found_here, found_there in ways:
        wait_for_none(finds, "there", found_there)
        assert finds("here") == found_here, "as Docker's name server says"
    h1.start_driver()
    for finds, found_here, found_there in ways:
        wait_for(finds, "there", found_there)
        assert finds("here") == found_here
    assert h1.docker("logs", "watches-here") == here, "it was found without a gap"


@feature("names across hosts")
def test_systemd_resolved_outlives_a_driver(h1: Host, h2: Host) -> None:
    create_network([h1, h2])
    here, there = start_web(h1, "here"), start_web(h2, "there", "www")
    start(h1, ASKER, image=BUSYBOX, options=[*borrowed.lent(), *borrowed.resolved_option()])
    finds = dig(h1, ASKER, borrowed.start_resolved(h1, ASKER))
    for name in ("there", "www", "there.app"):
        wait_for(finds, name, there)
    h1.kill_driver()
    wait_for_none(finds, "there", there)
    assert finds("here") == here, "as Docker's name server says"
    h1.start_driver()
    wait_for(finds, "there", there)
    assert finds("here") == here
