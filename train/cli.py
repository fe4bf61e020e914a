"""What the commands have in common."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from train.errors import UserError

PIXELS = 8192  # the longest side of an image that a command takes
BATCH = 2**20


class Parser(argparse.ArgumentParser):
    """A command's parser: its module's docstring is the description, and nothing is abbreviated."""

    def __init__(self, prog: str | None = None, doc: str | None = None, **options: Any):
        defaults: dict[str, Any] = {
            "prog": prog,
            "description": doc,
            "allow_abbrev": False,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(**defaults | options)


def printable(text: str) -> str:
    """Text that UTF-8 can encode: with escapes for the bytes of a file's name that is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def bar(share: float, room: int) -> str:
    """A bar of blocks, in eighths of one; a share of 1 fills the room."""
    eighths = round(share * room * 8) if math.isfinite(share) else 0
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


# Types of arguments. The option's name is for the sentence of a UserError.


def whole(option: str, low: int = 1, high: int | None = None) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            raise UserError(f"{option}={text} must be a whole number {bounds}")
        return number

    return convert


def share(option: str) -> Callable[[str], float]:
    """A number above 0, at most 1."""

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            raise UserError(f"{option}={text} must be a number above 0 and at most 1")
        return number

    return convert
