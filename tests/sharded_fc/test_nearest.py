"""The nearest classes of all ranks, against a dense search in one process."""

import pytest
import torch
from torch.nn.functional import normalize

from tests.sharded_fc.table import draw_centres, own_rows

DIM = 6


def search(centre, embeddings, k, options, dtype=torch.float64):
    from sharded_fc.nearest import nearest

    rows, ranks = own_rows(centre, sub_centres=options.get("sub_centres", 1), dtype=dtype)
    found = nearest(embeddings[ranks.rank], k=k, rows=rows, ranks=ranks, **options)
    return found.label, found.cosine


def dense(centre, embedding, k, *, sub_centres=1):
    """Every cosine, sorted: the lower class first of equals."""
    cosine = normalize(embedding, dim=1) @ normalize(centre, dim=1).t()
    cosine = cosine.unflatten(1, (len(centre) // sub_centres, sub_centres)).amax(2)
    value, label = cosine.sort(dim=1, descending=True, stable=True)
    return label[:, :k], value[:, :k]


def draw_embeddings(counts, *, dim=DIM):
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(sum(counts), dim, generator=generator, dtype=torch.float64)
    return list(drawn.split(counts))


def compare(results, embeddings, centre, k, **options):
    for (label, cosine), embedding in zip(results, embeddings, strict=True):
        expected_label, expected_cosine = dense(centre, embedding, k, **options)
        assert torch.equal(label, expected_label)
        # The same float64 sums in another order: assert_close's defaults.
        torch.testing.assert_close(cosine, expected_cosine)


@pytest.mark.parametrize("counts", [[4], [3, 0], [0, 5, 2], [0, 0, 0]])
@pytest.mark.parametrize(("k", "chunk"), [(1, 1), (3, 2), (11, 4), (5, 100)])
def test_every_rank_gets_its_own_embeddings_nearest_classes(ranks, counts, k, chunk):
    centre, embeddings = draw_centres(11, DIM), draw_embeddings(counts)
    results = ranks(len(counts)).run(search, centre, embeddings, k, {"chunk_classes": chunk})
    compare(results, embeddings, centre, k)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_class_is_as_near_as_its_nearest_sub_centre(ranks, world):
    centre, embeddings = draw_centres(21, DIM), draw_embeddings([4] * world)
    options = {"sub_centres": 3, "chunk_classes": 2}
    results = ranks(world).run(search, centre, embeddings, 4, options)
    compare(results, embeddings, centre, 4, sub_centres=3)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_of_equal_cosines_the_lower_class_comes_first(ranks, world, k):
    # Axes times powers of two: every cosine is 0 or 1 to the bit.
    axis = torch.tensor([0, 1, 0, 1, 1, 0, 2, 1, 0])
    centre = torch.eye(3, dtype=torch.float64)[axis] * 2.0 ** (axis - 1).unsqueeze(1)
    embeddings = [torch.eye(3, dtype=torch.float64)] * world
    results = ranks(world).run(search, centre, embeddings, k, {"chunk_classes": 2})
    expected = [[c for c in range(9) if axis[c] == i] for i in range(3)]
    order = [same + [c for c in range(9) if c not in same] for same in expected]
    for label, cosine in results:
        assert label.tolist() == [row[:k] for row in order]
        assert cosine.tolist() == [
            [float(axis[c] == i) for c in row[:k]] for i, row in enumerate(order)
        ]


def test_more_embeddings_than_meet_at_once_go_in_turns(ranks):
    centre, embeddings = draw_centres(7, DIM), draw_embeddings([4500, 10])
    results = ranks(2).run(search, centre, embeddings, 2, {})
    compare(results, embeddings, centre, 2)


def test_two_byte_rows_are_compared_in_float32(ranks):
    centre, embeddings = draw_centres(50, DIM), draw_embeddings([8, 8])
    stored = centre.bfloat16().double()
    results = ranks(2).run(search, centre, embeddings, 3, {}, torch.bfloat16)
    for (label, cosine), embedding in zip(results, embeddings, strict=True):
        expected_label, expected_cosine = dense(stored, embedding, 3)
        assert cosine.dtype == torch.float32
        # float32's assert_close defaults are far below bfloat16's 4e-3.
        torch.testing.assert_close(cosine, expected_cosine.float())
        assert torch.equal(label, expected_label)


def test_autocast_around_the_search_does_not_make_it_coarse():
    centre, embeddings = draw_centres(50, DIM), draw_embeddings([8])
    exact = search(centre, embeddings, 3, {}, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = search(centre, embeddings, 3, {}, torch.float32)
    assert torch.equal(inside[1], exact[1])


def test_zeros_have_cosine_0_and_what_is_not_finite_minus_2():
    centre = torch.eye(3, dtype=torch.float64)
    centre[1] = 0
    centre[2, 0] = torch.nan
    embedding = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [torch.inf, 0, 0]], dtype=torch.float64)
    label, cosine = search(centre, [embedding], 3, {})
    assert label.tolist() == [[1, 0, 2], [0, 1, 2], [0, 1, 2]]
    assert cosine.tolist() == [[0, -1, -2], [0, 0, -2], [-2, -2, -2]]


def refused(centre, embeddings, ks):
    from torch.distributed import get_rank

    with pytest.raises(ValueError, match="k") as error:
        search(centre, embeddings, ks[get_rank()], {})
    return str(error.value)


@pytest.mark.parametrize(
    ("ks", "message"),
    [
        ([1, 2], r"ranks pass embeddings of widths [6, 6] and k [1, 2]; pass the same"),
        ([6, 6], "k 6 of 5 classes; use 1 to 5"),
        ([0, 0], "k 0 of 5 classes; use 1 to 5"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_on_every_rank(ranks, ks, message):
    messages = ranks(2).run(refused, draw_centres(5, DIM), draw_embeddings([2, 2]), ks)
    assert messages == [message, message]


def test_embeddings_of_another_width_are_refused_and_a_bias_is_not_compared():
    centre, (embedding,) = draw_centres(5, DIM), draw_embeddings([3])
    with pytest.raises(ValueError, match="embeddings have 4 columns, the centres 6; pass embed"):
        search(centre, [embedding[:, :4]], 1, {})
    results = [search(centre, [embedding[:, :5]], 2, {})]
    compare(results, [embedding[:, :5]], centre[:, :5], 2)
