"""The head's compiled code: where its sources are, and the library they were built into."""

from pathlib import Path

from sharded_fc.native_build import Native

_FOLDER = Path(__file__).parent

HEAD = Native(
    name="head",
    user="the head runs",
    sources=tuple(
        _FOLDER / f"native_{name}.cpp" for name in ("rows", "tile", "draw", "near", "products")
    ),
    headers=(_FOLDER / "native_types.h",),
)

library = HEAD.library
version = HEAD.version
