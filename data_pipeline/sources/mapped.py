"""Long tables kept on disk: written once, then mapped, so that their rows cost no memory."""

import tempfile
from collections.abc import Iterable

import pyarrow
from pyarrow import ipc


def mapped_table(batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema) -> pyarrow.Table:
    """A table of all batches in a temporary file that is gone when the table is.

    The system may drop its pages whenever memory is short. The folder for temporary files must
    have room for it.
    """
    with tempfile.NamedTemporaryFile(prefix="listing-") as file:
        with ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        mapped = pyarrow.memory_map(file.name)  # stays mapped without its name
    return ipc.open_file(mapped).read_all()
