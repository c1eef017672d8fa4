"""The layers' compiled code: where its sources are, and the library they were built into."""

from pathlib import Path

from sharded_fc.native_build import Native

_FOLDER = Path(__file__).parent
_SOURCES = (
    *("drconv", "drconv_backward", "drconv_scores", "drconv_filters", "drconv_depthwise"),
    "tvconv",
)
_HEADERS = ("vectors", "products", "drconv_parts", "drconv_filters", "drconv_gradients")

LAYERS = Native(
    name="layers",
    user="DRConv and TVConv run",
    sources=tuple(_FOLDER / f"{name}.cpp" for name in _SOURCES),
    headers=tuple(_FOLDER / f"{name}.h" for name in _HEADERS),
)

library = LAYERS.library
version = LAYERS.version
