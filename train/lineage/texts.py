"""Texts in the languages of the page."""

from typing import NamedTuple

LANGUAGES = ("en", "es")


class Text(NamedTuple):
    """The same text in each language."""

    en: str
    es: str

    def __call__(self, lang: str) -> str:
        return getattr(self, lang)


def both(text: str) -> Text:
    """A text that is the same in all languages."""
    return Text(text, text)
