"""Where images to pack come from: anything that lists names cheaply and reads in any order."""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable  # by the shape checks of the tests
class Source(Protocol):
    """Images of identities, by name.

    Packing lists first and then reads in random order, possibly from other processes: a source
    must survive pickling, and `read` must depend on nothing but its arguments.
    """

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(identity, image) of every image, in any order; no pair comes twice."""
        ...

    def read(self, identity: str, image: str) -> bytes:
        """The encoded image; an `OSError` or `DataError` makes it an unreadable one."""
        ...

    def counts(self) -> Mapping[str, int]:
        """What listing passed over, by reason, e.g. {"ignored_files": 3}; kept in `index.json`."""
        ...


@runtime_checkable
class LargeSource(Source, Protocol):
    """A source whose listing is too much to send to every worker process."""

    def without_listing(self) -> Source:
        """The same source for `read` alone; nobody iterates over it or asks for its counts."""
        ...


def for_workers(source: Source) -> Source:
    """What worker processes get of a source."""
    return source.without_listing() if isinstance(source, LargeSource) else source
