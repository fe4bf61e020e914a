"""Messages about an unknown word that name the nearest known ones."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """What to say of an unknown word: "did you mean …?", or all known words if none is similar."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"


def choice(name: str, value: str, known: Iterable[str], error: type[Exception] = ValueError) -> str:
    """Returns the value if it is a known one.

    Args:
        name: the option's name, as the user writes it ("optim.name").
        value: the user's choice.
        known: the valid choices.
        error: the class of the exception for any other value.

    Raises:
        error: the value is unknown; the message names the nearest known ones.

    >>> choice("optim.name", "sgdd", ["sgd", "adamw"])
    Traceback (most recent call last):
    ValueError: optim.name='sgdd' is unknown; did you mean sgd?
    """
    known = list(known)
    if value not in known:
        raise error(f"{name}={value!r} is unknown; {nearest(value, known)}")
    return value
