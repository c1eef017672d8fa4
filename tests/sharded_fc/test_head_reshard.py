"""A step on W ranks, saved, loaded on W' ranks and continued equals never having stopped."""

import pytest
import torch

from sharded_fc.margins import ArcFace
from tests.sharded_fc.on_ranks import (
    FLOAT64,
    collect,
    draw_batches,
    gathered,
    make_head,
    recut,
    train,
)

OPTIONS = {
    **FLOAT64,
    "num_classes": 11,
    "embedding_dim": 4,
    "margin": ArcFace(0.5),
    "chunk_classes": 3,
}
COUNTS = {1: [7], 2: [3, 4], 3: [0, 5, 2], 4: [2, 1, 1, 3]}


@pytest.mark.parametrize("old", [1, 2, 3, 4])
@pytest.mark.parametrize("new", [1, 2, 3, 4])
def test_continuing_on_another_world_size_equals_never_having_resharded(ranks, old, new):
    batches = draw_batches([7], num_classes=11, dim=4, steps=4)
    before = [recut(batch, COUNTS[old]) for batch in batches]
    after = [recut(batch, COUNTS[new]) for batch in batches]
    whole = ranks(old).run(train, OPTIONS, before)
    first = ranks(old).run(train, OPTIONS, before[:2])
    blocks = [block for result in reversed(first) for block in result["blocks"]]
    second = ranks(new).run(train, OPTIONS, after[2:], blocks, first[0]["state"])
    assert second[0]["state"] == whole[0]["state"]
    for name in ("centre", "momentum"):
        # What was loaded is what was saved, to the bit.
        saved = gathered(first, name)
        assert torch.equal(torch.cat([result["initial"][name] for result in second]), saved)
        # The sums over ranks are added in another order: assert_close's float64 defaults.
        torch.testing.assert_close(gathered(second, name), gathered(whole, name))
        if old == new:
            assert torch.equal(gathered(second, name), gathered(whole, name))
    torch.testing.assert_close(second[0]["loss"], whole[0]["loss"][2:])


@pytest.mark.parametrize("chunk", [1, 2, 5, 11, 100])
def test_initial_rows_are_the_same_bits_at_any_world_and_chunk_size(ranks, chunk):
    options = {**OPTIONS, "dtype": torch.float32, "compute_dtype": torch.float32, "seed": 3}
    expected = collect(make_head(options))["centre"]
    for world in (1, 2, 3, 4):
        results = ranks(world).run(train, {**options, "chunk_classes": chunk}, [])
        assert torch.equal(gathered(results, "centre"), expected)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 10, 11, 64, None])
def test_the_chunk_size_changes_only_the_order_of_additions(chunk):
    batches = draw_batches([6], num_classes=11, dim=4, steps=3)
    expected = train({**OPTIONS, "chunk_classes": 11}, batches)
    result = train({**OPTIONS, "chunk_classes": chunk}, batches)
    torch.testing.assert_close(result["loss"], expected["loss"])
    torch.testing.assert_close(result["rows"], expected["rows"])
    torch.testing.assert_close(result["gradient"], expected["gradient"])


def saved():
    head = make_head(OPTIONS)
    return head, list(head.rows(block=4)), head.state()


def test_blocks_are_copies_with_their_first_global_class():
    head, blocks, _ = saved()
    assert [(first, len(tensors["centre"])) for first, tensors in blocks] == [
        (0, 4),
        (4, 4),
        (8, 3),
    ]
    assert head.partition == range(11)
    blocks[0][1]["centre"].fill_(0.0)
    assert collect(head)["centre"].all()


def test_a_gap_is_refused_and_named():
    head, blocks, state = saved()
    with pytest.raises(ValueError, match=r"no block holds rows \[4, 8\); pass every block"):
        head.load([blocks[0], blocks[2]], state)


def test_blocks_without_the_optimizers_rows_are_refused():
    head, blocks, state = saved()
    without = [(first, {"centre": tensors["centre"]}) for first, tensors in blocks]
    with pytest.raises(ValueError, match="the block at row 0 has no momentum"):
        head.load(without, state)


def test_blocks_of_another_width_are_refused():
    head, blocks, state = saved()
    narrow = [(first, {n: t[:, :2] for n, t in tensors.items()}) for first, tensors in blocks]
    with pytest.raises(ValueError, match=r"centre of shape .* not \(4, 4\)"):
        head.load(narrow, state)


def test_a_head_of_another_size_is_refused():
    head, blocks, state = saved()
    with pytest.raises(ValueError, match="the saved head has num_classes 12, this one 11"):
        head.load(blocks, {**state, "num_classes": 12})


def test_float32_rows_load_into_a_float64_head_unchanged_in_value():
    narrow = make_head({**OPTIONS, "dtype": torch.float32, "compute_dtype": torch.float32})
    wide = make_head(OPTIONS)
    wide.load(narrow.rows(), narrow.state())
    assert torch.equal(collect(wide)["centre"], collect(narrow)["centre"].double())
