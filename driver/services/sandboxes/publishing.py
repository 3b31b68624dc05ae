"""Publishes a sandbox and inspects its listeners in the right order.

In sandboxes that it knows, the kernel sees when a listener starts or keys are set; what existed
before must be looked for.
"""

from __future__ import annotations

import logging

from driver.errors import LinkError
from driver.services.ports import Datapath, Listeners, SandboxEntry, Sandboxes

log = logging.getLogger(__name__)


def publish(sandboxes: Sandboxes, datapath: Datapath, entry: SandboxEntry, sandbox_key: str
            ) -> None:
    """Let the sandbox use the host path, unless its listeners prevent that.

    A listener that is bound to a device would be reachable by the address of any of the sandbox's
    networks.  Errors: those of Datapath.
    """
    several = len(entry.attachments) > 1
    if several:  # the new network's callers must never reach the other network's listener
        _look(sandboxes, datapath, entry, sandbox_key, several=several)
    datapath.publish_sandbox(entry, sandbox_key)
    # A listener may have started in the meantime, while the kernel knew only one network, and
    # keys may have been set before our programs were there.  A new container has no process yet:
    # it waits for publishing, which therefore comes first.
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
