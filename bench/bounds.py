"""Numbers of a command line that are refused at once if nothing could be measured with them."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def within(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    """Return a `type` for argparse: numbers from `least` to `most`; others end it with exit 2."""
    def read(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} is no number") from error
        if not least <= number <= most:  # nor is it "nan"
            raise ArgumentTypeError(f"must be from {least:g} to {most:g}, not {text}")
        return number

    return read


rounds = within(int, 1, 1000)
seconds = within(float, 0.1, 600.0)
