"""Owns how the daemon ranks among the host's processes.

It knows nothing of the driver.  Whoever starts many containers at once has all cores busy in just
the moments in which the driver has a few milliseconds of work for each: if that waits for its
turn, the first connections of these containers take the overlay path.
"""

from __future__ import annotations

import logging
import os
import resource

log = logging.getLogger(__name__)

NICE = -10


def open_many_files() -> None:
    """Allow this process as many descriptors as it may allow itself: two for each sandbox."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def go_before_others() -> None:
    """Raise this process, and what threads it starts from now on.  Without the right: nothing."""
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) > NICE:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except PermissionError:
        log.info("without CAP_SYS_NICE many containers that start at once may wait for their "
                 "host paths")
