"""Owns the rule who may have an address that was asked for by name.

Pure; it must not know how reservations are kept.  The last word has the transaction that
creates the endpoint: an address has one live endpoint.
"""

from __future__ import annotations

from driver.model import GLOBAL_HOLDER, Hold, HoldKind, Reservation


def refusal(found: Reservation, holder: str, hold: Hold) -> str:
    """Say why `holder` may not have the address as well; "" if it may.

    `found`: the reservation as it is; without holds and endpoint if there is none.
    """
    # A manager says who gets what, again and again (restart, change of leader), and each
    # worker then asks for the same address in its own space.
    if GLOBAL_HOLDER in (holder, *found.holds):
        return ""
    if found.endpoint:
        hosts = ", ".join(other[:12] for other in sorted(found.holds))
        return f"belongs to endpoint {found.endpoint[:12]}" + (f" of host {hosts}" if hosts else "")
    mine = found.holds.get(holder)
    if mine is not None and mine.kind is not HoldKind.GATEWAY and (
            hold.owner and mine.owner == hold.owner):
        return ""  # the same container asks again
    for other, held in found.holds.items():
        if held.kind is HoldKind.DYNAMIC:
            return f"was given to a container of host {other[:12]}"
        # Gateways and aux addresses are asked for by every host that has the network.
        if held.kind is HoldKind.GATEWAY and hold.kind is not HoldKind.GATEWAY:
            return "is the network's gateway"
    return ""
