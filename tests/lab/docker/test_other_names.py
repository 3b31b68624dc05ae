"""Tests that what resolved before resolves the same: the internet, options, other networks.

Two containers of one host ask the same, one in a network with names, one in a network without,
where Docker's name server answers as ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest

from tests.lab.conftest import BUSYBOX
from tests.lab.docker.test_docker import address_of, create_network, start
from tests.lab.rig.borrowed import lent
from tests.lab.rig.dockers import every_docker, feature
from tests.lab.rig.hosts import Host, Lab
from tests.lab.rig.outside import another_address, name_server
from tests.support.run.wait import wait_until

pytestmark = every_docker

WAIT_S = 20
ANOTHER = "198.18.0.253"  # a server that only --dns leads to
ANOTHERS = "web A 192.0.2.180\nprinter A 192.0.2.181\n"
NAMES, NO_NAMES = "names", "no-names"  # containers, and their networks
# dig's arguments.  ".o" stands for ".outside.example".
QUESTIONS = """\
www.o
www.o AAAA
WwW.OutSide.Example
www.o +dnssec
www.o +dnssec +tcp
www.o +noedns
www.o +norecurse
www.o +cdflag +adflag
www.o +nsid
www.o +subnet=192.0.2.0/24
www.o +padding=128
www.o TXT
chain.o
chain.o AAAA +dnssec
outside.example SOA
outside.example NS
outside.example MX
outside.example DNSKEY +dnssec
outside.example DNSKEY +dnssec +bufsize=512
mail.o MX
_http._tcp.o SRV
any.many.o
any.many.o +dnssec
none.o
none.o +dnssec
none.o +tcp
none
none.of.these MX
text.o TXT
text600.o TXT
text600.o TXT +noedns
text600.o TXT +noedns +ignore
text600.o TXT +bufsize=512 +ignore
text600.o TXT +tcp
text2000.o TXT
text2000.o TXT +ignore
text2000.o TXT +bufsize=1232 +ignore
text2000.o TXT +bufsize=4096
text2000.o TXT +bufsize=4096 +dnssec
text6000.o TXT
text6000.o TXT +bufsize=4096 +ignore
text6000.o TXT +bufsize=4096 +dnssec
text6000.o TXT +noedns +tcp
www.o ANY +tcp
www.o TYPE65280
www.o HTTPS
www.o CH
version.server CH TXT
-x 192.0.2.1
-x 2001:db8::1
"""
ASK = 'while read -r question; do echo "dig $question"; dig $question 2>&1; done'
# What differs between two answers to one question.
_VARIES = re.compile(r"(?m)^;; Query time: .*\n|^;; WHEN: .*\n|^; COOKIE: .*\n|(?<=, id: )\d+")
# What the C library finds: by /etc/hosts, search domains and options, too.
LOOKUP = 'for name; do echo "$name: $(getent ahosts "$name" | sort -u)"; done'


@pytest.fixture(autouse=True, scope="module")
def outside(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("outside")
    with another_address(lab, ANOTHER), name_server(lab, folder / "root", str(lab.gateway)), \
            name_server(lab, folder / "another", ANOTHER, ANOTHERS):
        yield


@pytest.fixture
def networks(h1: Host, h2: Host) -> None:
    """One network with names, on both hosts, and one without."""
    create_network([h1, h2], NAMES)
    h1.docker("network", "create", "-d", "slim", "--ipam-driver", "slim", "--subnet",
              "10.33.0.0/16", "-o", "slim.names=off", NO_NAMES)


def start_both(host: Host, *options: str) -> None:
    """Start the two containers that are to resolve the same."""
    for name in (NAMES, NO_NAMES):
        start(host, name, image=BUSYBOX, network=name, options=[*lent(), *options])


def wait_for_name(host: Host, container: str, name: str, address: str) -> None:
    """Wait until slim answers: from then on it is asked for all names."""
    with suppress(AssertionError):
        wait_until(lambda: dig(host, container, name) == [address], WAIT_S, f"{name}: {address}")
    assert dig(host, container, name) == [address]


def dig(host: Host, container: str, *arguments: str) -> list[str]:
    return host.docker("exec", container, "dig", "@127.0.0.11", "+short", *arguments).split()


def forwarded(host: Host) -> int:
    """Return how many queries the driver has handed on to Docker's name server."""
    status, answer = host.call("/Slim.Status")
    found = re.search(r"(\d+) forwarded", str(json.loads(answer)))
    assert status == 200, answer
    assert found, answer
    return int(found[1])


def answers(host: Host, container: str, questions: str) -> list[str]:
    """Return what dig says to each question, without what always differs."""
    said = host.docker("exec", "-i", container, "sh", "-c", ASK, data=questions.encode())
    return _VARIES.sub("", said).split("\ndig ")


