"""Reports what a running driver says of itself and of the cluster."""

from __future__ import annotations

from collections.abc import Iterator

from driver.doctor.finding import Finding, one_line
from driver.errors import SlimError
from driver.settings import Settings
from driver.work.ledger import STUCK

DOUBTFUL = ("in doubt", "kept of networks", "cannot be read", "another one has")  # in the status
OUT_OF_REACH = " out of reach, whose underlay is IPv"
LOST = "registered; etcd did not know this host any more"
ALL_ENTERED = "all of this host's is in etcd"


def told_by_driver(settings: Settings) -> Iterator[Finding]:
    """Report what only a running driver knows.

    That is: whether this host is admitted, what is in conflict, and which other hosts the host
    path does not reach.
    """
    from driver.commands.control_client import NotRunningError, ask  # noqa: PLC0415

    try:
        status = ask(settings.socket, "Slim.Status").get("Status")
    except NotRunningError:
        return
    except SlimError as error:
        yield Finding("peers", one_line(str(error)))
        return
    if not isinstance(status, dict):
        return
    said = status.get("registration")
    if said is not None:  # an older driver reports neither this nor the next two
        # Why it had to be entered again is worth a line, but nothing is wrong by now.
        mended = said.startswith(LOST) and status.get("records", "").startswith(ALL_ENTERED)
        yield Finding("registration", None if said == "registered" or mended else said, said)
    said = status.get("outstanding")
    if said is not None:
        yield Finding("outstanding", f"{said}: it is repeated until it works; is the cause "
                      "something to mend?" if said.startswith(STUCK) else None, said)
    said = status.get("hosts")
    if said is not None and OUT_OF_REACH in said:
        yield Finding("hosts", f"{said}: name addresses of one family with --underlay on all hosts")
    said = status.get("peers")
    if said is not None:
        yield Finding("peers", f"{said}: let TCP {settings.port_range}, and TCP option 254, pass "
                      "between the hosts" if " blocked: " in said else None, said)


def doubts(settings: Settings) -> Iterator[Finding]:
    """Report what a running driver knows and cannot find on record."""
    from driver.commands.control_client import ask  # noqa: PLC0415

    try:
        status = ask(settings.socket, "Slim.Status").get("Status")
    except SlimError:
        return  # said in another line, or none runs
    for name in ("directory", "services"):
        said = status.get(name) if isinstance(status, dict) else None
        if said is not None and any(word in said for word in DOUBTFUL):
            yield Finding(name, f"{said}: what is kept works on; is etcd the right one, has it "
                          "all its data (docs/recovery.md), do all drivers run?")
