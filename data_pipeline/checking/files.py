"""Single files of a dataset: compared with the index, or read as the table that they should be."""

import stat
from pathlib import Path

import pyarrow
from pyarrow import parquet

from data_pipeline.checking.findings import Findings
from data_pipeline.errors import DataError
from data_pipeline.index_file import File, sha256_of


def compare_file(findings: Findings, path: Path, file: File) -> bool:
    """Whether a file is what the index says of it; if not, that is noted."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            findings.add("unreadable_file", path.name, detail="no regular file")
        elif info.st_size != file.bytes:
            detail = f"{info.st_size} bytes, not {file.bytes}"
            findings.add("size_changed", path.name, detail=detail)
        elif sha256_of(path) != file.sha256:
            findings.add("content_changed", path.name)
        else:
            return True
    except FileNotFoundError:
        findings.add("missing_file", path.name)
    except OSError as error:
        findings.add("unreadable_file", path.name, detail=error.strerror or "")
    return False


def read_identities(path: Path) -> pyarrow.Table:
    """Label, name and number of images of every identity; `DataError` where that is no such table.

    Rows come in the order of their labels.
    """
    schema = pyarrow.schema(
        [("label", pyarrow.int64()), ("name", pyarrow.string()), ("images", pyarrow.int64())]
    )
    try:
        table = parquet.read_table(path, columns=schema.names).select(schema.names).cast(schema)
    except (KeyError, OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(str(error).strip().partition("\n")[0]) from error
    if any(column.null_count for column in table.columns):
        raise DataError("it has empty places")
    return table.sort_by("label")
