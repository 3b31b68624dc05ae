"""Keeps what one host had in the last hour: totals each ten seconds, in a bounded ring."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

EVERY_S: Final = 10.0
KEPT: Final = 360  # samples: an hour
PATHS: Final = ("host", "overlay", "local", "outside")

Picture = Mapping[str, Any]  # the answer of Slim.Picture
Sample = Mapping[str, Any]


class History:
    """The samples of the host that answers, oldest first.  For one thread."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def add(self, picture: Picture) -> bool:
        """Take a sample, unless the last one is too recent, or there are no rates yet.

        Return whether one was taken.
        """
        at = float(picture["At"])
        if not any(total["Host"] == picture["Host"] for total in picture["Totals"]):
            return False
        if self._samples and abs(at - self._samples[-1]["At"]) < EVERY_S * 0.9:
            return False
        self._samples.append(sample(picture))
        return True

    def all(self) -> list[Sample]:
        """Return the samples."""
        return list(self._samples)


def sample(picture: Picture) -> Sample:
    """Return what the host that answers tells of itself; others' shares are left out.

    Bytes: per second, by path, both ways.  On one host both ends are counted: what they have sent
    is all.
    """
    here = picture["Host"]
    own = [total for total in picture["Totals"] if total["Host"] == here]
    sent = dict.fromkeys(PATHS, 0.0)
    for total in own:
        if total["Path"] in sent:
            came = 0.0 if total["Path"] == "local" else float(total["BytesInPerSecond"])
            sent[total["Path"]] += float(total["BytesOutPerSecond"]) + came
    reasons = [reason for reason in picture["Reasons"] if reason["Host"] == here]
    return {"At": float(picture["At"]), "Bytes": sent,
            "Opened": sum(float(total["OpenedPerSecond"]) for total in own),
            "Fallbacks": _rate(reasons, "fallback"), "Drops": _rate(reasons, "drop")}


def _rate(reasons: Iterable[Mapping[str, Any]], kind: str) -> float:
    return sum(float(reason["PerSecond"]) for reason in reasons if reason["Kind"] == kind)
