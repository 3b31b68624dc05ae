"""Tests which rules of a namespace count as a container's own; real tools make them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from driver.link.netlink.names import SANDBOX_TABLE
from driver.link.sandbox.packet_filter import find_own_rules
from tests.netns.kept_off.rules_world import DOCKERS
from tests.support.world.netns import Netns

HOOK = "{ type filter hook input priority 0; }"
DROPS = "{ type filter hook input priority 0; policy drop; }"
# Docker 29's rules, if it uses nftables.
DOCKER_29 = """
    add table ip docker-dns
    add chain ip docker-dns dns-dnat { type nat hook output priority -100; }
    add rule ip docker-dns dns-dnat ip daddr 127.0.0.11 udp dport 53 counter dnat to 127.0.0.11:45
    add chain ip docker-dns dns-snat { type nat hook postrouting priority 100; }
    add rule ip docker-dns dns-snat ip saddr 127.0.0.11 udp sport 45 counter snat to :53
"""
NOBODYS = {
    "nothing": "",
    "Docker 29": DOCKER_29,
    "a hooked chain without rules": f"add table inet a; add chain inet a c {HOOK}",
    "a chain that nobody comes by": "add table ip a; add chain ip a c; add rule ip a c drop",
    "IPv6 alone": f"add table ip6 a; add chain ip6 a c {DROPS}",
    "all of loopback": f"add table inet a; add chain inet a c {HOOK}; "
                       "add rule inet a c ip saddr 127.0.0.0/8 drop",
    "slim's own": f"add table ip {SANDBOX_TABLE}; add chain ip {SANDBOX_TABLE} c "
                  "{ type filter hook prerouting priority -300; }; "
                  f"add rule ip {SANDBOX_TABLE} c notrack",
}
OWN = {
    "a rule": f"add table ip a; add chain ip a c {HOOK}; add rule ip a c ip saddr 10.0.0.1 drop",
    "a policy": f"add table inet a; add chain inet a c {DROPS}",
    "beside Docker's": DOCKER_29 + "add rule ip docker-dns dns-dnat ip daddr 10.0.0.1 drop",
    "not loopback": f"add table ip a; add chain ip a c {HOOK}; "
                    "add rule ip a c ip saddr != 127.0.0.1 drop",
    "an effect before the address": f"add table ip a; add chain ip a c {HOOK}; "
                                    "add rule ip a c counter ip saddr 127.0.0.1 drop",
    "a device's": "add table netdev a; add chain netdev a c "
                  "{ type filter hook ingress device lo priority 0; }; add rule netdev a c drop",
}


def with_ipv6() -> str:
    return find_own_rules(ipv6=True)


def nft(inside: Netns, commands: str) -> None:
    if commands:
        inside.run("nft", "; ".join(line.strip() for line in commands.splitlines() if line.strip()))


@pytest.mark.parametrize("rules", NOBODYS)
def test_what_does_not_count(make_netns: Callable[[str], Netns], rules: str) -> None:
    inside = make_netns("c")
    nft(inside, NOBODYS[rules])
    assert inside.call(find_own_rules) == ""


@pytest.mark.parametrize("rules", NOBODYS)
def test_with_ipv6_rules_about_it_count_too(make_netns: Callable[[str], Netns], rules: str
                                            ) -> None:
    inside = make_netns("c")
    nft(inside, NOBODYS[rules])
    assert bool(inside.call(with_ipv6)) is (rules == "IPv6 alone")


@pytest.mark.parametrize("tool", ["ip6tables-nft", "ip6tables-legacy"])
@pytest.mark.parametrize(("make", "unmake"), [
    ("-A INPUT -s fd00::1 -j DROP", "-F INPUT"), ("-A INPUT -s ::1 -j DROP", "-F INPUT"),
    ("-P OUTPUT DROP", "-P OUTPUT ACCEPT"),
    ("-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 1", "-t nat -F PREROUTING")])
def test_ip6tables_of_both_kinds(make_netns: Callable[[str], Netns], tool: str, make: str,
                                 unmake: str) -> None:
    inside = make_netns("c")
    inside.run(tool, "-L")
    assert inside.call(with_ipv6) == ""
    inside.run(tool, *make.split())
    kind = "ip6tables-legacy" if tool.endswith("legacy") else "nftables"
    assert inside.call(with_ipv6).startswith(f"{kind}: table ")
    assert inside.call(find_own_rules) == ""
    inside.run(tool, *unmake.split())
    assert inside.call(with_ipv6) == ""


@pytest.mark.parametrize("rules", OWN)
def test_what_counts(make_netns: Callable[[str], Netns], rules: str) -> None:
    inside = make_netns("c")
    nft(inside, OWN[rules])
    assert inside.call(find_own_rules).startswith("nftables: table ")


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize(("make", "unmake"), [
    ("-A INPUT -s 10.0.0.1 -j DROP", "-F INPUT"), ("-P OUTPUT DROP", "-P OUTPUT ACCEPT"),
    ("-A INPUT ! -s 127.0.0.1 -j DROP", "-F INPUT"), ("-A FORWARD -i lo -j DROP", "-F FORWARD"),
    ("-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 1", "-t nat -F PREROUTING"),
    ("-t mangle -A OUTPUT -j MARK --set-mark 1", "-t mangle -F OUTPUT"),
    ("-t raw -A PREROUTING -j NOTRACK", "-t raw -F PREROUTING")])
def test_iptables_of_both_kinds(make_netns: Callable[[str], Netns], tool: str, make: str,
                                unmake: str) -> None:
    inside = make_netns("c")
    for words in DOCKERS:
        inside.run(tool, "-t", "nat", *words)
    inside.run(tool, "-L")
    assert inside.call(find_own_rules) == ""
    inside.run(tool, *make.split())
    kind = "iptables-legacy" if tool.endswith("legacy") else "nftables"
    assert inside.call(find_own_rules).startswith(f"{kind}: table ")
    inside.run(tool, *unmake.split())
    assert inside.call(find_own_rules) == ""
