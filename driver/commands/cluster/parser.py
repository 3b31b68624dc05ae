"""Defines the command line of `slim cluster`."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from driver.settings import OneLineParser, add_options

ABOUT = {
    "init": "begin a cluster on this host, or make one of what `make up` began here",
    "join": "bring this host into a cluster",
    "token": "print the line with which other hosts join",
    "status": "list members, hosts, health, certificates",
    "leave": "take this host out of its cluster",
    "remove": "take another host out that is gone for good",
    "backup": "write all that etcd and the certificate authority have to a file",
    "restore": "begin the cluster again from such a file, after etcd has lost its data",
    "tidy": "compact and defragment etcd, and lift its alarm NOSPACE",
    "serve": "keep this host's part of the cluster in order (the service slim-cluster)",
}
HOUR_S, DAY_S = 3600.0, 86400.0


def add_cluster_parser(commands: Any) -> None:
    """Add `cluster` with its own commands to the parsers of `slim`."""
    about = "make a cluster of several hosts, and look after its etcd"
    cluster: ArgumentParser = commands.add_parser("cluster", help=about, description=about)
    inner = cluster.add_subparsers(dest="cluster_command", required=True, metavar="COMMAND",
                                   parser_class=OneLineParser)
    made: dict[str, ArgumentParser] = {}
    for name, said in ABOUT.items():
        made[name] = inner.add_parser(name, help=said, description=said)
    made["init"].add_argument("--name", default="", help="the cluster's name (default: this "
                              "host's)")
    made["init"].add_argument("--certificate-days", type=_days, default=90 * DAY_S, metavar="DAYS",
                              help="how long certificates are valid; they are renewed when a third "
                              "is left (default 90)")
    made["join"].add_argument("member", help="address of a member, IPv4 or IPv6")
    made["join"].add_argument("token", help="as `slim cluster token` prints it on a member")
    made["join"].add_argument("--again", action="store_true", help="also if this host is in that "
                              "cluster already: it gets a new certificate")
    made["join"].add_argument("--client-only", action="store_true", help="this host never runs a "
                              "member of etcd, and never has the CA's key")
    for name in ("init", "join"):
        made[name].add_argument("--plugin", action="store_true", help="this host's driver is the "
                                "managed plugin: only etcd and the keeper are started here")
        made[name].add_argument("--address", default="", help="this host's address for the "
                                "cluster, IPv4 or IPv6 (default: that of the underlay)")
    made["token"].add_argument("--rotate", action="store_true", help="make a new one; the one "
                               "before lets nobody in any more")
    for name in ("init", "token"):
        made[name].add_argument("--valid", type=_hours, default=24 * HOUR_S, metavar="HOURS",
                                help="for how long a new token lets hosts in (default 24; 0: for "
                                "ever)")
    made["leave"].add_argument("--last", action="store_true", help="also where this is the last "
                               "host: what etcd has is lost")
    made["remove"].add_argument("which", metavar="HOST",
                                help="its name or id, as `slim cluster status` shows them")
    made["remove"].add_argument("--alive", dest="even_alive", action="store_true",
                                help="also if it runs: its containers lose their networks")
    made["backup"].add_argument("file", help="the file to write; it has the CA's key: keep it safe")
    made["restore"].add_argument("file", help="what `backup` wrote")
    made["restore"].add_argument("--new-ca", action="store_true", help="with a new certificate "
                                 "authority, after the key of the old one was stolen: all other "
                                 "hosts have to join again")
    for parser in made.values():
        add_options(parser)


def _hours(text: str) -> float:
    return _amount(text, HOUR_S)


def _days(text: str) -> float:
    found = _amount(text, DAY_S)
    if not found:
        raise ValueError("out of range")
    return found


def _amount(text: str, unit_s: float) -> float:
    """Return seconds.  Error: ValueError."""
    found = float(text)
    if not 0 <= found <= 100_000:
        raise ValueError("out of range")
    return found * unit_s
