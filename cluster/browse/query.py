"""What a request asks of a page, read from its query with every value checked."""

from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import parse_qsl

MAX_FIELDS = 10
MAX_TEXT = 100
MAX_NUMBER = (1 << 63) - 1

Word = TypeVar("Word", bound=str)


class BadQueryError(ValueError):
    """Says what a value must be."""


class Query:
    """The fields of a query by name; an empty one counts as not given."""

    def __init__(self, text: str) -> None:
        try:
            pairs = parse_qsl(text, max_num_fields=MAX_FIELDS, errors="strict")
        except ValueError:
            raise BadQueryError("The address has too many fields, or is no text.") from None
        self._fields = dict(pairs)
        if len(self._fields) != len(pairs):
            raise BadQueryError("The address has a field twice.")

    def number(self, name: str, default: int, *, least: int = 0, most: int = MAX_NUMBER) -> int:
        """A whole number within bounds."""
        text = self._fields.get(name, str(default)).strip()
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_NUMBER))):
            raise BadQueryError(f"The {name} must be a whole number.")
        if not least <= int(text) <= most:
            raise BadQueryError(f"The {name} must be from {least:,} to {most:,}.")
        return int(text)

    def maybe_number(self, name: str) -> int | None:
        """A whole number, or `None` where it is not given."""
        return self.number(name, 0) if name in self._fields else None

    def choice(self, name: str, options: Sequence[Word], default: Word) -> Word:
        """One of some words."""
        given = self._fields.get(name, default)
        for word in options:
            if word == given:
                return word
        raise BadQueryError(f"The {name} must be one of: {', '.join(options)}.")

    def text(self, name: str) -> str:
        """Any words, without spaces at their ends."""
        words = self._fields.get(name, "").strip()
        if len(words) > MAX_TEXT:
            raise BadQueryError(f"The {name} must have at most {MAX_TEXT} letters.")
        return words
