"""Saved rows of old identities become rows of new ones, as a stream."""

import weakref
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, normalize

from sharded_fc.identities import PARTING, edited, mean_embeddings
from sharded_fc.identity_map import IdentityMap
from sharded_fc.initial import initial_rows
from sharded_fc.storage import Rows

DIM = 6
WIDTHS = {"momentum": DIM, "square": 1}
SEED = 11


def draw_rows(num_rows, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(num_rows, width, generator=generator, dtype=torch.float64).to(dtype)
        for name, width in {"centre": DIM, **WIDTHS}.items()
    }


def cut(rows, places=(), order=None):
    """Blocks of `rows`, cut at `places`, in an order of its own."""
    num_rows = len(rows["centre"])
    edges = sorted({0, *(p for p in places if p < num_rows), num_rows})
    blocks = [(a, {name: tensor[a:b] for name, tensor in rows.items()}) for a, b in pairwise(edges)]
    return blocks if order is None else sorted(blocks, key=lambda block: hash((order, block[0])))


def table(blocks, num_rows):
    """All rows that blocks hold, every row exactly once."""
    found = torch.zeros(num_rows, dtype=torch.int64)
    tensors = {}
    for first, block in blocks:
        here = slice(first, first + len(block["centre"]))
        found[here] += 1
        for name, tensor in block.items():
            whole = tensors.setdefault(name, tensor.new_empty(num_rows, tensor.shape[1]))
            whole[here] = tensor
    assert (found == 1).all()
    return tensors


def edit(rows, sources, *, sub_centres=1, places=(), order=None, **options):
    num_old = len(rows["centre"]) // sub_centres
    identities = IdentityMap.of(sources, num_old=num_old)
    blocks = edited(
        lambda: cut(rows, places, order),
        identities,
        embedding_dim=DIM,
        seed=SEED,
        sub_centres=sub_centres,
        **options,
    )
    return table(blocks, len(sources) * sub_centres)


@st.composite
def edits(draw):
    num_old, sub_centres = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    source = st.lists(st.integers(0, num_old - 1), unique=True, max_size=3).map(tuple)
    return num_old, sub_centres, draw(st.lists(source, min_size=1, max_size=12))


