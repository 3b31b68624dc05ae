"""Runs `slim names`: which containers of this host's networks have which names, on all hosts."""

from __future__ import annotations

from driver.commands.control_client import ask
from driver.commands.table import print_table
from driver.errors import NotFound, SlimError
from driver.settings import Settings

HEADING = ("NETWORK", "NAMES", "ADDRESS", "HOST")


def run_names(settings: Settings, network: str) -> int:
    """Print one line per endpoint; return 0.

    network: its name, its subnet, or the beginning of its id; empty: all.
    Errors: NotFound (no such network has a named endpoint), NotRunningError, SlimError.
    """
    said = ask(settings.socket, "Slim.Names").get("Names")
    if not isinstance(said, list):
        raise SlimError(f"{settings.socket} answers no names")
    found = [each for each in said if not network or _is(each, network)]
    if network and not found:
        known = sorted({str(each["Network"]) for each in said})
        raise NotFound(f"no container with a name is in a network {network!r}; "
                       + (f"there are {', '.join(known)}" if known else "nor in any other"))
    print_table([HEADING, *((each["Network"], each["Names"], each["Address"], each["Host"])
                            for each in found)])
    return 0


def _is(said: dict[str, str], network: str) -> bool:
    return network in (said["Network"], *said["Subnets"].split()) or (
        len(network) >= len("012") and said["NetworkID"].startswith(network))
