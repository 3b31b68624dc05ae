"""Reads all parts when somebody asks, within a limit of time; a part that fails is left out.

Nothing runs between two readings, and several may run at once.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from driver.errors import SlimError
from driver.metrics.families import Reading
from driver.work import deadline

LIMIT_S: Final = 2.0  # for all parts; they take some milliseconds
PART_S: Final = 1.0  # for one that would ask etcd

log = logging.getLogger(__name__)

Parts = Mapping[str, Callable[[], Reading]]


@dataclass
class _Run:
    """One reading; its thread goes on when nobody waits for it any more."""

    found: dict[str, Reading] = field(default_factory=dict)
    current: str = ""  # the part that is being read
    hangs: bool = False  # in that part: nobody waits any more


class Reader:
    """Reads the parts.  Thread-safe."""

    def __init__(self, parts: Parts, limit_s: float = LIMIT_S) -> None:
        """parts: by name; called in a thread of the reading, by several at once."""
        self._parts = parts
        self._limit_s = limit_s
        self._lock = threading.Lock()  # of the rest
        self._hanging: Counter[str] = Counter()
        self._errors: Counter[str] = Counter(dict.fromkeys(parts, 0))
        self._told: set[str] = set()  # parts whose failure was logged

    def read(self) -> tuple[dict[str, Reading], dict[str, int]]:
        """Return what each part says, without those that fail, and the failures of each so far.

        A part that hangs holds this reading up, to the limit, and is left out of later ones until
        it is through.
        """
        run = _Run()
        reading = threading.Thread(target=self._run, args=(run,), name="metrics", daemon=True)
        reading.start()
        reading.join(self._limit_s)
        with self._lock:
            if run.current and not run.hangs:
                run.hangs = True
                self._hanging[run.current] += 1
                log.warning("metrics: %s takes too long, and is left out until it is through",
                            run.current)
            found = dict(run.found)  # what comes later is not for this one
            self._errors.update(self._parts.keys() - found.keys())
            return found, dict(self._errors)

    def _run(self, run: _Run) -> None:
        for name, part in self._parts.items():
            with self._lock:
                if run.hangs:
                    break
                if self._hanging[name]:
                    continue
                run.current = name
            self._read_part(run, name, part)
        with self._lock:
            run.current = ""

    def _read_part(self, run: _Run, name: str, part: Callable[[], Reading]) -> None:
        try:
            with deadline.limit(PART_S):
                said = part()
        except Exception as error:
            self._say(name, error)
        else:
            with self._lock:
                run.found[name] = said
                self._told.discard(name)
        finally:
            with self._lock:
                if run.hangs:
                    self._hanging[name] -= 1

    def _say(self, name: str, error: Exception) -> None:
        with self._lock:
            known = name in self._told
            self._told.add(name)
        if not known:  # one line, not one per scrape
            log.warning("metrics: %s is left out: %s", name, error,
                        exc_info=None if isinstance(error, SlimError) else error)
