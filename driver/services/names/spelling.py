"""Decides which texts can be names, and how they are compared.

Docker accepts more as a container's name or alias than can be asked for.
"""

from __future__ import annotations

from typing import Final

NAME_MAX: Final = 253  # characters (RFC 1035, 2.3.4, as text without the last dot)
LABEL_MAX: Final = 63  # bytes between two dots


def spelled(text: str) -> str:
    """Return the name in the form in which names are compared; empty: it cannot be asked for.

    DNS does not tell upper case from lower (RFC 4343), and a final dot makes no difference.
    """
    name = text.strip().removesuffix(".").lower()
    possible = (0 < len(name) <= NAME_MAX and text.isascii() and name.isprintable()
                and " " not in name
                and all(0 < len(label) <= LABEL_MAX for label in name.split(".")))
    return name if possible else ""
