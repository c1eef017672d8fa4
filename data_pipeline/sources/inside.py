"""Reading files that a list names, and never one outside of the list's root."""

import os
import re
import stat
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.image_header import MAX_IMAGE_BYTES

LEADS_OUT = r"^/|(^|/)\.\.(/|$)|\x00|^[./]*$"
"""What a plain relative path never holds: a root, `..`, the end of a C string; and no name at all.

A regular expression as both Python's `re` and RE2 read it.
"""


def read_inside(root: Path, name: str) -> bytes:
    """The bytes of the regular file `name` under `root`, whose links must stay there.

    Raises:
        DataError: the name or a link leads out, or it is no regular file of a sensible size.
        OSError: the file cannot be read.
    """
    path = root / name
    if re.search(LEADS_OUT, name) or not path.resolve().is_relative_to(root):
        raise DataError("leads out of the list's root")
    with path.open("rb") as stream:
        info = os.fstat(stream.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise DataError("not a regular file")
        if info.st_size > MAX_IMAGE_BYTES:
            raise DataError(f"{info.st_size} bytes; the limit is {MAX_IMAGE_BYTES}")
        return stream.read(MAX_IMAGE_BYTES + 1)
