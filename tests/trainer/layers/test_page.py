"""What pictures of layers are made of."""

import numpy as np
from PIL import Image

from trainer.layers import page


def tile() -> Image.Image:
    return Image.new("RGB", (page.SIDE, page.SIDE), (9, 9, 9))


def test_backbones_layers_are_called_by_stage_and_block():
    assert page.titles(["stage2.0.body.0.0", "stage3.11.body.1.0"]) == [
        "stage 2, block 1",
        "stage 3, block 12",
    ]


def test_two_layers_of_a_block_keep_their_own_names_and_so_do_others():
    names = ["stage2.0.a", "stage2.0.b", "stage2.1.a", "stem.0"]
    assert page.titles(names) == ["stage2.0.a", "stage2.0.b", "stage 2, block 2", "stem.0"]
    assert page.titles([""]) == ["the layer"]


def test_a_page_is_as_wide_as_its_longest_row():
    rows = [page.Row(tiles=[tile()] * 3), page.Row(tiles=[tile()], headings=["one"])]
    drawn = page.draw(rows)
    assert drawn.width == page.GAP + page.WORDS + 3 * (page.SIDE + page.GAP)
    assert drawn.height == page.GAP + 2 * (page.SIDE + page.GAP) + page.LINE
    assert page.stack([drawn, page.draw(rows[:1])]).size == (
        drawn.width,
        drawn.height + page.GAP + page.SIDE + page.GAP,
    )


def test_the_colours_of_numbers_are_those_of_the_scale_beside_them():
    colours = page.viridis(np.array([[0.0, 1.0]]))
    strip = np.asarray(page.scale_strip(-1.0, 2.0))
    assert (strip[0, 0] == colours[0, 0]).all()
    assert (strip[0, -1] == colours[0, 1]).all()
