"""Runs authoritative name servers outside the hosts, where their containers find what they ask.

The program is Debian's knot.  It stands for all servers of the internet: it has a root, which says
that other names do not exist, and a zone with a signature (DNSSEC) for each record.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab.rig.hosts import Lab, run
from tests.support.run.wait import wait_until

READY_S = 30
ZONE = "outside.example"
_HEAD = """\
$TTL 300
@ SOA ns.outside.example. admin.outside.example. 7 3600 600 86400 60
@ NS ns.outside.example.
"""
_ROOT = f"{_HEAD}outside.example. NS ns.outside.example.\nns.outside.example. A {{address}}\n"


def long_text(size: int) -> str:
    """Return a TXT record's strings, of `size` bytes together."""
    return " ".join(f'"{"x" * min(200, size - start)}"' for start in range(0, size, 200))


_RECORDS = f"""\
ns A {{address}}
www A 192.0.2.1
www A 192.0.2.2
www AAAA 2001:db8::1
alias CNAME www
chain CNAME alias
web A 192.0.2.80
mail MX 10 www
mail MX 20 alias
_http._tcp SRV 0 5 80 www
*.many A 192.0.2.3
text TXT "one" "two"
text600 TXT {long_text(600)}
text2000 TXT {long_text(2000)}
text6000 TXT {long_text(6000)}
"""
_CONF = """\
server:
    rundir: {folder}
    listen: {address}@53
    udp-max-payload: 4096
    version: outside
log:
  - target: stderr
    any: info
database:
    storage: {folder}
zone:
  - domain: .
    file: {folder}/root.zone
  - domain: outside.example
    file: {folder}/outside.zone
    dnssec-signing: on
    zonefile-sync: -1
"""


@contextlib.contextmanager
def name_server(lab: Lab, folder: Path, address: str, records: str = _RECORDS) -> Iterator[None]:
    """Run a server at an address of the fabric during the block.

    The fabric's own address is where the hosts, and with them all containers, send their queries.

    folder: the server's alone.  records: of its zone.
    """
    if shutil.which("knotd") is None:
        raise FileNotFoundError("knotd: make test installs it")
    folder.mkdir(parents=True)
    (folder / "root.zone").write_text(_ROOT.format(address=address))
    (folder / "outside.zone").write_text(_HEAD + records.format(address=address))
    (folder / "knot.conf").write_text(_CONF.format(folder=folder, address=address))
    log = folder / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(lab.fabric("knotd", "-c", str(folder / "knot.conf")),
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                  env=lab.env, start_new_session=True)

    def is_ready() -> bool:
        assert server.poll() is None, log.read_text()
        asked = ["ip", "netns", "exec", f"{lab.name}-fab", "dig", f"@{address}", "+dnssec",
                 "+time=1", "+tries=1", ZONE, "SOA"]
        return "RRSIG" in subprocess.run(asked, capture_output=True, text=True, check=False).stdout

    try:
        wait_until(is_ready, READY_S, "the name server to answer, with signatures")
        yield
    finally:
        server.terminate()
        server.wait(20)


@contextlib.contextmanager
def another_address(lab: Lab, address: str) -> Iterator[str]:
    """Give the fabric a second address during the block."""
    fabric = ["ip", "-n", f"{lab.name}-fab", "address"]
    run([*fabric, "add", f"{address}/24", "dev", "br0"])
    try:
        yield address
    finally:
        run([*fabric, "del", f"{address}/24", "dev", "br0"])
