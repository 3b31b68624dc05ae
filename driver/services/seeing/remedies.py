"""Says, for each reason why a connection is not on the host path, what to do about it.

The texts are those of docs/counters.md, with which a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REMEDIES: Final[Mapping[str, str]] = {
    "unknown_peer": "nothing if the address is unused; if it grows for a running container, is "
                    "etcd reachable?",
    "overlay_only": "the peer is kept off the host path (`slim status` there, line `host path`), "
                    "or its sandbox, or this one, is not finished or has no endpoint port (line "
                    "`outstanding`)",
    "host_dead": "is that host down? `slim hosts` says since when; `slim forget-host` removes "
                 "what it had",
    "service_empty": "`docker service ps`: does one run? `slim status` on a manager: are services "
                     "published?",
    "share_used": "it has as many connections on the host path as the map has room left, those of "
                  "its last minutes included. Let it keep connections open. Or is it an attack?",
    "peer_blocked": "`slim status` (line `peers`) and `slim doctor` name the host and the likely "
                    "cause: a firewall between the hosts",
    "switched_off": "nothing: `slim.host_path=off` is its label, or an option of its endpoint or "
                    "its network",
    "own_rules": "nothing if the rules are meant; the log names the table. If they never look at "
                 "addresses of the network and speed matters: label `slim.host_path=on`",
    "keys": "nothing: its connections are protected as it asked",
    "user_stack": "nothing: a stack in user space needs packets with virtual addresses. A program "
                  "that removes addresses from the interface by mistake looks the same",
    "bound_listener": "let the listener bind to an address, or to nothing, if it should be fast",
    "routing_lost": "what removes them? If it is a network manager in a privileged container, let "
                    "it leave foreign rules and routes alone "
                    "(`ManageForeignRoutingPolicyRules=no`, `ManageForeignRoutes=no`)",
    "ipv6_only": "let the client leave IPV6_V6ONLY and `net.ipv6.bindv6only` alone and bind to "
                 "nothing, or call the IPv4 address, if it should be fast",
    "ipv6_options": "nothing: what it asked for (IPV6_MINHOPCOUNT, extension headers, flow "
                    "labels) is on the overlay path's packets alone. IPv4 keeps the host path. "
                    "Before Linux 6.6 SO_REUSEPORT on an IPv6 socket counts, too",
    "ipv6_underlay": "let the client call the IPv6 address (a network with `--ipv6`), if it "
                     "should be fast",
    "listener_group": "Linux 6.6, or `GODEBUG=multipathtcp=0` for a program in Go, if it should be "
                      "fast",
}
