"""Owns the pauses between attempts at a change that others may be faster at.

It must not know what is changed.  Of all that compare one value and change it at once one is done
and the others read again: without pauses hundreds would mostly be busy with losing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Final

from driver.work import deadline

LIMIT_S: Final = 60.0  # for callers without a deadline of their own
# The first pause is up to this, the time that a few changes take, each next one up to four times
# as much.  With these, two hundred that read, compare and write one value are done within 2.5 s.
FIRST_S: Final = 0.02
GROWTH: Final = 4
LONGEST_S: Final = 0.8  # at most


def attempts(*, recalled: bool = False) -> Iterator[int]:
    """Number attempts from 0, each after a random pause, until the request's time is over.

    It begins anew with each: etcd has answered.
    recalled: the first one is decided on what was remembered.  That was mostly out of date if it
    is refused, so the second one comes at once.
    """
    end_s = time.monotonic() + LIMIT_S
    number, bound_s = 0, 0.0 if recalled else FIRST_S
    while True:
        yield number
        deadline.renew()
        pause_s = random.uniform(0.0, bound_s)  # noqa: S311 - they only must not meet again
        if pause_s >= deadline.remaining_s(end_s - time.monotonic()):
            return
        if pause_s:
            time.sleep(pause_s)
        number, bound_s = number + 1, min(LONGEST_S, max(FIRST_S, GROWTH * bound_s))
