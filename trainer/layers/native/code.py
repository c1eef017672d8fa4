"""The layers' compiled code: where its sources are, and the library they were built into."""

from pathlib import Path

from sharded_fc.native_build import Native

_FOLDER = Path(__file__).parent
_SOURCES = ("drconv", "drconv_backward", "tvconv")

LAYERS = Native(
    name="layers",
    user="DRConv and TVConv run",
    sources=tuple(_FOLDER / f"{name}.cpp" for name in _SOURCES),
    headers=(_FOLDER / "vectors.h", _FOLDER / "drconv_parts.h"),
)

library = LAYERS.library
version = LAYERS.version
