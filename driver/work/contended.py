"""Paces the attempts at a compare-and-swap that others compete for.

Of all who compare and swap one value at the same time, one succeeds and the others read again.
Without pauses, hundreds of them would spend most of their time losing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Final

from driver.work import deadline

LIMIT_S: Final = 60.0  # for callers without a deadline of their own
# The first pause is at most this long, the time that a few changes take; each next pause is at
# most four times as long.  With these values, two hundred that read, compare and write one value
# finish within 2.5 s.
FIRST_S: Final = 0.02
GROWTH: Final = 4
LONGEST_S: Final = 0.8  # upper limit of any pause


def attempts(*, recalled: bool = False) -> Iterator[int]:
    """Number attempts from 0, each after a random pause, until the request's time is up.

    Each attempt renews that time, because etcd has answered.
    recalled: the first attempt relies on remembered values.  If it is refused, they were probably
    stale, so the second attempt follows at once.
    """
    end_s = time.monotonic() + LIMIT_S
    number, bound_s = 0, 0.0 if recalled else FIRST_S
    while True:
        yield number
        deadline.renew()
        pause_s = random.uniform(0.0, bound_s)  # noqa: S311 - it is no secret
        if pause_s >= deadline.remaining_s(end_s - time.monotonic()):
            return
        if pause_s:
            time.sleep(pause_s)
        number, bound_s = number + 1, min(LONGEST_S, max(FIRST_S, GROWTH * bound_s))