@feature("names across hosts")
def test_answers_from_outside_are_the_same(h1: Host, h2: Host, networks: None) -> None:
    start_both(h1)
    wait_for_name(h1, NAMES, "bob", start(h2, "bob", image=BUSYBOX, network=NAMES))
    questions = QUESTIONS.replace(".o ", ".outside.example ").replace(".o\n", ".outside.example\n")
    before = forwarded(h1)
    by_docker = answers(h1, NO_NAMES, questions)
    assert forwarded(h1) == before, "it asks Docker's name server"
    passed_through = answers(h1, NAMES, questions)
    assert forwarded(h1) >= before + questions.count("\n"), "the driver passes them on"
    assert passed_through == by_docker
    # They are the answers that this test is about.
    whole = "\n".join(passed_through)
    for part in ("RRSIG", "status: NXDOMAIN", "flags: qr aa tc rd", "retrying in TCP", "CNAME",
                 "flags: do", "NSEC", "(TCP)", "DNSKEY"):
        assert part in whole, part
    assert "timed out" not in whole


@feature("names across hosts")
@pytest.mark.parametrize("options", [
    (), ("--dns", ANOTHER), ("--dns-search", "outside.example"),
    ("--dns", ANOTHER, "--dns-search", "outside.example", "--dns-opt", "ndots:2",
     "--add-host", "printer:192.0.2.9", "--hostname", "front"),
], ids=["none", "dns", "search", "all"])
def test_options_of_docker_mean_the_same(h1: Host, h2: Host, networks: None,
                                         options: Sequence[str]) -> None:
    bob = start(h2, "bob", image=BUSYBOX, network=NAMES)
    web = start(h2, "web", image=BUSYBOX, network=NAMES)
    start_both(h1, *options)
    wait_for_name(h1, NAMES, "bob", bob)
    seen = {}
    for name in (NAMES, NO_NAMES):
        said = h1.docker("exec", name, "sh", "-c", f"cat /etc/resolv.conf; {LOOKUP}", "lookup",
                         "www", "www.outside.example", "web.outside.example", "alias", "printer",
                         "none", "none.outside.example", "front")
        seen[name] = re.sub(" +", " ", said.replace(address_of(h1, name, name), "its own"))
    assert seen[NAMES] == seen[NO_NAMES]
    found = h1.docker("exec", NAMES, "sh", "-c", LOOKUP, "lookup", "bob", "web", "bob.names")
    assert f"bob: {bob} " in found
    assert f"bob.names: {bob} " in found
    # With ndots:2 the resolver asks for web.outside.example first, and that exists.
    assert f"web: {'192.0.2.180' if 'ndots:2' in options else web} " in found


@feature("names across hosts")
def test_links_and_other_networks_come_first(h1: Host, h2: Host, networks: None) -> None:
    """Names that Docker's name server alone knew for a container mean what they meant."""
    h1.docker("network", "create", "bridged")
    bob = start(h1, "bob", image=BUSYBOX, network=NAMES)
    carol = start(h1, "carol", image=BUSYBOX, network="bridged",
                  options=("--network-alias", "www"))
    start(h1, "alice", image=BUSYBOX, network=NAMES, options=[*lent(), "--link", "bob:db"])
    start(h1, "other", image=BUSYBOX, network=NAMES, options=lent())
    h1.docker("network", "connect", "bridged", "alice")
    elsewhere = {name: start(h2, name, image=BUSYBOX, network=NAMES)
                 for name in ("www", "db", "web")}
    for name, address in elsewhere.items():
        wait_for_name(h1, "other", name, address)
    assert dig(h1, "alice", "db") == [bob], "its link"
    assert dig(h1, "alice", "bob") == dig(h1, "alice", "bob.names") == [bob]
    assert dig(h1, "alice", "carol") == dig(h1, "alice", "carol.bridged") == [carol]
    wait_for_name(h1, "alice", "www", carol)  # an alias in the bridge network
    assert dig(h1, "alice", "web") == [elsewhere["web"]]
    assert dig(h1, "other", "carol") == []
    h1.docker("network", "disconnect", "bridged", "alice")
    wait_for_name(h1, "alice", "www", elsewhere["www"])


@feature("names across hosts")
def test_questions_of_other_kinds_about_a_container(h1: Host, h2: Host, networks: None) -> None:
    """There is nothing, and it is said at once: by IPv6 it is not "no such name"."""
    bob = start(h2, "bob", image=BUSYBOX, network=NAMES)
    start(h1, NAMES, image=BUSYBOX, network=NAMES, options=lent())
    wait_for_name(h1, NAMES, "bob", bob)
    for kind in ("AAAA", "TXT", "MX", "SRV", "HTTPS"):
        for way in ("+notcp", "+tcp", "+noedns", "+dnssec"):
            said, = answers(h1, NAMES, f"bob {kind} {way}\n")
            assert "status: NOERROR" in said, said
            assert "ANSWER: 0," in said, said
            assert "timed out" not in said, said
