"""Decides who may have an address that was requested by number.

Pure.  The transaction that creates the endpoint has the last word: an address has one live
endpoint.
"""

from __future__ import annotations

from driver.model import GLOBAL_HOLDER, Hold, HoldKind, Reservation


def refusal(found: Reservation, holder: str, hold: Hold) -> str:
    """Return why `holder` may not have the address as well; "" if it may.

    `found`: the current reservation; without holds and endpoint if there is none.
    """
    # A manager says repeatedly who gets what (restart, change of leader), and each worker then
    # requests the same address in its own space.
    if GLOBAL_HOLDER in (holder, *found.holds):
        return ""
    if found.endpoint:
        hosts = ", ".join(other[:12] for other in sorted(found.holds))
        return f"belongs to endpoint {found.endpoint[:12]}" + (f" of host {hosts}" if hosts else "")
    mine = found.holds.get(holder)
    if mine is not None and mine.kind is not HoldKind.GATEWAY and (
            hold.owner and mine.owner == hold.owner):
        return ""  # the same container repeats its request
    return next(filter(None, (_refused_by(other, held, holder, hold)
                              for other, held in found.holds.items())), "")


def _refused_by(other: str, held: Hold, holder: str, hold: Hold) -> str:
    if held.kept and other != holder:
        return f"is kept for a container of host {other[:12]} that is to start again"
    if held.kind is HoldKind.DYNAMIC:
        return f"was given to a container of host {other[:12]}"
    # Every host that has the network requests its gateways and aux addresses.
    if held.kind is HoldKind.GATEWAY and hold.kind is not HoldKind.GATEWAY:
        return "is the network's gateway"
    return ""
