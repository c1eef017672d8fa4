"""Pairs of classes that are alike, found over all ranks, against every pair in one process."""

import csv

import pytest
import torch
from torch.nn.functional import normalize

from tests.ranks import RankError
from tests.sharded_fc.table import draw_centres, own_rows


def suggest(path, centre, options, dtype=torch.float64, block=None):
    from sharded_fc import suggestions

    sub_centres = options.get("sub_centres", 1)
    rows, ranks = own_rows(centre, sub_centres=sub_centres, dtype=dtype)
    kept = suggestions._BLOCK_CLASSES
    suggestions._BLOCK_CLASSES = block or kept
    try:
        found = suggestions.merge_suggestions(
            path, rows=rows, ranks=ranks, **{"embedding_dim": centre.shape[1], **options}
        )
    finally:
        suggestions._BLOCK_CLASSES = kept
    return found.found, found.written, found.dropped


def read(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class_a", "class_b", "cosine"]
    return [(int(a), int(b), cosine) for a, b, cosine in rows]


def dense(centre, threshold, *, sub_centres=1):
    """Every pair, the most alike first, then the lower classes."""
    unit = normalize(centre, dim=1)
    num_classes = len(centre) // sub_centres
    cosine = (unit @ unit.t()).view(num_classes, sub_centres, num_classes, sub_centres)
    cosine = cosine.amax((1, 3)).tolist()
    pairs = [(a, b, cosine[a][b]) for b in range(num_classes) for a in range(b)]
    kept = sorted((pair for pair in pairs if pair[2] > threshold), key=lambda p: (-p[2], p[:2]))
    return [(a, b, f"{value:.6f}") for a, b, value in kept]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (3, 8), (100, None)])
def test_every_pair_above_the_threshold_is_found_once(ranks, tmp_path, world, chunk, block):
    centre = draw_centres(13, 3)
    path = tmp_path / "pairs.csv"
    options = {"threshold": 0.3, "chunk_classes": chunk}
    results = ranks(world).run(suggest, path, centre, options, torch.float64, block)
    expected = dense(centre, 0.3)
    assert read(path) == expected
    assert results == [(len(expected), len(expected), 0)] * world


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 7, 30])
def test_the_most_alike_are_kept_and_the_dropped_counted(ranks, tmp_path, world, most):
    centre = draw_centres(13, 3)
    path = tmp_path / "pairs.csv"
    options = {"threshold": -1.0, "most": most, "chunk_classes": 2}
    results = ranks(world).run(suggest, path, centre, options, torch.float64, 4)
    assert read(path) == dense(centre, -1.0)[:most]
    assert results == [(78, most, 78 - most)] * world  # 13 * 12 / 2


@pytest.mark.parametrize("world", [1, 3])
def test_of_equal_cosines_the_lower_classes_come_first_also_where_pairs_are_dropped(
    ranks, tmp_path, world
):
    centre = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1, 0, 1, 0]]
    path = tmp_path / "pairs.csv"
    options = {"threshold": 0.5, "most": 5, "chunk_classes": 2}
    results = ranks(world).run(suggest, path, centre, options, torch.float64, 3)
    assert [pair[:2] for pair in read(path)] == [(0, 2), (0, 4), (0, 6), (1, 3), (1, 5)]
    assert results == [(9, 5, 4)] * world


@pytest.mark.parametrize("world", [1, 2, 3])
def test_sub_centres_of_two_classes_are_as_alike_as_their_most_alike(ranks, tmp_path, world):
    centre = draw_centres(14, 3)
    path = tmp_path / "pairs.csv"
    options = {"threshold": 0.5, "sub_centres": 2, "chunk_classes": 3}
    ranks(world).run(suggest, path, centre, options, torch.float64, 4)
    assert read(path) == dense(centre, 0.5, sub_centres=2)


def test_no_pair_leaves_a_file_with_its_header_alone(ranks, tmp_path):
    path = tmp_path / "pairs.csv"
    results = ranks(2).run(suggest, path, torch.eye(4).double(), {"threshold": 0.5})
    assert read(path) == []
    assert results == [(0, 0, 0)] * 2


def test_two_byte_rows_are_compared_in_float32_and_without_the_bias(ranks, tmp_path):
    centre = draw_centres(13, 4)
    path = tmp_path / "pairs.csv"
    options = {"threshold": 0.9, "embedding_dim": 3}
    ranks(2).run(suggest, path, centre, options, torch.bfloat16)
    found, expected = read(path), dense(centre.bfloat16().double()[:, :3], 0.9)
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    for ours, exact in zip(found, expected, strict=True):
        # float32 products of unit rows, printed to six digits.
        assert abs(float(ours[2]) - float(exact[2])) < 2e-6


def test_a_file_that_cannot_be_written_is_an_error_on_every_rank(ranks, tmp_path):
    path = tmp_path / "none" / "pairs.csv"
    with pytest.raises(RankError, match="No such file") as error:
        ranks(2).run(suggest, path, draw_centres(5, 3), {"threshold": 0.5})
    assert "rank 0 could not write its part" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, r"threshold 1.0; use a cosine in \[-1, 1\)"),
        ({"threshold": 0.5, "most": 0}, "most 0; keep at least 1 pair"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        suggest(tmp_path / "pairs.csv", draw_centres(5, 3), options)
