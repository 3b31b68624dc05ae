"""Checks numbers on the command line, and refuses those with which nothing could be measured."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)

ROUNDS = (1, 1000)
SECONDS = (0.1, 600.0)


def check(number: float, least: float, most: float) -> None:
    """Errors: ValueError if the number is outside the bounds, or is "nan"."""
    if not least <= number <= most:
        raise ValueError(f"must be from {least:g} to {most:g}, not {number}")


def within(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    """Return a `type` for argparse that takes numbers from `least` to `most`."""
    def read(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} is no number") from error
        try:
            check(number, least, most)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error
        return number

    return read


rounds = within(int, *ROUNDS)
seconds = within(float, *SECONDS)
