"""`table.json`: what the records of a table are, and the random id that its other files carry."""

import json
from pathlib import Path
from typing import Any

import torch

from sharded_fc.tables.layout import COUNTERS, Layout

NAME = "table.json"
VERSION = 1

Facts = dict[str, Any]


def describe(layout: Layout, *, block_rows: int) -> Facts:
    """What a table has to agree with, as JSON."""
    return {
        "version": VERSION,
        "rows a block": block_rows,
        "first row": layout.start,
        "last row + 1": layout.stop,
        "seed": layout.seed,
        "random columns": layout.random_columns,
        "record": {
            name: [field.width, str(field.dtype).removeprefix("torch.")]
            for name, field in layout.fields.items()
        },
    }


def layout_of(facts: Facts) -> Layout:
    """The layout that was described."""
    record = {
        name: (width, getattr(torch, dtype)) for name, (width, dtype) in facts["record"].items()
    }
    embedding_dim, dtype = record["centre"]
    states = {name: v for name, v in record.items() if name not in ("centre", *COUNTERS)}
    wide = [of_state for width, of_state in states.values() if width > 1]
    return Layout(
        start=facts["first row"],
        stop=facts["last row + 1"],
        embedding_dim=embedding_dim,
        state_widths={name: width for name, (width, _) in states.items()},
        seed=facts["seed"],
        dtype=dtype,
        state_dtype=wide[0] if wide else dtype,
        initial_columns=facts["random columns"],
    )


def encode(facts: Facts, identity: bytes) -> bytes:
    """The content of the file."""
    return json.dumps({**facts, "id": identity.hex()}, indent=1).encode()


def read_description(folder: Path) -> tuple[Facts, bytes]:
    """The facts and the id of the table in `folder`.

    Raises:
        ValueError: the file is of something else, or of another version.
    """
    path = folder / NAME
    try:
        known = json.loads(path.read_text())
        identity, version = bytes.fromhex(known.pop("id")), known["version"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} describes no table; put back the table's own") from None
    if version != VERSION:
        raise ValueError(f"{path} is of version {version}; this facescale reads {VERSION}")
    return known, identity
