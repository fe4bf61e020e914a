"""Answers to a word that is not known: the nearest known ones."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean …?' for a mistyped word, or the list of the known ones."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"


def choice(name: str, value: str, known: Iterable[str], error: type[Exception] = ValueError) -> str:
    """The value if it is one of the known ones.

    Args:
        name: of the option, as the user writes it ("optim.name").
        value: what the user chose.
        known: what there is to choose from.
        error: the class of the exception for any other value.

    Raises:
        `error`, whose message names the nearest known values.

    >>> choice("optim.name", "sgdd", ["sgd", "adamw"])
    Traceback (most recent call last):
    ValueError: optim.name='sgdd' is unknown; did you mean sgd?
    """
    known = list(known)
    if value not in known:
        raise error(f"{name}={value!r} is unknown; {nearest(value, known)}")
    return value
