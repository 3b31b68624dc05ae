"""Parses the benchmark's command line, and explains what is wrong with it.

Pure: it looks only at the arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from bench.harness import bounds
from bench.harness.errors import BenchError
from bench.harness.networks import CROSS, HOST, KNOWN, SCOPES, SLIM, Settings
from bench.harness.workloads import GROUPS, WORKLOADS, Workload
from bench.report.results import FABRICS

RESULTS = Path(__file__).parents[1] / "results"
LATEST, QUICK = RESULTS / "latest.json", RESULTS / "quick.json"
ROUNDS, SECONDS, SPREAD_LIMIT = 7, 1.0, 0.10
EPILOG = """\
Without --contexts it makes two hosts on this machine (root).  Results of a run replace those of the
same workloads in the file, so a long run can be done in parts: --only streams, then --only nginx.
"""


@dataclass(frozen=True)
class Options:
    """What one call of the benchmark shall do."""

    contexts: tuple[str, ...]
    networks: tuple[str, ...]
    strict: bool  # the user named networks: one that cannot be set up is an error
    scopes: tuple[str, ...]
    workloads: tuple[Workload, ...]
    fabrics: tuple[str, ...]
    rounds: int
    seconds: float
    first_port: int
    out: Path
    fresh: bool
    spread_limit: float
    congestion: str
    addresses: tuple[str, ...]
    settings: Settings
    note: str


def parse(argv: Sequence[str]) -> Options:
    """Errors: BenchError; SystemExit, from argparse, for unknown options."""
    given = _parser().parse_args(argv)
    contexts = _list(given.contexts)
    if given.contexts is not None and not 1 <= len(contexts) <= 2:
        raise BenchError("--contexts takes one or two Docker contexts (`docker context ls`): "
                         "the client's host and the server's")
    networks = _networks(given.networks, bool(contexts), given.macvlan_parent)
    scopes = _chosen("--scopes", given.scopes, SCOPES)
    if len(contexts) == 1:
        if given.scopes and CROSS in scopes:
            raise BenchError("--scopes cross needs two hosts: --contexts A,B")
        scopes = ("local",)
    fabrics = _chosen("--fabric", given.fabric, FABRICS) if given.fabric else FABRICS[:1]
    if contexts and given.fabric:
        raise BenchError("--fabric is for the lab: real machines have the cables they have")
    addresses = _list(given.addresses)
    if addresses and len(addresses) != len(contexts):
        raise BenchError("--addresses takes one underlay address for each of --contexts")
    for address in addresses:
        _checked("--addresses", address, IPv4Address)
    _checked("--subnet", given.subnet, IPv4Network)
    quick = given.quick
    options = Options(
        contexts, networks, given.networks is not None, scopes, _workloads(given.only), fabrics,
        (3 if quick else ROUNDS) if given.rounds is None else given.rounds,
        (0.5 if quick else SECONDS) if given.seconds is None else given.seconds,
        given.port, given.out or (QUICK if quick else LATEST), given.fresh,
        given.spread_limit / 100, given.congestion,
        addresses, Settings(given.slim_driver, given.subnet, given.macvlan_parent or ""),
        given.note)
    if quick and not given.networks:
        options = replace(options, networks=KNOWN[:3])
    _bounds(options)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/run", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure slim beside the host's own network, Docker's networks and others.")
    add = parser.add_argument
    add("--contexts", metavar="A,B", help="Docker contexts of two real hosts (one: same host only)")
    add("--networks", metavar="N,...", help=f"of {', '.join(KNOWN)}, or any network of Docker "
        "that exists on the hosts (default: all that can be had)")
    add("--scopes", metavar="S,...", help="cross, local (default: both)")
    add("--only", metavar="W,...", help=f"groups ({', '.join(GROUPS)}) or single workloads: --list")
    add("--fabric", metavar="F,...", help=f"of {', '.join(FABRICS)}: the lab's cables (default: "
        "plain)")
    add("--rounds", type=int, help=f"interleaved rounds (default {ROUNDS})")
    add("--seconds", type=float, help=f"length of a run (default {SECONDS:g})")
    add("--quick", action="store_true", help="3 rounds of half a second; host, slim and overlay")
    add("--out", type=Path, help="results, with tables and charts beside them (default "
        "bench/results/latest.json; quick.json if quick)")
    add("--fresh", action="store_true", help="forget the results that are in the file")
    add("--spread-limit", type=float, default=SPREAD_LIMIT * 100, metavar="PERCENT",
        help=f"say so if host figures spread by more (default {SPREAD_LIMIT:.0%})".replace(
            "%", "%%"))
    add("--congestion", default="cubic", help="TCP congestion control of all (default cubic)")
    add("--port", type=int, default=21000, help="first of 32 ports for servers (default 21000)")
    add("--addresses", metavar="A,B", help="underlay addresses of the contexts' hosts (default: "
        "the address of each host's default route)")
    add("--slim-driver", default="slim", help="slim's name on the hosts, e.g. slim:latest")
    add("--subnet", default=Settings.subnet, help=f"for slim's network (default {Settings.subnet})")
    add("--macvlan-parent", metavar="DEVICE", help="compare macvlan on real hosts, too")
    add("--note", default="", help="a remark that is kept with the results")
    add("--list", action="store_true", help="list groups and workloads")
    return parser


def listing() -> list[str]:
    """Return lines that list groups and workloads."""
    return [f"{group}: " + "; ".join(w.name for w in WORKLOADS if w.group == group)
            for group in GROUPS]


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _chosen(option: str, text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    wanted = _list(text) if text is not None else tuple(known)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise BenchError(f"{option}: {', '.join(unknown) or 'nothing'} is not among "
                         f"{', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def _networks(text: str | None, real: bool, macvlan_parent: str | None) -> tuple[str, ...]:
    if text is None:
        # On real hosts only the user knows the device for macvlan.
        return tuple(n for n in KNOWN if n != "macvlan" or not real or macvlan_parent)
    wanted = _list(text)
    if not wanted:
        raise BenchError(f"--networks: nothing to compare; known are {', '.join(KNOWN)}")
    if "macvlan" in wanted and real and not macvlan_parent:
        raise BenchError("macvlan needs --macvlan-parent DEVICE on real hosts")
    first = tuple(n for n in KNOWN if n in wanted)
    return first + tuple(n for n in wanted if n not in KNOWN)


def _workloads(text: str | None) -> tuple[Workload, ...]:
    if text is None:
        return WORKLOADS
    # A name may hold a comma: "nginx, keep-alive".
    names = {**{w.name: (w,) for w in WORKLOADS},
             **{g: tuple(w for w in WORKLOADS if w.group == g) for g in GROUPS}}
    chosen: set[Workload] = set()
    rest = text.strip()
    while rest:
        found = [name for name in names if rest == name or rest.startswith(f"{name},")]
        if not found:
            raise BenchError(f"--only: no group or workload {rest.split(',')[0].strip()!r}; "
                             f"groups are {', '.join(GROUPS)}; --list shows the workloads")
        name = max(found, key=len)
        chosen.update(names[name])
        rest = rest[len(name):].lstrip(", ")
    if not chosen:
        raise BenchError("--only: nothing to run; --list shows what there is")
    return tuple(w for w in WORKLOADS if w in chosen)


def _checked(option: str, text: str, kind: type[IPv4Address] | type[IPv4Network]) -> None:
    try:
        kind(text)
    except ValueError as error:
        raise BenchError(f"{option}: {error}") from None


def _bounds(options: Options) -> None:
    for name, value, limits in (
            ("--rounds", options.rounds, bounds.ROUNDS),
            ("--seconds", options.seconds, bounds.SECONDS),
            ("--port", options.first_port, (1024, 65500)),
            ("--spread-limit", options.spread_limit * 100, (0, 1000))):
        try:
            bounds.check(value, *limits)
        except ValueError as error:
            raise BenchError(f"{name} {error}") from None
    if HOST not in options.networks and SLIM not in options.networks:
        raise BenchError("--networks: neither host nor slim is there: nothing to compare with")
