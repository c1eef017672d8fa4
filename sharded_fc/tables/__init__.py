"""Where a rank's rows are kept: on the device, in the host's memory, or in a file."""

from sharded_fc.tables.layout import Layout
from sharded_fc.tables.opening import open_table
from sharded_fc.tables.reading import read_table
from sharded_fc.tables.resident import ResidentTable
from sharded_fc.tables.stored import StoredTable
from sharded_fc.tables.table import Table, Taken

__all__ = ["Layout", "ResidentTable", "StoredTable", "Table", "Taken", "open_table", "read_table"]
