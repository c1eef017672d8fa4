"""Numbers as people say them: 100m, 6.4 GB, 12.3 ms, 3.2 days; always with their unit."""

import re

from trainer.errors import RunFileError

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SECONDS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def count(text: str, *, what: str) -> int:
    """A whole number of 1 or more, written 250000, 250_000, 250k, 2.5m or 1b.

    Raises:
        RunFileError: it is no such number; `what` says where it stands.
    """
    match = re.fullmatch(r"(\d[\d_,]*)(\.\d+)?\s*([kmb]?)", text.strip().lower())
    if match is None:
        raise RunFileError(f"{what} {text!r}; write a number such as 250000, 250k, 2.5m or 1b")
    whole, fraction, suffix = match.groups()
    number = round(float(re.sub("[_,]", "", whole) + (fraction or "")) * _SUFFIXES[suffix])
    if number < 1:
        raise RunFileError(f"{what} {text!r}; use 1 or more")
    return number


def size(number: float | int) -> str:
    """Bytes."""
    for unit, name in _BYTES:
        if number >= unit:
            return f"{_three(number / unit)} {name}"
    return f"{number:.0f} B"


def duration(seconds: float | int) -> str:
    """Seconds, in the largest unit that leaves one or more; days from 2 on."""
    for unit, name in _SECONDS:
        if seconds >= unit * (2 if name == "days" else 1):
            return f"{_three(seconds / unit)} {name}"
    return "0 s" if seconds <= 0 else f"{_three(seconds / 1e-6)} us"


def share(part: float) -> str:
    """A share, in percent."""
    return f"{_three(100 * part)} %"


def _three(number: float) -> str:
    """Three digits, and all those before the point."""
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
