"""What pictures of layers share: a page of rows, each with its words and strips on the left.

Sizes are pixels of the page, for print at the width of a column of text.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

SIDE = 128  # of a tile
GAP = 8
WORDS = 232  # width of what is left of the tiles
STRIP = 12  # height of a strip of colours
TITLE, SMALL = 15, 12  # of letters
LINE = 17  # from one line of words to the next
INK, SOFT, PAPER = (24, 24, 27), (95, 95, 105), (255, 255, 255)
OPACITY = 0.5  # of colours over a face
GREY_BITS = 5  # of such a face: half the bytes, and no difference to the eye
# Viridis at nine places: even steps in lightness, legible to all.
VIRIDIS = np.array(
    [
        *[(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)],
        *[(39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)],
    ]
)


font = cache(ImageFont.load_default)
"""Pillow's own, in a size."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Squares of `SIDE` in a row, and what is said of them."""

    title: str = ""
    said: Sequence["str | Image.Image"] = ()
    """Lines of words, and strips."""
    tiles: Sequence[Image.Image]
    headings: Sequence[str] = ()
    """Words over the tiles."""


def draw(rows: Sequence[Row]) -> Image.Image:
    """The page."""
    width = GAP + WORDS + max(len(row.tiles) for row in rows) * (SIDE + GAP)
    height = GAP + sum(_height(row) for row in rows)
    page = Image.new("RGB", (width, height), PAPER)
    top = GAP
    for row in rows:
        _draw_row(page, row, top)
        top += _height(row)
    return page


def stack(pages: Sequence[Image.Image]) -> Image.Image:
    """One page with the others under one another."""
    size = max(page.width for page in pages), sum(page.height for page in pages)
    whole, top = Image.new("RGB", size, PAPER), 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return whole


def titles(names: Sequence[str]) -> list[str]:
    """For layers by the names of the modules: stage and block, or the name where two share these.

    Backbones name their parts alike: `stage2.0` is the first block of stage 2.
    """
    short = [_short(name) for name in names]
    return [s if short.count(s) == 1 else n for s, n in zip(short, names, strict=True)]


def face(pixels: Float[Tensor, "3 height width"]) -> Image.Image:
    """A tile of a face as the network is given it, from -1 to 1."""
    levels = (pixels * 127.5 + 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
    return Image.fromarray(levels.cpu().numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def map_tile(colours: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    """A tile of a map with its positions' colours."""
    return Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def over(tile: Image.Image, under: Image.Image) -> Image.Image:
    """Colours over a face in grey, from black to white."""
    grey = ImageOps.posterize(ImageOps.autocontrast(under.convert("L")), GREY_BITS)
    return Image.blend(grey.convert("RGB"), tile, OPACITY)


def viridis(share: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """The colours of numbers from 0, dark, to 1."""
    places = np.linspace(0, 1, len(VIRIDIS))
    channels = [np.interp(share, places, VIRIDIS[:, c]) for c in range(3)]
    return np.stack(channels, 2).round().astype(np.uint8)


def scale_strip(lowest: float, highest: float) -> Image.Image:
    """Viridis from its lowest to its highest number, which stand beside it."""

    def ends(draw: ImageDraw.ImageDraw) -> None:
        draw.text((0, STRIP + 1), f"{lowest:.3g}", SOFT, font(SMALL))
        draw.text((WORDS - 2 * GAP, STRIP + 1), f"{highest:.3g}", SOFT, font(SMALL), anchor="ra")

    colours = viridis(np.linspace(0, 1, WORDS - 2 * GAP)[None])
    return _strip(Image.fromarray(colours), ends)


def share_strip(shares: Iterable[float], colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A bar of parts as wide as their shares, colours in turn; percents where there is room."""
    width = WORDS - 2 * GAP
    ends = np.cumsum([0.0, *shares]) * width
    bar = Image.new("RGB", (width, 1), PAPER)
    words = []
    for part, (start, stop) in enumerate(pairwise(ends.tolist())):
        bar.paste(colours[part % len(colours)], (round(start), 0, round(stop), 1))
        words.append(((start + stop) / 2, stop - start, f"{(stop - start) / width:.0%}"))

    def percents(draw: ImageDraw.ImageDraw) -> None:
        for middle, room, text in words:
            if draw.textlength(text, font(SMALL)) < room:
                draw.text((middle, STRIP + 1), text, SOFT, font(SMALL), anchor="ma")

    return _strip(bar, percents)


def _strip(bar: Image.Image, write: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    """A bar of one line of pixels, `STRIP` high, and what is written under it."""
    strip = Image.new("RGB", (bar.width, STRIP + LINE), PAPER)
    strip.paste(bar.resize((bar.width, STRIP), Image.Resampling.NEAREST))
    write(ImageDraw.Draw(strip))
    return strip


def _short(name: str) -> str:
    stage, *rest = name.split(".")
    if stage.startswith("stage") and stage[5:].isdigit() and rest and rest[0].isdigit():
        return f"stage {stage[5:]}, block {int(rest[0]) + 1}"
    return name or "the layer"


def _height(row: Row) -> int:
    return SIDE + GAP + (LINE if row.headings else 0)


def _draw_row(page: Image.Image, row: Row, top: int) -> None:
    draw = ImageDraw.Draw(page)
    lefts = [GAP + WORDS + place * (SIDE + GAP) for place in range(len(row.tiles))]
    for left, heading in zip(lefts, row.headings, strict=False):
        draw.text((left + SIDE / 2, top), heading, SOFT, font(SMALL), anchor="ma")
    top += LINE if row.headings else 0
    for left, tile in zip(lefts, row.tiles, strict=True):
        page.paste(tile, (left, top))
    draw.text((GAP, top), row.title, INK, font(TITLE))
    at = top + LINE + 4
    for said in row.said:
        if isinstance(said, str):
            draw.text((GAP, at), said, SOFT, font(SMALL))
            at += LINE
        else:
            page.paste(said, (GAP, at))
            at += said.height + 3
