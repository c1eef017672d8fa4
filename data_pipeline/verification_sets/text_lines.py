"""Reading the small text files that verification sets are published as."""

from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv

from data_pipeline.errors import DataError


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text without space around it) of every line that is not blank.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or holds nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from None
    lines = [(i, line.strip()) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; copy it again")
    return lines


def read_columns(
    path: Path, columns: dict[str, pyarrow.DataType], *, delimiter: str = " ", skip_rows: int = 0
) -> dict[str, np.ndarray]:
    """The first columns of a long table, each of one type; further ones are passed over.

    Raises:
        DataError: the file cannot be read, or a value is not of its column's type.
    """
    try:
        with path.open("rb") as stream:
            for _ in range(skip_rows):
                stream.readline()
            width = len(stream.readline().decode(errors="replace").split(delimiter))
        names = [*columns, *map(str, range(len(columns), width))]
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=names, skip_rows=skip_rows),
            parse_options=csv.ParseOptions(delimiter=delimiter, quote_char=False),
            convert_options=csv.ConvertOptions(
                include_columns=list(columns), column_types=columns, null_values=[]
            ),
        )
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except pyarrow.ArrowException as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path} is not the table it should be: {reason}") from None
    return {name: table[name].to_numpy() for name in columns}
