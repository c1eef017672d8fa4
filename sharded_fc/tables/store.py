"""Where a stored table's records lie, and how they go back to a checkpoint."""

from typing import Protocol, runtime_checkable

from sharded_fc.tables.layout import Records
from sharded_fc.tables.runs import Numbers


@runtime_checkable
class Store(Protocol):
    """Records by row number, counted within the partition; `rows` ascend everywhere."""

    @property
    def checkpoints(self) -> list[int]:
        """The steps that `restore` can go back to, ascending."""
        ...

    @property
    def journal_bytes(self) -> int:
        """What the checkpoints take on the disk beside one copy of the table."""
        ...

    def expect(self, rows: Numbers) -> None:
        """Bring rows that will be read soon nearer, without waiting for them."""

    def protect(self, rows: Numbers) -> None:
        """Have all on the disk that rows need before they may change, and wait for it.

        Raises:
            OSError: no room; nothing has changed.
        """

    def read(self, rows: Numbers, out: Records) -> None:
        """Copy the records of valid rows."""

    def write(self, rows: Numbers, records: Records) -> None:
        """Replace the records of rows; what they were stays until the last checkpoint goes.

        Raises:
            OSError: no room; what was written in part is undone by `restore`.
        """

    def checkpoint(self, step: int) -> None:
        """Make the present state one that `restore(step)` returns to. All earlier ones stay."""

    def restore(self, step: int) -> None:
        """Be again what the table was at checkpoint `step`; later ones are gone.

        Stopped half-way, it can be done again, for this step or any later one that still exists.
        """

    def forget(self, *, before: int) -> None:
        """Give back what checkpoints before step `before` take. The newest one stays."""

    def close(self) -> None:
        """Give everything back; what was not checkpointed is lost."""