@given(edits(), st.lists(st.integers(1, 26), max_size=6), st.integers(0, 5), st.integers(1, 40))
def test_no_cut_order_or_window_of_the_blocks_changes_a_bit(drawn, places, order, window):
    num_old, sub_centres, sources = drawn
    rows = draw_rows(num_old * sub_centres)
    expected = edit(rows, sources, sub_centres=sub_centres)
    result = edit(
        rows, sources, sub_centres=sub_centres, places=places, order=order, window_rows=window
    )
    for name, tensor in expected.items():
        assert torch.equal(result[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kept_classes_have_their_bits_and_dropped_ones_are_gone(dtype):
    rows = draw_rows(7, dtype=dtype)
    result = edit(rows, [(6,), (0,), (1,), (2,), (4,)], places=[2, 3])
    for name, tensor in rows.items():
        assert torch.equal(result[name], tensor[[6, 0, 1, 2, 4]])


def test_a_merged_class_has_the_sum_of_unit_centres_and_their_mean_length():
    rows = draw_rows(5, dtype=torch.float64)
    result = edit(rows, [(0, 2, 4), (1,), (3,)], places=[1, 3])
    sources = rows["centre"][[0, 2, 4]]
    expected = normalize(normalize(sources, dim=1).sum(0), dim=0) * sources.norm(dim=1).mean()
    # The same float64 arithmetic in another order: assert_close's defaults.
    torch.testing.assert_close(result["centre"][0], expected)
    for name in WIDTHS:
        torch.testing.assert_close(result[name][0], rows[name][[0, 2, 4]].mean(0))


def test_wins_of_merged_classes_add_up_and_a_new_identity_has_none():
    rows = {**draw_rows(4), "wins": torch.tensor([[1], [20], [300], [4000]])}
    counts = torch.tensor([1, 2, 3, 4])
    result = edit(rows, [(0, 2, 3), (1,), ()], image_counts=counts)
    assert result["wins"].dtype == torch.int64
    assert result["wins"].tolist() == [[4301], [20], [0]]


def test_merged_classes_weigh_as_many_images_as_they_have_and_at_least_one():
    rows = draw_rows(3, dtype=torch.float64)
    counts = torch.tensor([9, 0, 5])
    result = edit(rows, [(0, 1), (2,)], image_counts=counts)
    share = torch.tensor([0.9, 0.1], dtype=torch.float64).unsqueeze(1)
    unit, length = normalize(rows["centre"][:2], dim=1), rows["centre"][:2].norm(dim=1)
    expected = normalize((share * unit).sum(0), dim=0) * (share.squeeze(1) * length).sum()
    torch.testing.assert_close(result["centre"][0], expected)
    torch.testing.assert_close(result["square"][0], (share * rows["square"][:2]).sum(0))


def test_merged_sub_centres_join_those_they_are_most_like():
    rows = draw_rows(6, dtype=torch.float64)
    rows["centre"][:3] = torch.eye(DIM, dtype=torch.float64)[:3]
    rows["centre"][3:] = torch.eye(DIM, dtype=torch.float64)[[2, 0, 1]] * 3
    rows["centre"] += 0.01
    result = edit(rows, [(0, 1)], sub_centres=3)
    pairs = [(0, 4), (1, 5), (2, 3)]
    for place, (own, other) in enumerate(pairs):
        torch.testing.assert_close(
            result["momentum"][place], rows["momentum"][[own, other]].mean(0)
        )
        # 2 is the mean of the lengths 1 and 3; 0.05 for the 0.01 added to every column.
        assert abs(result["centre"][place].norm().item() - 2) < 0.05
        assert cosine_similarity(result["centre"][place], rows["centre"][own], dim=0) > 0.99


def test_copies_of_a_split_class_part_a_little_and_keep_their_optimizer_rows():
    rows = draw_rows(3, dtype=torch.bfloat16)
    result = edit(rows, [(1,), (0,), (1,), (1, 2)])
    copies = result["centre"][[0, 2]].double()
    own = rows["centre"][1].double()
    assert not torch.equal(copies[0], copies[1])
    # Each is moved by PARTING of its length, then rounded by at most 2^-9 of each value.
    for copy in copies:
        moved = (copy - own).norm() / own.norm()
        assert PARTING - 2**-9 < moved < PARTING + 2**-9
    assert torch.equal(result["centre"][1], rows["centre"][0])
    for name in WIDTHS:
        assert torch.equal(result[name][0], rows[name][1])
        assert torch.equal(result[name][2], rows[name][1])


def test_two_classes_merged_of_the_same_sources_part_too():
    result = edit(draw_rows(2), [(0, 1), (0, 1)])
    assert not torch.equal(result["centre"][0], result["centre"][1])


def test_a_new_identity_starts_as_a_new_head_would_start_it():
    rows = draw_rows(4)
    result = edit(rows, [(), (0,), (), ()], sub_centres=1)
    start = initial_rows(0, 4, embedding_dim=DIM, seed=SEED, device=torch.device("cpu"))
    assert torch.equal(result["centre"][[0, 2, 3]], start[[0, 2, 3]])
    for name in WIDTHS:
        assert not result[name][[0, 2, 3]].any()


def test_opposite_centres_merge_into_a_new_identitys_row():
    rows = draw_rows(2)
    rows["centre"][0] = torch.eye(DIM)[0]
    rows["centre"][1] = -rows["centre"][0]
    result = edit(rows, [(0, 1)])
    start = initial_rows(0, 1, embedding_dim=DIM, seed=SEED, device=torch.device("cpu"))
    assert torch.equal(result["centre"], start)


@pytest.mark.parametrize("sub_centres", [1, 2])
def test_a_new_identity_points_at_the_mean_of_its_embeddings(sub_centres):
    rows = draw_rows(4)
    sources = [(), (0,), (), ()]
    identities = IdentityMap.of(sources, num_old=4 // sub_centres)
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(40, DIM, generator=generator)
    label = torch.randint(3, (40,), generator=generator)  # none of class 3
    stream = zip(embedding.split(7), label.split(7), strict=True)
    means = mean_embeddings(stream, classes=identities.fresh, embedding_dim=DIM)
    result = edit(rows, sources, sub_centres=sub_centres, means=means)["centre"]
    start = initial_rows(
        0, 4 * sub_centres, embedding_dim=DIM, seed=SEED, device=torch.device("cpu")
    )
    for c in (0, 2):
        mean = normalize(embedding[label == c].double(), dim=1).sum(0)
        expected = (normalize(mean, dim=0) * 0.01 * DIM**0.5).float()
        # float64 sums in another order, rounded to float32: assert_close's defaults.
        torch.testing.assert_close(result[c * sub_centres], expected)
        rest = slice(c * sub_centres + 1, (c + 1) * sub_centres)
        assert torch.equal(result[rest], start[rest])
    assert torch.equal(result[3 * sub_centres :], start[3 * sub_centres :])


def test_a_plain_softmaxs_bias_is_kept_averaged_or_zero_and_turns_no_direction():
    rows = draw_rows(4, dtype=torch.float64)
    bias = torch.tensor([[1.0], [20.0], [3.0], [4.0]], dtype=torch.float64)
    wide = {**rows, "centre": torch.cat([rows["centre"], bias], 1)}
    sources = [(1,), (0, 2), (), (3,), (3,)]
    plain, result = edit(rows, sources), edit(wide, sources)
    assert torch.equal(result["centre"][:, :DIM], plain["centre"])
    assert result["centre"][:, DIM].tolist() == [20.0, 2.0, 0.0, 4.0, 4.0]


def test_the_rows_load_into_a_head_of_the_new_size():
    rows = draw_rows(8)
    sources = [(7,), (), (0, 5), (3,), (3,), (1,)]
    identities = IdentityMap.of(sources, num_old=8)
    expected = edit(rows, sources)
    for start, stop in ((0, 2), (2, 4), (4, 6)):
        part = Rows(
            start,
            stop,
            embedding_dim=DIM,
            state_widths=WIDTHS,
            seed=0,
            device=torch.device("cpu"),
            dtype=torch.float32,
            state_dtype=torch.float32,
        )
        part.fill(edited(lambda: cut(rows, [3, 6], 1), identities, embedding_dim=DIM, seed=SEED))
        assert torch.equal(part.centre, expected["centre"][start:stop])
        for name in WIDTHS:
            assert torch.equal(part.state[name], expected[name][start:stop])


def test_what_is_held_is_a_block_and_a_window_whatever_the_size_of_the_table():
    num_old, block, window = 10_000, 500, 100
    given, alive, passes = [], [], []

    def blocks():
        passes.append(None)
        for first in range(0, num_old, block):
            centre = torch.ones(block, DIM)
            given.append(weakref.ref(centre))
            yield first, {"centre": centre}

    sources = [(c,) for c in range(num_old - 1000)]
    sources += [(c, c + 500) for c in range(num_old - 1000, num_old - 500)]
    identities = IdentityMap.of(sources, num_old=num_old)
    for _, tensors in edited(blocks, identities, embedding_dim=DIM, seed=0, window_rows=window):
        assert len(tensors["centre"]) <= block
        alive.append(sum(centre() is not None for centre in given))
    assert len(passes) == 1000 // window
    assert max(alive) <= 2  # the one at hand, and the one before until the next is there


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([(0, 3), (5, 9)], r"no block holds rows \[3, 5\); pass every block"),
        ([], r"no block holds rows \[0, 9\)"),
        ([(0, 9), (9, 10)], r"a block holds rows \[9, 10\), .* of 9: 3 classes with 3 rows each"),
    ],
)
def test_blocks_that_are_not_the_maps_rows_are_refused(blocks, message):
    rows = draw_rows(10)
    given = [(a, {name: t[a:b] for name, t in rows.items()}) for a, b in blocks]
    identities = IdentityMap.of([(0,), ()], num_old=3)
    with pytest.raises(ValueError, match=message):
        list(edited(lambda: given, identities, embedding_dim=DIM, seed=0, sub_centres=3))


def test_no_new_identity_has_no_means():
    stream = [(torch.ones(2, DIM), torch.tensor([0, 1]))]
    means = mean_embeddings(stream, classes=torch.tensor([], dtype=torch.int64), embedding_dim=DIM)
    assert means.direction.shape == (0, DIM)
    rows = draw_rows(2)
    assert torch.equal(edit(rows, [(0,), (1,)], means=means)["centre"], rows["centre"])


def test_arguments_that_do_not_fit_are_refused_at_once():
    identities = IdentityMap.of([(0,)], num_old=3)
    with pytest.raises(ValueError, match="sub_centres 0; use at least 1"):
        edited(list, identities, embedding_dim=DIM, seed=0, sub_centres=0)
    with pytest.raises(ValueError, match="image_counts has 2 entries; pass one for each of the 3"):
        edited(
            list,
            identities,
            embedding_dim=DIM,
            seed=0,
            image_counts=torch.ones(2, dtype=torch.int64),
        )
    means = mean_embeddings([], classes=torch.tensor([1]), embedding_dim=DIM + 1)
    with pytest.raises(ValueError, match="means have 7 columns; pass those of 6-wide embeddings"):
        edited(list, identities, embedding_dim=DIM, seed=0, means=means)
