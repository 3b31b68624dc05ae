"""Owns the order in which a sandbox is published and its listeners are looked at.

It must not know how either is done.  The kernel sees listeners that begin, and keys that
are set, in sandboxes that it knows; what was there before has to be looked for.
"""

from __future__ import annotations

import logging

from driver.errors import LinkError
from driver.services.ports import Datapath, Listeners, SandboxEntry, Sandboxes

log = logging.getLogger(__name__)


def publish(sandboxes: Sandboxes, datapath: Datapath, entry: SandboxEntry, sandbox_key: str
            ) -> None:
    """Let the sandbox use the host path, unless its listeners speak against it.

    A listener that is bound to a device would be found by the address of any network of the
    sandbox.  Errors: those of Datapath.
    """
    several = len(entry.attachments) > 1
    if several:  # not for a moment may the new network's callers reach the other's listener
        _look(sandboxes, datapath, entry, sandbox_key, several=several)
    datapath.publish_sandbox(entry, sandbox_key)
    # One may have begun meanwhile, when the kernel knew of one network only; and keys may have
    # been set before there were programs of ours.  A new container has no process yet: it is
    # published first, as it waits for that.
    _look(sandboxes, datapath, entry, sandbox_key, several=several)


def _look(sandboxes: Sandboxes, datapath: Datapath, entry: SandboxEntry, key: str, *,
          several: bool) -> None:
    try:
        found = sandboxes.listeners(key)
    except LinkError as error:
        log.warning("sandbox %s: its listeners cannot be looked at%s: %s", key,
                    ", it stays on the overlay path" if several else "", error)
        found = Listeners(bound=True, keyed=False)
    bound = found.bound and several
    if bound or found.keyed:
        datapath.note_listeners(entry.cookie, bound=bound, keyed=found.keyed)
