"""What the commands have in common."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from cnnjax.spelling import nearest
from train.errors import UserError

PIXELS = 8192  # the longest side of an image that a command takes
BATCH = 2**20
JOBS = "how many large networks to train at a time; more than one only where they share CPUs"


class Parser(argparse.ArgumentParser):
    """A command's parser: its module's docstring is the description, and nothing is abbreviated.

    It refuses options that would have no effect beside others: see `no_effect`.
    """

    def __init__(self, prog: str | None = None, doc: str | None = None, **options: Any):
        defaults: dict[str, Any] = {
            "prog": prog,
            "description": doc,
            "allow_abbrev": False,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(**defaults | options)
        self._rules: list[tuple[str, Callable, tuple[str, ...]]] = []

    def no_effect(
        self, where: str, holds: Callable[[argparse.Namespace], Any], *options: str
    ) -> None:
        """Declares that options have no effect where `holds(args)`; `where` says it in words."""
        self._rules.append((where, holds, options))

    def all_but(self, *options: str) -> tuple[str, ...]:
        """The other options, of those that are declared so far."""
        known = [action.option_strings[0] for action in self._actions if action.option_strings]
        return tuple(option for option in known if option not in (*options, "-h"))

    def error(self, message: str):
        """A sentence with the nearest option, in place of argparse's usage of many lines.

        Raises:
            UserError: always.
        """
        _, _, unknown = message.partition("unrecognized arguments: ")
        unknown = unknown.partition("=")[0].partition(" ")[0]
        if unknown.startswith("-"):
            known = [name for name in self._option_string_actions if name.startswith("--")]
            hint = nearest(unknown, known)
            message = f"unknown argument {unknown!r}"
            message += f"; {hint}" if hint.startswith("did you mean") else ""
        raise UserError(f"{message} ({self.prog} --help lists the options)")

    def parse_known_args(self, args=None, namespace=None):
        return self._checked(super().parse_known_args(args, namespace))

    def parse_known_intermixed_args(self, args=None, namespace=None):
        return self._checked(super().parse_known_intermixed_args(args, namespace))

    def _checked(self, parsed: tuple) -> tuple:
        """Raises UserError for options that differ from their defaults and have no effect."""
        args, _ = parsed
        given = [
            f"--{name.replace('_', '-')}"
            for name, value in vars(args).items()
            if value != self.get_default(name)
        ]
        for where, holds, options in self._rules:
            useless = [option for option in given if option in options]
            if useless and holds(args):
                verb = "has" if len(useless) == 1 else "have"
                raise UserError(f"{', '.join(useless)} {verb} no effect {where}")
        return parsed


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
