"""What every fuzzing of this folder does: changes bytes, and watches over a case."""

import faulthandler
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

CASE_SECONDS = 30  # a thousand times what one takes


def mutated(content: bytes, generator: np.random.Generator, tokens: Sequence[bytes]) -> bytes:
    """The content with a change or a few: bits, cuts, pieces copied, tokens of its format."""
    changed = bytearray(content)
    for _ in range(int(generator.geometric(0.7))):
        at, other = (int(generator.integers(len(changed) + 1)) for _ in range(2))
        start, end = sorted((at, other))
        token = tokens[int(generator.integers(len(tokens)))]
        match int(generator.integers(7)):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(generator.integers(8))
            case 1:
                del changed[start:end]
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = changed[start : start + 64]
            case 4:
                changed[at:at] = token
            case _:
                changed[at : at + len(token)] = token
    return bytes(changed)


def check_message(message: str) -> None:
    """An error's message is one line."""
    assert message
    assert "\n" not in message, repr(message)


@contextmanager
def guarded(kind: str, number: int) -> Iterator[None]:
    """Name the case that fails; one that hangs, in whatever library, ends its process."""
    faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{kind} case {number}: {error!r}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
