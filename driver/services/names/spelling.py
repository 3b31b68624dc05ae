"""Decides which texts can be names, and how they are compared.

Docker accepts more as a container's name or alias than can be asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NAME_MAX: Final = 253  # characters (RFC 1035, 2.3.4, as text without the last dot)
LABEL_MAX: Final = 63  # bytes between two dots
NAMES_MAX: Final = 64  # of one endpoint; a record must stay small
LABELS_MAX: Final = 30  # what slim's server reads has some more, with a network's name
# What DNS software writes with a backslash before it, so that nobody asks for it as it is.
_ESCAPED: Final = frozenset('"();@$\\')


def spelled(text: str) -> str:
    """Return the name in the form in which names are compared; empty: it cannot be asked for.

    DNS does not tell upper case from lower (RFC 4343), and a final dot makes no difference.
    """
    name = text.strip().removesuffix(".").lower()
    labels = name.split(".")
    possible = (0 < len(name) <= NAME_MAX and text.isascii() and name.isprintable()
                and " " not in name and _ESCAPED.isdisjoint(name) and len(labels) <= LABELS_MAX
                and all(0 < len(label) <= LABEL_MAX for label in labels))
    return name if possible else ""


def usable(names: Iterable[str]) -> tuple[str, ...]:
    """Return those that can be asked for, each once, in order; NAMES_MAX of them at most."""
    return tuple(dict.fromkeys(name for text in names if (name := spelled(text))))[:NAMES_MAX]
