"""Raises the daemon's priority, and its limit of open files, among the host's processes.

Starting many containers together keeps all cores busy in just the moments in which the driver has a
few milliseconds of work for each: if that work has to wait, the first connections of these
containers take the overlay path.
"""

from __future__ import annotations

import logging
import os
import resource

log = logging.getLogger(__name__)

NICE = -10


def open_many_files() -> None:
    """Raise the limit of open files to its maximum: each sandbox takes two descriptors."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def go_before_others() -> None:
    """Raise the priority of this process and its future threads; does nothing without the right."""
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) > NICE:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except PermissionError:
        log.info("without CAP_SYS_NICE many containers that start at once may wait for their "
                 "host paths")
